"""The fft route: the paper's Algorithm 1, the Toeplitz product of Eqs. 11-13 by FFT."""

import keras
from keras import ops

from ._common import TINY, append_one, divide, fold_heads, hide_keys, per_sequence, wide

# Floats that one transform may hold; features are taken a few at a time to stay below.
TRANSFORM_BUDGET = 2**24
# Relative rounding error of a float32 transform there and back, measured.
ROUNDING = 6e-8
# Groups of features when the sizes are not known at trace time. The graph holds one copy a group.
GROUPS_OF_UNKNOWN_SIZE = 8


def fft_attention(query_features, key_features, value, position_bias, *, causal, key_mask):
    """Attention by FFT, at O(n log n * m * (d + 1)) time, for any bias.

    Range: rounding is relative to the largest weight anywhere, so a row that sees only weights far below it, because a
    mask hides the others or a causal bias peaks far back, drowns. A row whose denominator is less than 1000 times the
    estimate of its own rounding error comes out as zeros; rows just above that are right to 1e-3 only. Use "dense" or
    "banded" where that matters.

    Args and returns: as `toeplitz_attention`.
    """
    query_features, key_features, value = wide(query_features), wide(key_features), wide(value)
    key_features, value = hide_keys(key_features, value, key_mask)
    batch, heads, n_q, m = ops.shape(query_features)
    n_k, width = ops.shape(value)[2], ops.shape(value)[3] + 1
    length = fast_length(n_q + n_k - 1) if isinstance(n_q, int) and isinstance(n_k, int) else n_q + n_k - 1

    weights = _circulant_weights(position_bias, n_q, n_k, length, causal, value.dtype)
    spectrum = tuple(per_sequence(part[:, None, None, :], batch) for part in ops.rfft(weights, fft_length=length))
    # The transforms run along the last axis.
    query, key, value = (ops.swapaxes(fold_heads(x), 1, 2) for x in (query_features, key_features, append_one(value)))

    def group_sums(query, key, value, real, imaginary):
        products = key[:, :, None, :] * value[:, None, :, :]
        x, y = ops.rfft(products, fft_length=length)
        summed = ops.irfft((x * real - y * imaginary, x * imaginary + y * real), fft_length=length)
        return ops.sum(query[:, :, None, :] * summed[..., :n_q], axis=1)

    sizes = (batch, heads, length, width)
    if all(isinstance(size, int) for size in sizes):
        group = max(1, min(m, TRANSFORM_BUDGET // (batch * heads * width * length)))
    else:
        group = -(-m // GROUPS_OF_UNKNOWN_SIZE)
    if group < m:
        # The backward pass transforms a group again instead of keeping all of them.
        group_sums = keras.remat(group_sums)
    sums = 0
    for start in range(0, m, group):
        features = slice(start, start + group)
        sums = sums + group_sums(query[:, features], key[:, features], value, *spectrum)
    sums = ops.reshape(ops.swapaxes(sums, 1, 2), (-1, heads, n_q, width))
    norms = ops.sqrt(ops.sum(ops.square(ops.stop_gradient(key_features)), axis=2, keepdims=True))
    norms = norms * ops.sqrt(ops.sum(ops.square(weights), axis=-1))[:, None, None]
    rounding = ROUNDING * ops.sum(query_features * norms, axis=-1, keepdims=True)
    return divide(sums, ops.stop_gradient(ops.maximum(1000 * rounding, TINY)))


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


def _circulant_weights(position_bias, n_q, n_k, length, causal, dtype):
    """c as the first column of a circulant of size `length`, (heads, length), the largest weight divided out."""
    index = ops.arange(length)
    # Row i meets key j = i - shift; shifts that would be past the first key wrap around.
    shift = ops.where(index < n_q, index, index - length)
    reached = shift > -n_k
    if causal:
        reached = ops.logical_and(reached, shift >= 0)
    log_weights = ops.cast(position_bias.log_weights(ops.where(reached, -shift, 0)), dtype)
    maximum = ops.max(ops.where(reached, log_weights, -1e30), axis=-1, keepdims=True)
    return ops.where(reached, ops.exp(log_weights - ops.stop_gradient(maximum)), 0)
