"""The banded route: linear cost, matmuls only, all terms positive.

The sequence is cut into chunks. Queries meet the keys of their own chunk and of its two neighbours directly. All keys
further away lie in the exponential tails, where the weight of key j for query i factors over chunk borders,

    exp(-s (i - j - radius)) = exp(-s x) * exp(-s (gap - radius)) * exp(-s (C - 1 - y)),

x and y the places within their chunks, gap the distance from the last place of the key's chunk to the first of the
query's. Each factor is at most 1. So a chunk's keys reach all queries through one sum of m x (d + 1) numbers a term.
"""

import math

from keras import ops

from ._common import NoBias, append_one, divide, fold_heads, hide_keys, per_sequence, toeplitz_rows, wide

# One size for most lengths: the signatures of an exported file then share its constants.
SMALLEST_CHUNK = 64


def banded_attention(query_features, key_features, value, position_bias, *, causal, key_mask):
    """Attention for any bias of a near band and exponential tails, at O(n) time and memory for a fixed radius.

    Range: a row whose visible keys all have weights below about exp(-70) of the head's largest comes out as zeros.

    Args and returns: as `toeplitz_attention`.
    """
    query_features, key_features, value = wide(query_features), wide(key_features), wide(value)
    key_features, value = hide_keys(key_features, value, key_mask)
    batch, heads, n_q, m = ops.shape(query_features)
    n_k, d = ops.shape(value)[2:]
    if isinstance(position_bias, NoBias) and not causal:
        # All weights are one, and all keys reach every query through one sum: linear attention as it is known.
        state = ops.matmul(ops.swapaxes(key_features, -1, -2), append_one(value))
        return divide(ops.matmul(query_features, state))
    static = isinstance(n_q, int) and isinstance(n_k, int)
    n = max(n_q, n_k) if static else ops.maximum(n_q, n_k)
    log_amplitudes, rates = (ops.cast(part, value.dtype) for part in position_bias.tails())
    chunk = chunk_length(n if static else None, position_bias.radius, m, d, log_amplitudes.shape[-1])
    chunks = -(-n // chunk) if static else ops.maximum(-(-n // chunk), 1)

    def cut(x, length):
        x = fold_heads(ops.pad(x, [[0, 0], [0, 0], [0, chunks * chunk - length], [0, 0]]))
        return ops.reshape(x, (-1, chunks, chunk, x.shape[-1]))

    query, key, value = cut(query_features, n_q), cut(key_features, n_k), cut(append_one(value), n_k)
    window, largest = _near_weights(position_bias, chunk, n if static else None, causal, value.dtype)
    window = per_sequence(window, batch)[:, None]

    sums = _meet(query, key, value, window[..., chunk : 2 * chunk])
    if not (static and chunks == 1):
        index = ops.arange(chunks)[:, None, None]
        # A roll's gradient is a roll; a slice's fills and copies the whole tensor. What would wrap around is blanked
        # before: jax 0.10.2 compiles a wrong gradient on the CPU when it is blanked after.
        key_before = ops.roll(key * ops.cast(index < chunks - 1, key.dtype), 1, axis=1)
        sums = sums + _meet(query, key_before, ops.roll(value, 1, axis=1), window[..., :chunk])
        if not causal:
            key_after = ops.roll(key * ops.cast(index > 0, key.dtype), -1, axis=1)
            sums = sums + _meet(query, key_after, ops.roll(value, -1, axis=1), window[..., 2 * chunk :])
    if not (static and chunks <= 2):
        sides = 1 if causal else 2
        sums = sums + _far_sums(
            query,
            key,
            value,
            log_amplitudes[:sides] - largest,
            rates[:sides],
            chunks,
            chunk,
            position_bias.radius,
            batch,
        )
    sums = ops.reshape(sums, (-1, heads, chunks * chunk, d + 1))
    return divide(sums if static and n_q == chunks * chunk else sums[:, :, :n_q])


def chunk_length(n, radius: int, m: int, d: int, terms: int) -> int:
    """The power of two near the least cost, at least `radius` - 1, which leaves only tails beyond the neighbours.

    The near blocks cost 6 C (m + d) operations a position, combining chunk sums 4 terms m (d + 1) n / C^2. An unknown
    length counts as 8192.
    """
    n = n or 8192
    best = (8 * terms * m * (d + 1) * n / (6 * (m + d))) ** (1 / 3)
    chunk = max(SMALLEST_CHUNK, 2 ** round(math.log2(max(best, 1))))
    while chunk < radius - 1:
        chunk *= 2
    return chunk


def _near_weights(position_bias, chunk, n, causal, dtype):
    """c for a chunk of queries against the three chunks around it, (heads, chunk, 3 chunk), and the log of the largest.

    The largest is taken over what some query can see, and divided out: c enters as a ratio.
    """
    offsets = ops.arange(4 * chunk - 1) - (2 * chunk - 1)
    reached = ops.abs(offsets) < (n or 2 * chunk)
    if causal:
        reached = ops.logical_and(reached, offsets <= 0)
    log_weights = ops.cast(position_bias.log_weights(offsets), dtype)
    largest = ops.stop_gradient(ops.max(ops.where(reached, log_weights, -1e30), axis=-1, keepdims=True))
    weights = ops.where(reached, ops.exp(ops.where(reached, log_weights - largest, 0)), 0)
    return toeplitz_rows(weights, chunk, 3 * chunk), largest


def _meet(query, key, value, weights):
    """sum_j c (phi(q_i) . phi(k_j)) [v_j, 1] over the keys of one chunk for each chunk of queries."""
    return ops.matmul(ops.matmul(query, ops.swapaxes(key, -1, -2)) * weights, value)


def _far_sums(query, key, value, log_amplitudes, rates, chunks, chunk, radius, batch):
    """What reaches a query from the chunks that are not its neighbours, before it and, with two sides, after it."""
    sides, heads, terms = log_amplitudes.shape
    count, m, width = sides * terms, query.shape[-1], value.shape[-1]
    place = ops.cast(ops.arange(chunk), value.dtype)[None, :, None]
    # Diagonals of the matrices that carry sums between chunks: key chunk minus query chunk.
    steps = ops.arange(2 * chunks - 1) - (chunks - 1)
    key_decays, query_decays, carried = [], [], []
    for side in range(sides):
        to_end, from_start = (place, chunk - 1 - place) if side else (chunk - 1 - place, place)
        rate = rates[side]
        key_decays.append(ops.exp(-rate[:, None, :] * to_end))
        query_decays.append(ops.exp(-rate[:, None, :] * from_start))
        apart = steps if side else -steps
        beyond = ops.cast(ops.maximum(apart * chunk - (chunk - 1) - radius, 0), value.dtype)
        log_carry = log_amplitudes[side][..., None] - rate[..., None] * beyond
        carried.append(ops.where(apart >= 2, ops.exp(log_carry), 0))

    def decayed(features, decays):
        """The features once for every side and term, each with its decay: (batch * heads, chunks, chunk, count * m)."""
        decays = ops.repeat(ops.concatenate(decays, axis=-1), m, axis=-1)
        return ops.tile(features, (1, 1, 1, count)) * per_sequence(decays, batch)[:, None]

    carry = toeplitz_rows(ops.reshape(ops.stack(carried, axis=1), (heads * count, -1)), chunks, chunks)
    carry = per_sequence(ops.reshape(carry, (heads, count, chunks, chunks)), batch)
    # One sum a chunk and term, then one matmul that carries the sums of all chunks to each.
    sums = ops.matmul(ops.swapaxes(decayed(key, key_decays), -1, -2), value)
    sums = ops.reshape(sums, (-1, chunks, count, m * width))
    sums = ops.matmul(carry, ops.swapaxes(sums, 1, 2))
    sums = ops.reshape(ops.swapaxes(sums, 1, 2), (-1, chunks, count * m, width))
    return ops.matmul(decayed(query, query_decays), sums)
