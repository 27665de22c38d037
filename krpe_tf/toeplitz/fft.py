"""The fft route: the paper's Algorithm 1, the Toeplitz product of Eqs. 11-13 by FFT, kept from drowning its small rows.

A transform rounds relative to the largest weight anywhere. A row that cannot see that weight, because a mask hides the
keys or the bias peaks further back than the sequence reaches, would drown in it: errors of hundreds. So every row is
given the level of the largest weight that it sees, and a row below the first level is computed by a transform that
leaves out all larger weights, which it cannot see. Where all rows see the first level, as with weights that fall with
the distance, that costs nothing but the count.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from keras import ops

from .dense import dense_attention
from .numerics import TINY, append_one, divide, fold_heads, hide_keys, per_sequence, sum_over, wide

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

_forward_only = ContextVar("forward_only", default=False)


def fft_attention(query_features, key_features, value, position_bias, *, causal, key_mask):
    """Attention by FFT, at O(n log n * m * (d + 1)) time, for any bias.

    Range: a row whose visible keys all have weights below exp(-70) of the head's largest comes out as zeros. So does
    one whose denominator is less than 1000 times the estimate of its own rounding error, as of a row whose visible keys
    are few among many, or small beside those of other rows by orders of magnitude; a row just above that may be off by
    1e-3. The first 1/64 of causal rows, which see the fewest, are computed densely (64 where the length is unknown).
    The backward pass transforms each group of features again instead of keeping all.

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
        """Sums of the rows of one level and the norm of its weights, zeros for the other rows."""
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


@contextlib.contextmanager
def forward_transforms() -> Iterator[None]:
    """While it is open, the route transforms forward alone and by powers of two: what LiteRT's builtins do."""
    token = _forward_only.set(True)
    try:
        yield
    finally:
        _forward_only.reset(token)


def _transform_length(n_q, n_k):
    static = isinstance(n_q, int) and isinstance(n_k, int)
    if not _forward_only.get():
        return fast_length(n_q + n_k - 1) if static else n_q + n_k - 1
    if not static:
        raise ValueError(
            'route="fft" exports to LiteRT for lengths that are known; take "banded" for any length. '
            f"Received: n_q={n_q}, n_k={n_k}"
        )
    return max(2, 1 << (n_q + n_k - 2).bit_length())


def _rfft(x, length):
    """The transform along the last axis, filled up with zeros: its real and its imaginary part."""
    if not _forward_only.get():
        return ops.rfft(x, fft_length=length)
    # LiteRT's transform is over two axes, one of them added: the others are folded to stay within rank 4.
    parts = ops.rfft(ops.reshape(x, (-1, x.shape[-1])), fft_length=length)
    return tuple(ops.reshape(part, (*ops.shape(x)[:-1], length // 2 + 1)) for part in parts)


def _irfft(spectrum, length):
    """The inverse of `_rfft`."""
    if not _forward_only.get():
        return ops.irfft(spectrum, fft_length=length)
    # The Hartley transform is its own inverse but for a factor, and is read off a forward transform.
    return _hartley(*_rfft(_hartley(*spectrum), length)) / length


def _hartley(real, imaginary):
    """The real part less the imaginary one, at all frequencies; those past the middle mirror those before it."""
    return ops.concatenate([real - imaginary, ops.flip((real + imaginary)[..., 1:-1], axis=-1)], axis=-1)


def _product(query, key, value, weights, length, batch_and_heads):
    """The Toeplitz product itself, a few features at a time: (batch * heads, n_q, width of the value)."""
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

    # Most rows are found at once, and those that see nothing must not keep the search going.
    start = ops.where(seen(log_weights > -1e29), ops.cast(-1, dtype), 0)
    _, found = ops.while_loop(
        lambda level, found: ops.logical_and(level < LEVELS, ops.any(found < 0)),
        search,
        (ops.zeros((), dtype), start),
    )
    return ops.stop_gradient(ops.maximum(found, 0))
