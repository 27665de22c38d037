"""The streaming route: causal attention a piece at a time, in memory that does not grow with what was read.

The state holds the last `radius` keys and values, which the near band still weighs one by one, and for each term of the
tail one sum over all keys before them. Only differences of positions count, so every entry of a batch may start at any
time, from zeros, and may read fewer positions than others in one call. A new sequence may also start at any place
within a piece: queries from there on see neither the state nor what the piece holds before it, and the state keeps what
belongs to the last sequence alone.
"""

from typing import NamedTuple

from keras import ops

from .numerics import TINY, at_least_float32, divide, hide_keys, toeplitz_rows
from .overrides import active_overrides

# Positions that meet one another directly; longer inputs are read a piece at a time.
SMALLEST_PIECE = 64


def initial_state(position_bias, batch_size: int, m: int, d: int) -> dict:
    """Return the state of streams that have read nothing: zeros.

    Args:
        position_bias: a bias with a near band and tails.
        batch_size: number of streams.
        m, d: widths of features and values.

    Returns:
        "keys" (batch, heads, radius, m), "values" (batch, heads, radius, d + 1), and "sums", the tail's sums of
        phi(k)^T [v, 1], (batch, heads, terms * m, d + 1).
    """
    heads, radius = position_bias.num_heads, position_bias.radius
    terms = position_bias.tails()[0].shape[-1]
    return {
        "keys": ops.zeros((batch_size, heads, radius, m), "float32"),
        "values": ops.zeros((batch_size, heads, radius, d + 1), "float32"),
        "sums": ops.zeros((batch_size, heads, terms * m, d + 1), "float32"),
    }


# Long: a piece, and all that may be said of its positions.
def stream(
    query_features,
    key_features,
    value,
    position_bias,
    state,
    key_mask=None,
    starts=None,
    count=None,
    positive=False,
):
    """Read n more positions.

    Range: sums of a tail that does not decay round by up to 6e-8 for each position read.

    Args:
        query_features, key_features: (batch, heads, n, m), n known and at least 1.
        value: (batch, heads, n, d).
        position_bias: a bias with a near band and tails.
        state: from `initial_state`, or from the previous call.
        key_mask: None, or (batch, n), zero where a key is hidden; a hidden position still counts as one.
        starts: None, or bool (batch, n), true where a new sequence starts.
        count: None, or integers () or (batch,): only so many first positions are read, and what follows them means
            nothing. Not together with `starts`.
        positive: whether features are known to be positive: no denominator then needs a look at its sign.

    Returns:
        (batch, heads, n, d), and the new state.
    """
    query, key, value = at_least_float32(query_features), at_least_float32(key_features), at_least_float32(value)
    key, value = hide_keys(key, value, key_mask)
    # Not padded: that is an op which XNNPACK leaves to LiteRT's slower kernels.
    value = ops.concatenate([value, ops.ones_like(value[..., :1])], axis=-1)
    state = {name: ops.cast(x, value.dtype) for name, x in state.items()}
    n = query.shape[2]
    piece = SMALLEST_PIECE
    while piece < position_bias.radius:
        piece *= 2
    arrays = [query, key, value]
    if starts is not None:
        arrays.append(ops.cast(starts, "int32")[:, None, :, None])
    whole, begin, outputs = n // piece, 0, []
    constant = active_overrides().evaluate is not None
    if whole > 1 and not constant:
        begin = whole * piece
        parts = [_split(x[:, :, :begin], whole, piece) for x in arrays]
        if count is not None:
            parts.append(ops.stack([ops.clip(count - i * piece, 0, piece) for i in range(whole)]))

        def read(carry, parts):
            counted = {} if count is None else {"count": parts[-1]}
            sums, state = _read(position_bias, carry[1], *parts[: len(arrays)], **counted)
            # On TensorFlow a Keras scan returns only values shaped as its carry.
            return (sums, state), (sums, state)

        (_, state), (sums, _) = ops.scan(read, (ops.zeros_like(parts[2][0]), state), parts)
        outputs.append(_join(sums))
    # The rest at once, or all of it piece by piece.
    size = piece if constant else n
    for start in range(begin, n, size):
        part = [x[:, :, start : start + size] for x in arrays]
        left = None if count is None else ops.clip(count - start, 0, part[0].shape[2])
        sums, state = _read(position_bias, state, *part, count=left)
        outputs.append(sums)
    sums = ops.concatenate(outputs, axis=2) if len(outputs) > 1 else outputs[0]
    if positive:
        return sums[..., :-1] / (sums[..., -1:] + TINY), state
    return divide(sums), state


def streaming_attention(query_features, key_features, value, position_bias, *, causal, key_mask, segments=None):
    """Compute causal attention over a whole sequence, read a piece at a time from an empty state, at O(n) time.

    For decoding. Train with "banded": it is faster, and on TensorFlow XLA compiles its gradient, but not that of the
    loop over several pieces here.

    Range: as `stream`, and a row whose visible keys all have weights below about exp(-70) of the head's largest becomes
    zeros.

    Args and returns: as `toeplitz_attention`; `causal` must hold, and queries and keys be the same positions.
    `segments`: None, or from `number_segments`.
    """
    state = initial_state(position_bias, ops.shape(value)[0], key_features.shape[-1], value.shape[-1])
    starts = None
    if segments is not None:
        starts = ops.pad(segments[:, 1:] != segments[:, :-1], [[0, 0], [1, 0]])
    return stream(query_features, key_features, value, position_bias, state, key_mask, starts)[0]


class _Weights(NamedTuple):
    """What a bias gives for pieces of n positions.

    Attributes: `near`, (heads, n, radius + n), of the keys in the window and the new ones, one by one; `far`, (heads,
    n, terms), of the sums for each query; `leaving`, (heads, n, terms), of the first n keys, which leave the window,
    when they join the sums; `kept`, (heads, terms * m, 1), of the sums in the sums after them; `rates`, (heads, terms).
    """

    near: object
    far: object
    leaving: object
    kept: object
    rates: object


def _weights(position_bias, n: int, m: int, dtype: str) -> _Weights:
    radius = position_bias.radius
    log_amplitudes, rates = (ops.cast(part[0], dtype) for part in position_bias.tails())
    near = ops.cast(position_bias.near_table()[:, :radius], dtype)
    # Tails only fall, so these are the candidates for the head's largest weight, at any length.
    largest = ops.maximum(ops.max(near, axis=-1), ops.logsumexp(log_amplitudes, axis=-1))[:, None]
    largest = ops.stop_gradient(largest)
    # The first key is `radius` before the first query.
    offsets = ops.arange(radius + 2 * n - 1) - (radius + n - 1)
    log_weights = ops.cast(position_bias.log_weights(offsets), dtype) - largest
    weights = ops.where(offsets <= 0, ops.exp(ops.where(offsets <= 0, log_weights, 0)), 0)
    place = ops.cast(ops.arange(n), dtype)[:, None]
    return _Weights(
        near=toeplitz_rows(weights, n, radius + n),
        far=ops.exp(log_amplitudes[:, None] - largest[:, None] - rates[:, None] * (place + 1)),
        leaving=ops.exp(-rates[:, None] * (n - 1 - place)),
        kept=ops.repeat(ops.exp(-rates * n), m, axis=-1)[..., None],
        rates=rates,
    )


def _read(position_bias, state, query, key, value, starts=None, count=None):
    """Return the sums for n positions that meet one another directly, and the state after them.

    Args:
        starts: None, or integers (batch, 1, n, 1), 1 where a new sequence starts.
        count: None, or integers () or (batch,), from 0 to n: how many first positions there are.
    """
    radius, n, m = position_bias.radius, query.shape[2], query.shape[3]
    evaluate = active_overrides().evaluate or (lambda compute: compute())
    weights = evaluate(lambda: _weights(position_bias, n, m, value.dtype))
    keys = ops.concatenate([state["keys"], key], axis=2)
    values = ops.concatenate([state["values"], value], axis=2)
    near, seeing, last_keys, last_values, last_sums = weights.near, query, keys, values, state["sums"]
    if starts is not None:
        # What the state holds is of sequence 0; those that start here are 1, 2, ...
        own = ops.cumsum(starts, axis=2)
        met = ops.pad(own, [[0, 0], [0, 0], [radius, 0], [0, 0]])
        near = ops.where(own == ops.swapaxes(met, -1, -2), near, 0)
        seeing = ops.where(own == 0, query, 0)
        end = own[:, :, n - 1 :]
        last_keys, last_values = ops.where(met == end, keys, 0), ops.where(met == end, values, 0)
        last_sums = ops.where(end == 0, last_sums, 0)
    similarity = ops.matmul(query, ops.swapaxes(keys, -1, -2))
    output = ops.matmul(similarity * near, values) + ops.matmul(_each_term(seeing, weights.far), state["sums"])

    leaving, kept = weights.leaving, weights.kept
    if count is not None:
        leaving, kept = _decays(weights.rates, count, n, m, value.dtype)
    left = ops.matmul(ops.swapaxes(_each_term(last_keys[:, :, :n], leaving), -1, -2), last_values[:, :, :n])
    state = {
        "keys": window(last_keys, n if count is None else count, radius),
        "values": window(last_values, n if count is None else count, radius),
        "sums": last_sums * kept + left,
    }
    return output, state


def _decays(rates, count, n: int, m: int, dtype: str):
    """Return `leaving` and `kept` of `_Weights` where only `count` keys leave the window: (batch or 1, ...) of each."""
    count = ops.reshape(ops.cast(count, dtype), (-1, 1, 1, 1))
    age = count - 1 - ops.cast(ops.arange(n), dtype)[:, None]
    leaving = ops.where(age >= 0, ops.exp(-rates[:, None] * ops.maximum(age, 0)), 0)
    return leaving, ops.exp(-ops.repeat(rates, m, axis=-1)[..., None] * count)


def window(x, start, radius: int):
    """Return the `radius` positions of (batch, heads, length, width) from `start` on, an int, () or (batch,)."""
    if isinstance(start, int):
        return x[:, :, start:]
    if not len(start.shape):
        batch, heads, _, width = ops.shape(x)
        return ops.slice(x, (0, 0, start, 0), (batch, heads, radius, width))
    places = ops.cast(start, "int32")[:, None, None, None] + ops.arange(radius, dtype="int32")[:, None]
    return ops.take_along_axis(x, places, axis=2)


def _each_term(features, decay):
    """Repeat features (batch, heads, n, m) for each term, with its decay (heads, n, terms): (..., terms * m)."""
    parts = [features * decay[..., term : term + 1] for term in range(decay.shape[-1])]
    return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def _split(x, pieces, piece):
    """Reshape (batch, heads, pieces * piece, width) to (pieces, batch, heads, piece, width)."""
    heads, width = x.shape[1], x.shape[3]
    return ops.transpose(ops.reshape(x, (-1, heads, pieces, piece, width)), (2, 0, 1, 3, 4))


def _join(x):
    """Undo `_split`."""
    pieces, _, heads, piece, width = x.shape
    return ops.reshape(ops.transpose(x, (1, 2, 0, 3, 4)), (-1, heads, pieces * piece, width))
