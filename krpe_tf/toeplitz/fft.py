"""The fft route: the paper's Algorithm 1, the Toeplitz product of Eqs. 11-13 by FFT, made accurate for small rows.

A transform rounds relative to the largest weight anywhere. For a row that cannot see that weight, because a mask hides
the keys or the bias peaks further back than the sequence reaches, rounding would exceed the result many times. So every
row is given the level of the largest weight that it sees, and a row below the first level is computed by a transform
that leaves out all larger weights, which it cannot see. Where all rows see the first level, as with weights that fall
with the distance, that costs only the count.
"""

from keras import ops

from .dense import dense_attention
from .numerics import TINY, append_one, at_least_float32, divide, fold_heads, hide_keys, per_sequence, sum_over
from .overrides import active_overrides

# Floats that one transform may hold; features are taken a few at a time to stay below.
TRANSFORM_BUDGET = 2**24
# Relative rounding error of a float32 transform there and back, measured.
ROUNDING = 6e-8
# Groups of features when the sizes are not known at trace time.
GROUPS_OF_UNKNOWN_SIZE = 8
# A level spans this much in b: rounding is amplified by exp(3) = 20 at most. All levels together span exp(81).
LEVEL_HEIGHT = 3.0
LEVELS = 27
# Causal rows before this fraction of the sequence are computed densely, for less than the transforms cost.
FIRST_ROWS = 64


def fft_attention(query_features, key_features, value, position_bias, *, causal, key_mask):
    """Compute attention by FFT, at O(n log n * m * (d + 1)) time, for any bias.

    Range: a row whose visible keys all have weights below exp(-70) of the head's largest becomes zeros. So does one
    whose denominator is less than 1000 times the estimate of its own rounding error: its visible keys are few among
    many, or orders of magnitude smaller than those of other rows. A row just above that may be off by 1e-3. The first
    1/64 of causal rows, which see the fewest keys, are computed densely (64 rows where the length is unknown). The
    backward pass transforms each group of features again instead of keeping all.

    Args and returns: as `toeplitz_attention`.
    """
    query, key, value = at_least_float32(query_features), at_least_float32(key_features), at_least_float32(value)
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
    """Return sum_j c_{j-i} (phi(q_i) . phi(k_j)) v_j up to a factor for each row; masked keys and values are zeros.

    Returns:
        The sums (batch, heads, n_q, width of the value), and two arrays (batch, heads, n_q, 1): the log of the factor
        that is missing in the sums, and the size below which a sum of positive terms counts as rounding.
    """
    batch, heads, n_q = ops.shape(query)[:3]
    n_k, width = ops.shape(value)[2:]
    length = _transform_length(n_q, n_k)
    log_weights, largest = _circulant_log_weights(position_bias, n_q, n_k, length, causal, value.dtype)
    # A row of zeros, a padded query, needs no level of its own.
    level = _levels_of_rows(log_weights, key_mask, n_q, n_k, length)
    level = ops.where(ops.any(query != 0, axis=-1), level, 0)[..., None]

    norms = ops.sqrt(ops.sum(ops.square(key), axis=2, keepdims=True))
    rounding = ROUNDING * ops.sum(ops.abs(query) * norms, axis=-1, keepdims=True)
    query, key, value = fold_heads(query), fold_heads(key), fold_heads(value)
    row_level = fold_heads(level)

    def sums_of(this_level, query, key, value, log_weights):
        """Return sums of the rows of one level and the norm of its weights, zeros for the other rows."""
        kept = log_weights <= -LEVEL_HEIGHT * this_level
        weights = ops.where(kept, ops.exp(ops.where(kept, log_weights + LEVEL_HEIGHT * this_level, 0)), 0)
        here = ops.cast(row_level == this_level, query.dtype)
        sums = _product(query * here, key, value, per_sequence(weights, batch), length, (batch, heads))
        norm = per_sequence(ops.sqrt(ops.sum(ops.square(weights), axis=-1))[:, None, None], batch)
        return ops.concatenate([sums, ops.stop_gradient(norm * here)], axis=-1)

    # The lower levels that some row has, first.
    lower = ops.cast(ops.arange(1, LEVELS), row_level.dtype)
    present = ops.any(ops.reshape(row_level, (-1, 1)) == lower, axis=0)
    lower = ops.sort(ops.where(present, lower, lower + LEVELS))
    arrays = query, key, value, log_weights
    sums = sum_over(
        lambda index, *arrays: sums_of(ops.take(lower, ops.cast(index, "int32")), *arrays),
        LEVELS - 1,
        ops.sum(ops.cast(present, "float32")),
        sums_of(ops.zeros((), query.dtype), *arrays),
        *arrays,
    )
    sums = ops.reshape(sums, (-1, heads, n_q, width + 1))
    sums, norm = ops.split(sums, [width], axis=-1)
    floor = ops.maximum(ops.stop_gradient(1000 * rounding * norm), TINY)
    return sums, largest[:, :, None] - LEVEL_HEIGHT * level, floor


def fast_length(at_least: int) -> int:
    """Return the smallest length of the form 2^a 3^b 5^c that is at least `at_least`: those transform fast."""
    best = 1 << (at_least - 1).bit_length()
    five = 1
    while five < best:
        odd = five
        while odd < best:
            best = min(best, odd << max(0, (-(-at_least // odd) - 1).bit_length()))
            odd *= 3
        five *= 5
    return best


def _transform_length(n_q, n_k):
    static = isinstance(n_q, int) and isinstance(n_k, int)
    if not active_overrides().forward_transforms:
        return fast_length(n_q + n_k - 1) if static else n_q + n_k - 1
    if not static:
        raise ValueError(
            'route="fft" exports to LiteRT only for known lengths; take "banded" for any length. '
            f"Received: n_q={n_q}, n_k={n_k}"
        )
    return max(2, 1 << (n_q + n_k - 2).bit_length())


def _rfft(x, length):
    """Transform along the last axis, padded with zeros; return the real and the imaginary part."""
    if not active_overrides().forward_transforms:
        return ops.rfft(x, fft_length=length)
    # LiteRT's transform is over two axes, one of them added: the others are folded to stay within rank 4.
    parts = ops.rfft(ops.reshape(x, (-1, x.shape[-1])), fft_length=length)
    return tuple(ops.reshape(part, (*ops.shape(x)[:-1], length // 2 + 1)) for part in parts)


def _irfft(spectrum, length):
    """Invert `_rfft`."""
    if not active_overrides().forward_transforms:
        return ops.irfft(spectrum, fft_length=length)
    # The Hartley transform is its own inverse up to a factor, and follows from a forward transform.
    return _hartley(*_rfft(_hartley(*spectrum), length)) / length


def _hartley(real, imaginary):
    """Return the real less the imaginary part at all frequencies; those past the middle mirror those before it."""
    return ops.concatenate([real - imaginary, ops.flip((real + imaginary)[..., 1:-1], axis=-1)], axis=-1)


def _product(query, key, value, weights, length, batch_and_heads):
    """Compute the Toeplitz product, a few features at a time: (batch * heads, n_q, width of the value)."""
    m, n_q, width = query.shape[-1], ops.shape(query)[1], value.shape[-1]
    spectrum = tuple(part[:, None, None, :] for part in _rfft(weights, length))
    # The transforms run along the last axis.
    query, key, value = (ops.swapaxes(x, 1, 2) for x in (query, key, value))

    batch, heads = batch_and_heads
    if all(isinstance(size, int) for size in (batch, heads, length, width)):
        group = max(1, min(m, TRANSFORM_BUDGET // max(1, batch * heads * width * length)))
        # A divisor of m where there is a large one, so that no transform is of zeros.
        group = next((size for size in range(group, group // 2, -1) if m % size == 0), group)
    else:
        group = -(-m // GROUPS_OF_UNKNOWN_SIZE)
    groups = -(-m // group)

    def group_sums(index, query, key, value, real, imaginary):
        if groups > 1:
            first = ops.cast(index, "int32") * group
            query, key = (ops.slice(x, (0, first, 0), (ops.shape(x)[0], group, ops.shape(x)[2])) for x in (query, key))
        products = key[:, :, None, :] * value[:, None, :, :]
        x, y = _rfft(products, length)
        summed = _irfft((x * real - y * imaginary, x * imaginary + y * real), length)
        return ops.sum(query[:, :, None, :] * summed[..., :n_q], axis=1)

    if groups == 1:
        sums = group_sums(0, query, key, value, *spectrum)
    else:
        query, key = (ops.pad(x, [[0, 0], [0, groups * group - m], [0, 0]]) for x in (query, key))
        start = ops.zeros((ops.shape(query)[0], width, n_q), query.dtype)
        sums = sum_over(group_sums, groups, groups, start, query, key, value, *spectrum)
    return ops.swapaxes(sums, 1, 2)


def _circulant_log_weights(position_bias, n_q, n_k, length, causal, dtype):
    """Return b as the first column of a circulant of size `length`, (heads, length), less the largest (heads, 1).

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
    """Return the level of the largest weight that each row sees, (batch or 1, heads, n_q); 0 for a row without keys.

    The keys that a row sees at each level are counted by FFT too, one level at a time. Rounding changes a count by
    6e-8 n at most, so that zero and one differ up to millions of positions.
    """
    log_weights = ops.stop_gradient(log_weights)
    dtype = log_weights.dtype
    mask = ops.ones((1, n_k), dtype) if key_mask is None else ops.cast(ops.cast(key_mask, "bool"), dtype)
    x, y = _rfft(mask[:, None], length)

    def seen(here):
        a, b = _rfft(ops.cast(here, dtype), length)
        return _irfft((a * x - b * y, a * y + b * x), length)[..., :n_q] > 0.5

    def search(level, found):
        # The comparison of `sums_of`, so that compiled arithmetic cannot put a weight between two levels.
        here = ops.logical_and(
            log_weights <= -LEVEL_HEIGHT * level, ops.logical_not(log_weights <= -LEVEL_HEIGHT * (level + 1))
        )
        return level + 1, ops.where(ops.logical_and(found < 0, seen(here)), level, found)

    # Most rows are found in the first round, and rows that see nothing must not prolong the search.
    start = ops.where(seen(log_weights > -1e29), ops.cast(-1, dtype), 0)
    _, found = ops.while_loop(
        lambda level, found: ops.logical_and(level < LEVELS, ops.any(found < 0)),
        search,
        (ops.zeros((), dtype), start),
    )
    return ops.stop_gradient(ops.maximum(found, 0))
