"""A table over rows and columns."""

import numpy as np
from keras import ops, saving

from ..checks import check_at_least
from .base import BiasLayer, alibi_slopes


@saving.register_keras_serializable("krpe_tf")
class LearnedBias2D(BiasLayer):
    """A table over (rows, columns) for images: one scalar per head and pair (dy, dx) (section 4.4 of the paper).

    b_(dy, dx) = table[dy + height - 1, dx + width - 1]. The positions are those of the grid, row after row, of which
    there must be height * width; with `class_token` there is one more before them, outside the grid, with three scalars
    of its own per head: how it weighs itself, how it weighs the grid, and how the grid weighs it. The table starts from
    a slope per head, -s_h sqrt(dy^2 + dx^2). The routes "dense" and "fft" serve it.

    Args:
        num_heads: number of attention heads, at least 1.
        height, width: rows and columns of the grid, at least 1.
        class_token: whether a class token comes before the grid.
    """

    def __init__(self, num_heads: int, height: int, width: int, class_token: bool = False, **kwargs):
        check_at_least(1, height=height, width=width)
        super().__init__(num_heads, **kwargs)
        self.height = height
        self.width = width
        self.class_token = bool(class_token)
        distance = np.hypot(np.arange(1 - height, height)[:, None], np.arange(1 - width, width))
        self.table = self.add_bias_weight("table", -alibi_slopes(num_heads)[:, None, None] * distance)
        if class_token:
            self.class_weights = self.add_bias_weight("class_weights", np.zeros((num_heads, 3)))
        self.built = True

    @property
    def num_positions(self) -> int:
        """The number of positions that queries and keys must have."""
        return self.height * self.width + int(self.class_token)

    def log_weights(self, offsets):
        """Return the bias itself, within the grid.

        Args:
            offsets: integers (..., 2), (dy, dx) of the key minus those of the query. Those past the table are clipped.

        Returns:
            b at those offsets, float32, shape (num_heads, *offsets.shape[:-1]).
        """
        middle = ops.convert_to_tensor([self.height - 1, self.width - 1], "int32")
        index = ops.clip(ops.cast(offsets, "int32") + middle, 0, 2 * middle)
        return ops.take(self.diagonals(), index[..., 0] * (2 * self.width - 1) + index[..., 1], axis=1)

    def diagonals(self):
        """Return the table as rows, b at dy (2 width - 1) + dx: (num_heads, (2 height - 1) (2 width - 1))."""
        return ops.reshape(ops.convert_to_tensor(self.table), (self.num_heads, -1))

    def compute_output_shape(self, offsets_shape):
        return (self.num_heads, *offsets_shape[:-1])

    def get_config(self):
        return {
            **super().get_config(),
            "height": self.height,
            "width": self.width,
            "class_token": self.class_token,
        }
