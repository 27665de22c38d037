"""Numerics that the routes share: precision, safe division, loops over terms, rows of a Toeplitz matrix."""

import keras
from keras import backend, ops

# A denominator below this counts as none: what float32 loses below 1e-38 would show in it, and in its gradient.
TINY = 1e-32


def at_least_float32(x):
    """Cast `x` to float32, or keep it in float64: exp, sums over the sequence and FFT are never computed in less."""
    return x if backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


def hide_keys(key_features, value, key_mask):
    """Remove masked keys from both sums. They may hold NaN, which multiplying by zero would keep."""
    if key_mask is None:
        return key_features, value
    visible = ops.cast(key_mask, "bool")[:, None, :, None]
    zero = ops.zeros((), key_features.dtype)
    return ops.where(visible, key_features, zero), ops.where(visible, value, ops.cast(zero, value.dtype))


def number_segments(segment_ids):
    """Number the documents of each row from 1 on, int32 (batch, n): each run of equal ids is one."""
    starts = ops.cast(segment_ids[:, 1:] != segment_ids[:, :-1], "int32")
    return ops.cumsum(ops.pad(starts, [[0, 0], [1, 0]], constant_values=1), axis=1)


def append_one(value):
    """Return [v, 1], so that one product gives numerator and denominator."""
    return ops.pad(value, [[0, 0], [0, 0], [0, 0], [0, 1]], constant_values=1)


def divide(sums, floor=TINY):
    """Divide numerator by denominator, from (..., d + 1); zeros where the denominator is within `floor` of zero."""
    # Split, not sliced: the gradient of a slice fills and copies the whole tensor, once for each slice.
    numerator, denominator = ops.split(sums, [sums.shape[-1] - 1], axis=-1)
    return numerator * safe_inverse(denominator, floor)


def safe_inverse(x, floor=TINY):
    """Return 1 / x, and zero where |x| is below `floor`.

    The gradient is finite and never squares x, which might underflow. A negative denominator, to which trigonometric
    features may sum up, keeps its sign.
    """
    seen = ops.abs(x) > floor
    scale = ops.stop_gradient(1 / ops.where(seen, x, 1))
    return ops.where(seen, scale / ops.where(seen, x * scale, 1), 0)


def sum_over(function, count, needed, start, *arrays):
    """Return start + function(0, *arrays) + ... + function(count - 1, *arrays), computed one term at a time.

    The graph holds `function` once, and the backward pass computes each term again instead of keeping all of them.

    Args:
        function: of a float32 scalar and the arrays that it needs gradients for.
        count: number of terms.
        needed: a float32 scalar: only so many first terms are computed, and the others must be zero.
        start: the initial value.
        *arrays: passed on to `function`.
    """
    if backend.backend() == "tensorflow":
        term = keras.remat(function)
        # XLA needs a loop with a known limit of rounds for the gradient, which a Keras scan has not on TensorFlow.
        _, total = ops.while_loop(
            lambda i, total: i < needed,
            lambda i, total: (i + 1, total + term(i, *arrays)),
            (ops.zeros((), "float32"), start),
            maximum_iterations=count,
        )
        return total

    # Within what is computed again: a `cond` around it would hand all its arrays to the backward pass, once per term.
    def term_or_zero(i, needed, *arrays):
        return ops.cond(i < needed, lambda: function(i, *arrays), lambda: ops.zeros_like(start))

    term, needed = keras.remat(term_or_zero), ops.cast(needed, "float32")
    terms = ops.arange(count, dtype="float32")
    return ops.scan(lambda total, i: (total + term(i, needed, *arrays), None), start, terms)[0]


def fold_heads(x):
    """Reshape (batch, heads, n, width) to (batch * heads, n, width)."""
    shape = ops.shape(x)
    batch_heads = -1 if shape[0] is None else shape[0] * shape[1]
    return ops.reshape(x, (batch_heads, shape[2], shape[3]))


def per_sequence(per_head, batch):
    """Repeat (heads, ...) for every entry of the batch: (batch * heads, ...), in the order of `fold_heads`."""
    if isinstance(batch, int) and batch == 1:
        return per_head
    return ops.tile(per_head, (batch,) + (1,) * (len(per_head.shape) - 1))


def toeplitz_rows(diagonals, rows, columns):
    """Return rows of a Toeplitz matrix, made without a gather, whose gradient would be a slow scatter.

    Args:
        diagonals: (heads, rows + columns - 1), the value of the diagonal j - i at index j - i + rows - 1.

    Returns:
        (heads, rows, columns) with entry [i, j] = diagonals[j - i + rows - 1].
    """
    heads, period = diagonals.shape[0], rows + columns
    # Slices, not indices: those have slow gradients on TensorFlow.
    left, right = ops.slice(diagonals, (0, 0), (heads, rows - 1)), ops.slice(diagonals, (0, rows - 1), (heads, columns))
    rolled = ops.concatenate([right, ops.zeros((heads, 1), diagonals.dtype), left], axis=1)
    # Rows of one element less than the period: each starts one diagonal further left than the one above.
    flat = ops.slice(ops.tile(rolled, (1, rows)), (0, 0), (heads, rows * (period - 1)))
    return ops.slice(ops.reshape(flat, (heads, rows, period - 1)), (0, 0, 0), (heads, rows, columns))
