"""The dense route: every pair of positions, a block of queries at a time. It defines what the other routes compute."""

import functools

import keras
from keras import ops

from ..position_bias import NoBias
from .numerics import at_least_float32, fold_heads, hide_keys, safe_inverse, toeplitz_rows

BLOCK = 512
# Causal queries are computed in so many parts, and each meets the keys up to its end: 5/8 of all pairs.
CAUSAL_PARTS = 4


# Long: what hides a key from a query, in each of its ways.
def dense_attention(
    query_features,
    key_features,
    value,
    position_bias,
    *,
    causal,
    key_mask,
    pair_mask=None,
    prefix_length=None,
    segments=None,
    exact_kernel=False,
    scores=False,
):
    """Compute attention by definition (Eq. 10), at O(n_q n_k) time and O(block n_k) memory.

    Each row subtracts the maximum over its visible keys, so that a visible key counts however small its weight is
    against keys that the row cannot see.

    Args:
        query_features: (batch, heads, n_q, m).
        key_features: (batch, heads, n_k, m).
        value: (batch, heads, n_k, d).
        position_bias: None, or a bias with `log_weights`.
        causal: whether a query sees no key after it.
        key_mask: None, or (batch, n_k), false where a key is hidden.
        pair_mask: None, or bool (batch or 1, heads or 1, n_q, n_k), false where a key is hidden from a query.
        prefix_length: None, or how many first keys every query sees in spite of `causal`.
        segments: None, or from `number_segments`: the document of each position, of queries and keys alike.
        exact_kernel: whether the kernel is exp(q . k), that of softmax attention, in place of q . k.
        scores: whether to return the weights too, computed in one block.

    Returns:
        (batch, heads, n_q, d), and with `scores` the normalised weights (batch, heads, n_q, n_k).
    """
    query, key, value = at_least_float32(query_features), at_least_float32(key_features), at_least_float32(value)
    key, value = hide_keys(key, value, key_mask)
    heads, n_q = ops.shape(query)[1:3]
    n_k = ops.shape(value)[2]
    position_bias = position_bias or NoBias(heads)
    static = isinstance(n_q, int) and isinstance(n_k, int)
    options = {"causal": causal, "prefix_length": prefix_length, "segments": segments}
    visible = functools.partial(visible_pairs, **options, pair_mask=pad_queries(pair_mask, BLOCK))
    attend = functools.partial(_attend_rows, position_bias=position_bias, exact_kernel=exact_kernel)
    if scores or (isinstance(n_q, int) and n_q <= BLOCK):
        return attend(query, key, value, functools.partial(visible, key_mask=key_mask), scores=scores)
    size = -(-n_q // (BLOCK * CAUSAL_PARTS)) * BLOCK if static and causal else n_q
    if not static or size >= n_q:
        return attend(query, key, value, functools.partial(visible, key_mask=key_mask), rows=BLOCK)
    parts = []
    for first in range(0, n_q, size):
        seen = min(n_k, max(first + size, prefix_length or 0))
        mask = None if key_mask is None else key_mask[:, :seen]
        arrays = query[:, :, first : first + size], key[:, :, :seen], value[:, :, :seen]
        parts.append(attend(*arrays, functools.partial(visible, key_mask=mask), place=first, rows=BLOCK))
    return ops.concatenate(parts, axis=2)


def _attend_rows(query, key, value, visible, *, position_bias, exact_kernel, place=0, rows=None, scores=False):
    """Compute attention of the queries from `place` on to keys from 0 on.

    Args:
        query, key, value, position_bias, exact_kernel, scores: as in `dense_attention`.
        visible: `visible_pairs` of the first query, a number of queries and the number of keys.
        place: position of the first query.
        rows: how many queries at a time; None for all at once.
    """
    heads, n_q = ops.shape(query)[1:3]
    n_k = ops.shape(value)[2]
    one_block = rows is None
    rows, blocks = (n_q, 1) if one_block else (rows, -(-n_q // rows))
    # The diagonals from the last row's first key to n_k - 1; a slice of them makes a block of the Toeplitz matrix.
    last = place + blocks * rows - 1
    diagonals = ops.cast(position_bias.log_weights(ops.arange(last + n_k - place) - last), value.dtype)

    def attend(query, first, key, value, diagonals):
        start = (blocks - 1) * rows - first
        bias = toeplitz_rows(ops.slice(diagonals, (0, start), (heads, rows + n_k - 1)), rows, n_k)
        return attend_pairs(query, key, value, bias, visible(place + first, rows, n_k), exact_kernel, scores)

    if one_block:
        return attend(query, 0, key, value, diagonals)
    return by_blocks(attend, query, rows, blocks, key, value, diagonals)


def attend_pairs(query, key, value, bias, visible, exact_kernel=False, scores=False):
    """Compute attention with a log-weight for each pair of positions.

    Args:
        bias: (heads, rows, n_k).
        visible: None, or bool that broadcasts to (batch, heads, rows, n_k).
        query, key, value, exact_kernel, scores: as in `dense_attention`.
    """
    similarity = ops.matmul(query, ops.swapaxes(key, -1, -2))
    if exact_kernel:
        weights = exp_from_row_maximum(similarity + bias[None], visible)
    else:
        weights = similarity * exp_from_row_maximum(bias[None], visible)
    inverse = safe_inverse(ops.sum(weights, axis=-1, keepdims=True))
    output = ops.matmul(weights, value) * inverse
    return (output, weights * inverse) if scores else output


def visible_pairs(first, rows, n_k, causal, prefix_length, key_mask, pair_mask=None, segments=None):
    """Return which keys queries `first` .. `first + rows - 1` see: None for all, or bool.

    `pair_mask` is from `pad_queries`, the other arguments as in `dense_attention`. The shape is (batch or 1, heads or
    1, rows or 1, n_k).
    """
    mask = None if key_mask is None else ops.cast(key_mask, "bool")[:, None, None, :]
    if pair_mask is not None:
        batch, heads = ops.shape(pair_mask)[:2]
        block = ops.slice(pair_mask, (0, 0, first, 0), (batch, heads, rows, n_k))
        mask = block if mask is None else ops.logical_and(block, mask)
    if segments is not None:
        # The last of several blocks of queries is padded.
        own = ops.slice(ops.pad(segments, [[0, 0], [0, rows]]), (0, first), (ops.shape(segments)[0], rows))
        same = (own[:, :, None] == segments[:, None, :n_k])[:, None]
        mask = same if mask is None else ops.logical_and(same, mask)
    if not causal:
        return mask
    position, key_position = first + ops.arange(rows)[:, None], ops.arange(n_k)
    past = key_position <= position
    if prefix_length is not None:
        past = ops.logical_or(past, key_position < prefix_length)
    return past[None, None] if mask is None else ops.logical_and(past, mask)


def pad_queries(pair_mask, rows):
    """Return the mask with its queries filled up to a multiple of `rows`, so that each block of them is a slice."""
    if pair_mask is None:
        return None
    return ops.pad(ops.cast(pair_mask, "bool"), [[0, 0], [0, 0], [0, -ops.shape(pair_mask)[2] % rows], [0, 0]])


def by_blocks(attend, query, rows, blocks, *shared):
    """Compute `attend(block, place of its first query, *shared)` for one block of `rows` queries after another.

    Args:
        attend: the function. `shared` must hold all that needs gradients: what `attend` closes over gets none on
            TensorFlow.
        query: (batch, heads, n_q, m).
        rows, blocks: queries in a block, and the number of blocks.
    """
    heads, n_q, m = ops.shape(query)[1:]
    padded = fold_heads(ops.pad(query, [[0, 0], [0, 0], [0, blocks * rows - n_q], [0, 0]]))
    padded = ops.transpose(ops.reshape(padded, (-1, blocks, rows, m)), (1, 0, 2, 3))

    def attend_block(block):
        query, first = block
        # The backward pass computes a block's weights again: keeping them would take n_q * n_k floats.
        again = keras.remat(lambda *arrays: attend(arrays[0], first, *arrays[1:]))
        return fold_heads(again(ops.reshape(query, (-1, heads, rows, m)), *shared))

    output = ops.map(attend_block, (padded, ops.arange(blocks) * rows))
    output = ops.transpose(output, (1, 0, 2, 3))
    return ops.reshape(output, (-1, heads, blocks * rows, output.shape[-1]))[:, :, :n_q]


def exp_from_row_maximum(logits, visible):
    """Return exp(logits - the row's visible maximum), zero where not visible."""
    if visible is None:
        return ops.exp(logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True)))
    # Finite in place of minus infinity: a row that sees nothing must give zeros, and gradients no NaN.
    hidden = ops.cast(-1e30, logits.dtype)
    logits = ops.where(visible, logits, hidden)
    maximum = ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))
    return ops.where(visible, ops.exp(logits - maximum), 0)
