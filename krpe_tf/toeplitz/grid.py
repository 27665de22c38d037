"""Two axes: a bias over (rows, columns) of an image, dense and by FFT (section 4.4 of the paper).

A grid whose rows are followed by width - 1 empty places is a line: the place of (y, x) is y (2 width - 1) + x, and the
difference of two places tells both dy and dx, since |dx| < width. On this line the two-axis Toeplitz product is an
ordinary one, over as many places as padding both axes needs, so one real FFT serves both axes. A class token, the first
position, stands outside: every pair with it has a weight of its own.
"""

from keras import ops

from ..position_bias import LearnedBias2D
from .dense import BLOCK, attend_pairs, by_blocks, visible_pairs
from .fft import fft_sums
from .numerics import TINY, append_one, at_least_float32, divide, hide_keys, toeplitz_rows


def is_grid(position_bias) -> bool:
    """Return whether the bias is over two axes."""
    return isinstance(position_bias, LearnedBias2D)


# Long: as `dense_attention`.
def dense_grid_attention(
    query_features,
    key_features,
    value,
    position_bias,
    *,
    causal,
    key_mask,
    pair_mask=None,
    prefix_length=None,
    exact_kernel=False,
    scores=False,
):
    """Compute attention by definition for a `LearnedBias2D`. Causal is the order of the positions, row after row.

    Args and returns: as `dense_attention`.
    """
    query, key, value = at_least_float32(query_features), at_least_float32(key_features), at_least_float32(value)
    key, value = hide_keys(key, value, key_mask)
    height, width, token = position_bias.height, position_bias.width, int(position_bias.class_token)
    heads, n_k, line = position_bias.num_heads, token + height * width, 2 * width - 1
    grid_rows = height if scores else min(height, max(1, BLOCK // width))
    blocks = -(-height // grid_rows)
    if pair_mask is not None:
        pair_mask = ops.pad(
            ops.cast(pair_mask, "bool"), [[0, 0], [0, 0], [0, (blocks * grid_rows - height) * width], [0, 0]]
        )
    # Diagonals -(blocks * grid_rows * line - 1) .. height * line - 1 of the line; the ends lie outside the grid.
    before = (blocks * grid_rows - height) * line + width - 1
    diagonals = ops.pad(ops.cast(position_bias.diagonals(), value.dtype), [[0, 0], [before, width - 1]])
    # Passed to the blocks, as they need gradients: a rematerialised function must not close over it.
    shared = [key, value, diagonals]
    if token:
        special = ops.cast(position_bias.class_weights, value.dtype)
        shared.append(special)

    def attend(query, first, key, value, diagonals, *special):
        start = (blocks - 1) * grid_rows * line - first // width * line
        size = (grid_rows + height) * line - 1
        bias = toeplitz_rows(ops.slice(diagonals, (0, start), (heads, size)), grid_rows * line, height * line)
        bias = ops.reshape(bias, (heads * grid_rows, line, height * line))[:, :width]
        bias = ops.reshape(bias, (heads * grid_rows * width, height, line))[:, :, :width]
        bias = ops.reshape(bias, (heads, grid_rows * width, height * width))
        if token:
            column = ops.broadcast_to(special[0][:, None, 2:], (heads, grid_rows * width, 1))
            bias = ops.concatenate([column, bias], axis=-1)
        visible = visible_pairs(first + token, grid_rows * width, n_k, causal, prefix_length, key_mask, pair_mask)
        return attend_pairs(query, key, value, bias, visible, exact_kernel, scores)

    def attend_grid(query):
        if blocks == 1:
            return attend(query, 0, *shared)
        return by_blocks(attend, query, grid_rows * width, blocks, *shared)

    if not token:
        return attend_grid(query)
    visible = visible_pairs(0, 1, n_k, causal, prefix_length, key_mask, pair_mask)
    first = attend_pairs(query[:, :, :1], key, value, _class_row(special, n_k), visible, exact_kernel, scores)
    rest = attend_grid(query[:, :, 1:])
    if scores:
        return tuple(ops.concatenate(pair, axis=2) for pair in zip(first, rest, strict=True))
    return ops.concatenate([first, rest], axis=2)


def fft_grid_attention(query_features, key_features, value, position_bias, *, causal, key_mask):
    """Compute attention by FFT for a `LearnedBias2D`, at O(n log n * m * (d + 1)) time. Range: as `fft_attention`.

    Args and returns: as `toeplitz_attention`; `causal` must not hold.
    """
    query, key, value = at_least_float32(query_features), at_least_float32(key_features), at_least_float32(value)
    key, value = hide_keys(key, value, key_mask)
    value, grid_value = append_one(value), value
    height, width, token = position_bias.height, position_bias.width, int(position_bias.class_token)

    def to_line(x):
        """Reshape (batch, heads, positions, w) to (batch, heads, places of the line, w), without the class token."""
        x = x[:, :, token:]
        heads, depth = x.shape[1], x.shape[3]
        x = ops.reshape(x, (-1, heads * height, width, depth))
        x = ops.pad(x, [[0, 0], [0, 0], [0, width - 1], [0, 0]])
        return ops.reshape(x, (-1, heads, height * (2 * width - 1), depth))

    def to_grid(x):
        heads, depth = x.shape[1], x.shape[3]
        x = ops.reshape(x, (-1, heads * height, 2 * width - 1, depth))[:, :, :width]
        return ops.reshape(x, (-1, heads, height * width, depth))

    mask = ops.ones((1, token + height * width)) if key_mask is None else ops.cast(key_mask, "float32")
    line_mask = to_line(mask[:, None, :, None])[:, 0, :, 0]
    sums, log_scale, floor = (
        to_grid(x)
        for x in fft_sums(
            to_line(query), to_line(key), to_line(value), _Line(position_bias), causal=causal, key_mask=line_mask
        )
    )
    if not token:
        return divide(sums, floor)
    special = ops.cast(position_bias.class_weights, value.dtype)
    # Where the class token is hidden its weight must not set the scale.
    to_class = ops.where(ops.cast(mask[:, :1, None, None], "bool"), special[None, :, 2:, None], -1e30)
    scale = ops.stop_gradient(ops.maximum(log_scale, to_class))
    pair = ops.matmul(query[:, :, token:], ops.swapaxes(key[:, :, :1], -1, -2)) * value[:, :, :1]
    sums = sums * ops.exp(log_scale - scale) + pair * ops.exp(to_class - scale)
    floor = ops.maximum(floor * ops.exp(log_scale - scale), TINY)
    rest = divide(sums, floor)
    visible = visible_pairs(0, 1, token + height * width, causal, None, key_mask)
    bias = _class_row(special, token + height * width)
    first = attend_pairs(query[:, :, :1], key, grid_value, bias, visible)
    return ops.concatenate([first, rest], axis=2)


class _Line:
    """The bias over the grid as a one-dimensional one over the places of the line."""

    def __init__(self, position_bias):
        self.diagonals = position_bias.diagonals()

    def log_weights(self, offsets):
        middle = self.diagonals.shape[-1] // 2
        return ops.take(self.diagonals, ops.clip(offsets + middle, 0, 2 * middle), axis=1)


def _class_row(special, n_k):
    """Return the log-weights of the class token's own row, (heads, 1, n_k)."""
    row = ops.concatenate([special[:, :1], ops.repeat(special[:, 1:2], n_k - 1, axis=1)], axis=1)
    return row[:, None]
