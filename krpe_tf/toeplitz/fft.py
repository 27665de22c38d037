"""The fft route: the paper's Algorithm 1, the Toeplitz product of Eqs. 11-13 by FFT, kept from drowning its small rows.

A transform rounds relative to the largest weight anywhere. A row that cannot see that weight, because a mask hides the
keys or the bias peaks further back than the sequence reaches, would drown in it: errors of hundreds. So every row is
given the level of the largest weight that it sees, and a row below the first level is computed by a transform that
leaves out all larger weights, which it cannot see. Where all rows see the first level, as with weights that fall with
the distance, that costs nothing but the count.
"""

import keras
from keras import backend, ops

from ._common import TINY, append_one, divide, fold_heads, hide_keys, per_sequence, sum_over, wide
from .dense import dense_attention

# Floats that one transform may hold; features are taken a few at a time to stay below.
TRANSFORM_BUDGET = 2**24
# Relative rounding error of a float32 transform there and back, measured.
ROUNDING = 6e-8
# Groups of features when the sizes are not known at trace time. The graph holds one copy a group.
GROUPS_OF_UNKNOWN_SIZE = 8
# A level spans this much in b: rounding is amplified by exp(3) = 20 at most. All levels together span exp(81).
LEVEL_HEIGHT = 3.0
LEVELS = 27
# Causal rows before this fraction of the sequence are computed densely, for less than the transforms cost.
FIRST_ROWS = 64


def fft_attention(query_features, key_features, value, position_bias, *, causal, key_mask):
    """Attention by FFT, at O(n log n * m * (d + 1)) time, for any bias.

    Range: a row whose visible keys all have weights below exp(-70) of the head's largest comes out as zeros. So does
    one whose denominator is less than 1000 times the estimate of its own rounding error, as of a row whose visible keys
    are few among many, or small beside those of other rows by orders of magnitude; a row just above that may be off by
    1e-3. The first 1/64 of causal rows, which see the fewest, are computed densely (64 where the length is unknown).
    In the backward pass of the lower levels TensorFlow keeps all features' transforms at once.

    Args and returns: as `toeplitz_attention`.
    """
    query, key, value = wide(query_features), wide(key_features), wide(value)
    key, value = hide_keys(key, value, key_mask)
    sums, _, floor = fft_sums(query, key, append_one(value), position_bias, causal=causal, key_mask=key_mask)
    output = divide(sums, floor)
    n_q = ops.shape(query)[2]
    # Rounding also grows with what the other rows sum up: at equal weights 6e-8 n against the i + 1 keys of row i.
    few = n_q // FIRST_ROWS if isinstance(n_q, int) else FIRST_ROWS
    if not causal or not few:
        return output
    mask = None if key_mask is None else key_mask[:, :few]
    query, key, value = (x[:, :, :few] for x in (query, key, value))
    first = dense_attention(query, key, value, position_bias, causal=True, key_mask=mask)
    return ops.concatenate([first, output[:, :, few:]], axis=2)


def fft_sums(query, key, value, position_bias, *, causal, key_mask):
    """sum_j c_{j-i} (phi(q_i) . phi(k_j)) v_j, up to a factor a row, where masked keys and values are zeros already.

    Returns:
        The sums (batch, heads, n_q, width of the value), and two of (batch, heads, n_q, 1): the log of the factor that
        is missing in them, and the size below which a sum of positive terms is taken for rounding.
    """
    batch, heads, n_q = ops.shape(query)[:3]
    n_k, width = ops.shape(value)[2:]
    length = fast_length(n_q + n_k - 1) if isinstance(n_q, int) and isinstance(n_k, int) else n_q + n_k - 1
    log_weights, largest = _circulant_log_weights(position_bias, n_q, n_k, length, causal, value.dtype)
    # A row of zeros, a padded query, needs no level of its own.
    level = _levels_of_rows(log_weights, key_mask, n_q, n_k, length)
    level = ops.where(ops.any(query != 0, axis=-1), level, 0)[..., None]

    norms = ops.sqrt(ops.sum(ops.square(key), axis=2, keepdims=True))
    rounding = ROUNDING * ops.sum(ops.abs(query) * norms, axis=-1, keepdims=True)
    query, key, value = fold_heads(query), fold_heads(key), fold_heads(value)
    row_level = fold_heads(level)

    def sums_of(this_level, query, key, value, log_weights, again=False):
        """Sums of the rows of one level and the norm of its weights, zeros for the other rows."""
        this_level = ops.cast(this_level, query.dtype)
        kept = log_weights <= -LEVEL_HEIGHT * this_level
        weights = ops.where(kept, ops.exp(ops.where(kept, log_weights + LEVEL_HEIGHT * this_level, 0)), 0)
        here = ops.cast(row_level == this_level, query.dtype)
        sums = _product(query * here, key, value, per_sequence(weights, batch), length, (batch, heads), again)
        norm = per_sequence(ops.sqrt(ops.sum(ops.square(weights), axis=-1))[:, None, None], batch)
        return ops.concatenate([sums, ops.stop_gradient(norm * here)], axis=-1)

    def sums_where_needed(this_level, *arrays):
        needed = ops.any(row_level == ops.cast(this_level, row_level.dtype))
        # On TensorFlow nothing can be rematerialised within a `cond`.
        again = backend.backend() != "tensorflow"
        return ops.cond(needed, lambda: sums_of(this_level, *arrays, again=again), lambda: ops.zeros_like(top))

    arrays = query, key, value, log_weights
    top = sums_of(0, *arrays, again=True)
    sums = sum_over(sums_where_needed, 1, LEVELS, ops.cast(ops.max(row_level), "float32") + 1, top, *arrays)
    sums = ops.reshape(sums, (-1, heads, n_q, width + 1))
    sums, norm = ops.split(sums, [width], axis=-1)
    floor = ops.maximum(ops.stop_gradient(1000 * rounding * norm), TINY)
    return sums, largest[:, :, None] - LEVEL_HEIGHT * level, floor


def fast_length(at_least: int) -> int:
    """The smallest length of the form 2^a 3^b 5^c that is at least `at_least`: those transform fast."""
    best = 1 << (at_least - 1).bit_length()
    five = 1
    while five < best:
        odd = five
        while odd < best:
            best = min(best, odd << max(0, (-(-at_least // odd) - 1).bit_length()))
            odd *= 3
        five *= 5
    return best


def _product(query, key, value, weights, length, batch_and_heads, again):
    """The Toeplitz product itself, a few features at a time: (batch * heads, n_q, width of the value).

    `again`: the backward pass transforms a group of features again instead of keeping all of them.
    """
    m, n_q, width = query.shape[-1], ops.shape(query)[1], value.shape[-1]
    spectrum = tuple(part[:, None, None, :] for part in ops.rfft(weights, fft_length=length))
    # The transforms run along the last axis.
    query, key, value = (ops.swapaxes(x, 1, 2) for x in (query, key, value))

    def group_sums(query, key, value, real, imaginary):
        products = key[:, :, None, :] * value[:, None, :, :]
        x, y = ops.rfft(products, fft_length=length)
        summed = ops.irfft((x * real - y * imaginary, x * imaginary + y * real), fft_length=length)
        return ops.sum(query[:, :, None, :] * summed[..., :n_q], axis=1)

    batch, heads = batch_and_heads
    if all(isinstance(size, int) for size in (batch, heads, length, width)):
        group = max(1, min(m, TRANSFORM_BUDGET // max(1, batch * heads * width * length)))
    else:
        group = -(-m // GROUPS_OF_UNKNOWN_SIZE)
    if group < m and again:
        group_sums = keras.remat(group_sums)
    sums = 0
    for start in range(0, m, group):
        features = slice(start, start + group)
        sums = sums + group_sums(query[:, features], key[:, features], value, *spectrum)
    return ops.swapaxes(sums, 1, 2)


def _circulant_log_weights(position_bias, n_q, n_k, length, causal, dtype):
    """b as the first column of a circulant of size `length`, (heads, length), less the largest (heads, 1).

    Entries that no query meets are far below all others.
    """
    index = ops.arange(length)
    # Row i meets key j = i - shift; shifts that would be past the first key wrap around.
    shift = ops.where(index < n_q, index, index - length)
    reached = shift > -n_k
    if causal:
        reached = ops.logical_and(reached, shift >= 0)
    log_weights = ops.cast(position_bias.log_weights(ops.where(reached, -shift, 0)), dtype)
    log_weights = ops.where(reached, log_weights, -1e30)
    largest = ops.stop_gradient(ops.max(log_weights, axis=-1, keepdims=True))
    return log_weights - largest, largest


def _levels_of_rows(log_weights, key_mask, n_q, n_k, length):
    """The level of the largest weight that each row sees, (batch or 1, heads, n_q); 0 for a row that sees none.

    The keys that a row sees at each level are counted by FFT too, one level at a time. Rounding leaves a count right to
    6e-8 n, so up to millions of positions none is taken for one.
    """
    log_weights = ops.stop_gradient(log_weights)
    dtype = log_weights.dtype
    mask = ops.ones((1, n_k), dtype) if key_mask is None else ops.cast(ops.cast(key_mask, "bool"), dtype)
    x, y = ops.rfft(mask[:, None], fft_length=length)

    def seen(level):
        # The comparison of `sums_of`, so that compiled arithmetic cannot put a weight between two levels.
        here = ops.logical_and(
            log_weights <= -LEVEL_HEIGHT * level, ops.logical_not(log_weights <= -LEVEL_HEIGHT * (level + 1))
        )
        a, b = ops.rfft(ops.cast(here, dtype), fft_length=length)
        return ops.irfft((a * x - b * y, a * y + b * x), fft_length=length)[..., :n_q] > 0.5

    levels = ops.cast(ops.arange(LEVELS), dtype)
    first = ops.min(ops.where(ops.map(seen, levels), levels[:, None, None, None], LEVELS), axis=0)
    return ops.where(first < LEVELS, first, 0)
