"""The streaming route: causal attention a piece at a time, in memory that does not grow with what was read.

The state holds the last `radius` keys and values, which the near band still weighs one by one, and for each term of the
tail one sum over all keys before them. Only differences of positions count, so every entry of a batch may start at any
time, from zeros. A new sequence may also start at any place within a piece: queries from there on see neither the state
nor what the piece holds before it, and the state keeps what belongs to the last sequence alone.
"""

from keras import ops

from .numerics import append_one, at_least_float32, divide, hide_keys, toeplitz_rows

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


def stream(query_features, key_features, value, position_bias, state, key_mask=None, starts=None):
    """Read n more positions.

    Range: sums of a tail that does not decay round by up to 6e-8 for each position read.

    Args:
        query_features, key_features: (batch, heads, n, m), n known and at least 1.
        value: (batch, heads, n, d).
        position_bias: a bias with a near band and tails.
        state: from `initial_state`, or from the previous call.
        key_mask: None, or (batch, n), zero where a key is hidden; a hidden position still counts as one.
        starts: None, or bool (batch, n), true where a new sequence starts.

    Returns:
        (batch, heads, n, d), and the new state.
    """
    query, key, value = at_least_float32(query_features), at_least_float32(key_features), at_least_float32(value)
    key, value = hide_keys(key, value, key_mask)
    value = append_one(value)
    state = {name: ops.cast(x, value.dtype) for name, x in state.items()}
    n = query.shape[2]
    piece = SMALLEST_PIECE
    while piece < position_bias.radius:
        piece *= 2
    arrays = [query, key, value]
    if starts is not None:
        arrays.append(ops.cast(starts, "int32")[:, None, :, None])
    pieces, outputs = n // piece, []
    if pieces > 1:
        parts = [_split(x[:, :, : pieces * piece], pieces, piece) for x in arrays]
        sums = ops.zeros_like(parts[2][0])

        def read(carry, arrays):
            sums, state = _read(position_bias, carry[1], *arrays)
            # On TensorFlow a Keras scan returns only values shaped as its carry.
            return (sums, state), (sums, state)

        (_, state), (sums, _) = ops.scan(read, (sums, state), parts)
        outputs.append(_join(sums))
    else:
        pieces = 0
    if pieces * piece < n:
        sums, state = _read(position_bias, state, *(x[:, :, pieces * piece :] for x in arrays))
        outputs.append(sums)
    return divide(ops.concatenate(outputs, axis=2) if len(outputs) > 1 else outputs[0]), state


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


def _read(position_bias, state, query, key, value, starts=None):
    """Return the sums for n positions that meet one another directly, and the state after them.

    Args:
        starts: None, or integers (batch, 1, n, 1), 1 where a new sequence starts.
    """
    radius, n, m = position_bias.radius, query.shape[2], query.shape[3]
    keys = ops.concatenate([state["keys"], key], axis=2)
    values = ops.concatenate([state["values"], value], axis=2)
    sums = state["sums"]
    log_amplitudes, rates = (ops.cast(part[0], value.dtype) for part in position_bias.tails())
    near = ops.cast(position_bias.near_table()[:, :radius], value.dtype)
    # Tails only fall, so these are the candidates for the head's largest weight, at any length.
    largest = ops.maximum(ops.max(near, axis=-1), ops.logsumexp(log_amplitudes, axis=-1))[:, None]
    largest = ops.stop_gradient(largest)

    # The keys in the window and the new ones, one by one; the first of them is `radius` before the first query.
    offsets = ops.arange(radius + 2 * n - 1) - (radius + n - 1)
    log_weights = ops.cast(position_bias.log_weights(offsets), value.dtype) - largest
    weights = ops.where(offsets <= 0, ops.exp(ops.where(offsets <= 0, log_weights, 0)), 0)
    weights = toeplitz_rows(weights, n, radius + n)
    seeing, last_keys, last_values, last_sums = query, keys, values, sums
    if starts is not None:
        # What the state holds is of sequence 0; those that start here are 1, 2, ...
        own = ops.cumsum(starts, axis=2)
        met = ops.pad(own, [[0, 0], [0, 0], [radius, 0], [0, 0]])
        weights = ops.where(own == ops.swapaxes(met, -1, -2), weights, 0)
        seeing = ops.where(own == 0, query, 0)
        end = own[:, :, n - 1 :]
        last_keys, last_values = ops.where(met == end, keys, 0), ops.where(met == end, values, 0)
        last_sums = ops.where(end == 0, sums, 0)
    similarity = ops.matmul(query, ops.swapaxes(keys, -1, -2))
    output = ops.matmul(similarity * weights, values)

    # The keys before them, through the sums.
    place = ops.cast(ops.arange(n), value.dtype)[:, None]
    decay = ops.exp(log_amplitudes[:, None] - largest[:, None] - rates[:, None] * (place + 1))
    output = output + ops.matmul(_each_term(seeing, decay), sums)

    # The first n of window and new keys leave the window.
    kept = ops.repeat(ops.exp(-rates * n), m, axis=-1)[..., None]
    leaving = _each_term(last_keys[:, :, :n], ops.exp(-rates[:, None] * (n - 1 - place)))
    sums = last_sums * kept + ops.matmul(ops.swapaxes(leaving, -1, -2), last_values[:, :, :n])
    return output, {"keys": last_keys[:, :, n:], "values": last_values[:, :, n:], "sums": sums}


def _each_term(features, decay):
    """Repeat features (batch, heads, n, m) for each term, with its decay (heads, n, terms): (..., terms * m)."""
    m, terms = features.shape[-1], decay.shape[-1]
    return ops.tile(features, (1, 1, 1, terms)) * ops.repeat(decay, m, axis=-1)


def _split(x, pieces, piece):
    """Reshape (batch, heads, pieces * piece, width) to (pieces, batch, heads, piece, width)."""
    heads, width = x.shape[1], x.shape[3]
    return ops.transpose(ops.reshape(x, (-1, heads, pieces, piece, width)), (2, 0, 1, 3, 4))


def _join(x):
    """Undo `_split`."""
    pieces, _, heads, piece, width = x.shape
    return ops.reshape(ops.transpose(x, (1, 2, 0, 3, 4)), (-1, heads, pieces * piece, width))
