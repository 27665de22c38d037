"""Position biases: a learned log-weight for every offset between a key and a query.

A bias is defined by `log_weights`. Every one-dimensional bias has one shape, and this shape is what the linear routes
use: free values in a near band, and on each side a sum of decaying exponentials. Images have a table over two axes.
"""

import numpy as np
from keras import layers, ops, saving

from ._checks import FiniteWeights, check_at_least


def alibi_slopes(num_heads: int) -> np.ndarray:
    """The slopes s_h = 2^(-8 h / heads), h = 1..heads, that every bias starts from (ALiBi, arXiv 2108.12409)."""
    return 2.0 ** (-8.0 * np.arange(1, num_heads + 1) / num_heads)


class BiasLayer(FiniteWeights, layers.Layer):
    """What all biases are: a layer of float32 weights that are there at once, called with offsets."""

    def __init__(self, num_heads: int, **kwargs):
        check_at_least(1, num_heads=num_heads)
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.supports_masking = True

    def call(self, offsets):
        return self.log_weights(offsets)

    def add_bias_weight(self, name: str, initial: np.ndarray):
        """A float32 weight that mixed precision leaves alone, starting at `initial`."""
        initial = np.asarray(initial, "float32")
        # Not `Constant`: its value would land in configs.
        return self.add_weight(
            shape=initial.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(initial, dtype or "float32"),
            dtype="float32",
            autocast=False,
            name=name,
        )

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}


class PositionBias(BiasLayer):
    """Base of the one-dimensional biases: a near band and, on each side, a tail of exponentials.

    With the offset t = key position - query position, the weight of a key is c_t = exp(b_t), where

        b_t = near_table[t]                                         |t| <  radius
        c_t = sum_r exp(log_amplitude_r - rate_r (|t| - radius))    |t| >= radius

    A subclass creates its weights in `__init__` with `add_bias_weight` and returns them from `near_table` and `tails`;
    `log_weights` and all routes follow from these two.

    Args:
        num_heads: number of attention heads, at least 1.
        radius: half-width of the near band in positions, at least 1.
    """

    def __init__(self, num_heads: int, radius: int, **kwargs):
        check_at_least(1, radius=radius)
        super().__init__(num_heads, **kwargs)
        self.radius = radius

    def near_table(self):
        """Log-weights of the offsets -(radius - 1) .. radius - 1, shape (num_heads, 2 * radius - 1)."""
        raise NotImplementedError

    def tails(self):
        """The tails before and after the query: (log_amplitudes, rates), each of shape (2, num_heads, terms)."""
        raise NotImplementedError

    def log_weights(self, offsets):
        """The bias itself.

        Args:
            offsets: integers of any shape, key position minus query position.

        Returns:
            b at those offsets, float32, shape (num_heads, *offsets.shape).
        """
        offsets = ops.cast(offsets, "int32")
        shape = ops.shape(offsets)
        flat = ops.reshape(offsets, (-1,))
        last = self.radius - 1
        near = ops.take(self.near_table(), ops.clip(flat, -last, last) + last, axis=1)
        log_amplitudes, rates = self.tails()
        distance = ops.abs(flat)
        beyond = ops.cast(ops.maximum(distance - self.radius, 0), log_amplitudes.dtype)[None]
        # A row for every side, head and term. Not broadcast: LiteRT's converter folds no constant that grows much.
        terms = log_amplitudes.shape[-1]
        log_amplitudes, rates = (ops.reshape(part, (-1, 1)) for part in (log_amplitudes, rates))
        decays = log_amplitudes - rates * ops.concatenate([beyond] * rates.shape[0])
        decays = ops.reshape(decays, (2 * self.num_heads, terms, -1))
        before, after = ops.split(ops.logsumexp(decays, axis=1), 2)
        values = ops.where(distance < self.radius, near, ops.where(flat < 0, before, after))
        return ops.reshape(values, (self.num_heads, *shape))

    def compute_output_shape(self, offsets_shape):
        return (self.num_heads, *offsets_shape)


@saving.register_keras_serializable("krpe_tf")
class LearnedBias(PositionBias):
    """The paper's table (Eq. 6): one scalar per head and offset, constant past `max_distance`.

    b_t = table[clip(t, -max_distance, max_distance)]. With max_distance = n - 1 these are the paper's 2n - 1 scalars;
    here they start from a slope per head, -s_h |t|, because a start from zeros trains far worse.

    Args:
        num_heads: number of attention heads, at least 1.
        max_distance: largest offset with a scalar of its own, at least 1.
    """

    def __init__(self, num_heads: int, max_distance: int, **kwargs):
        check_at_least(1, num_heads=num_heads, max_distance=max_distance)
        super().__init__(num_heads, radius=max_distance, **kwargs)
        self.max_distance = max_distance
        distance = np.abs(np.arange(-max_distance, max_distance + 1))
        self.table = self.add_bias_weight("table", -alibi_slopes(num_heads)[:, None] * distance)
        self.built = True

    def near_table(self):
        return ops.convert_to_tensor(self.table)[:, 1:-1]

    def tails(self):
        table = ops.convert_to_tensor(self.table)
        ends = ops.stack([table[:, :1], table[:, -1:]])
        return ends, ops.zeros_like(ends)

    def get_config(self):
        return {**super().get_config(), "max_distance": self.max_distance}


@saving.register_keras_serializable("krpe_tf")
class BucketedBias(PositionBias):
    """T5's buckets (arXiv 1910.10683): one scalar per head and bucket of offsets.

    Half of the buckets serve each direction. The first half of those holds one distance each; the rest grow
    logarithmically up to `max_distance`, and the last one holds everything further away.

    Args:
        num_heads: number of attention heads, at least 1.
        num_buckets: number of buckets over both directions, even and at least 4.
        max_distance: distance in positions at which the logarithmic growth ends, more than num_buckets // 4.
    """

    def __init__(self, num_heads: int, num_buckets: int = 32, max_distance: int = 128, **kwargs):
        check_at_least(1, num_heads=num_heads, max_distance=max_distance)
        check_at_least(4, num_buckets=num_buckets)
        if num_buckets % 2:
            raise ValueError(f"num_buckets must be even. Received: num_buckets={num_buckets}")
        if max_distance <= num_buckets // 4:
            raise ValueError(
                f"max_distance must be more than num_buckets // 4 = {num_buckets // 4}, the distances with a bucket of "
                f"their own. Received: max_distance={max_distance}"
            )
        first_distance = _bucket_starts(num_buckets // 2, max_distance)
        super().__init__(num_heads, radius=int(first_distance[-1]), **kwargs)
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self._bucket_of_distance = np.searchsorted(first_distance, np.arange(self.radius), side="right") - 1
        starts = np.concatenate([first_distance, first_distance])
        self.table = self.add_bias_weight("table", -alibi_slopes(num_heads)[:, None] * starts)
        self.built = True

    def near_table(self):
        offsets = np.arange(1 - self.radius, self.radius)
        buckets = self._bucket_of_distance[np.abs(offsets)] + np.where(offsets > 0, self.num_buckets // 2, 0)
        return ops.take(ops.convert_to_tensor(self.table), buckets, axis=1)

    def tails(self):
        table = ops.convert_to_tensor(self.table)
        half = self.num_buckets // 2
        ends = ops.stack([table[:, half - 1 : half], table[:, -1:]])
        return ends, ops.zeros_like(ends)

    def get_config(self):
        return {**super().get_config(), "num_buckets": self.num_buckets, "max_distance": self.max_distance}


@saving.register_keras_serializable("krpe_tf")
class DecayBias(PositionBias):
    """Free values near the query and a learned sum of exponentials beyond: any length at linear cost. The default.

    c_t = exp(b_t) for |t| < radius, and c_t = sum_r a_r exp(-s_r (|t| - radius)) beyond, with a_r and s_r learned in
    log space on each side. `radius=1, num_terms=1` starts as, and can stay, ALiBi.

    Args:
        num_heads: number of attention heads, at least 1.
        radius: half-width of the near band in positions, at least 1.
        num_terms: exponentials on each side, at least 1.
    """

    def __init__(self, num_heads: int, radius: int = 16, num_terms: int = 2, **kwargs):
        check_at_least(1, num_heads=num_heads, radius=radius, num_terms=num_terms)
        super().__init__(num_heads, radius, **kwargs)
        self.num_terms = num_terms
        slopes = alibi_slopes(num_heads)[:, None]
        # Terms that start equal would stay equal; one term alone starts at the slope itself.
        spread = np.exp(np.linspace(-0.5, 0.5, num_terms)) if num_terms > 1 else np.ones(1)
        log_amplitude = np.broadcast_to(-slopes * radius - np.log(num_terms), (2, num_heads, num_terms))
        log_rate = np.broadcast_to(np.log(slopes * spread), (2, num_heads, num_terms))
        self.near = self.add_bias_weight("near", -slopes * np.abs(np.arange(1 - radius, radius)))
        self.log_amplitude = self.add_bias_weight("log_amplitude", log_amplitude)
        self.log_rate = self.add_bias_weight("log_rate", log_rate)
        self.built = True

    def near_table(self):
        return ops.convert_to_tensor(self.near)

    def tails(self):
        return ops.convert_to_tensor(self.log_amplitude), ops.exp(ops.convert_to_tensor(self.log_rate))

    def get_config(self):
        return {**super().get_config(), "radius": self.radius, "num_terms": self.num_terms}


@saving.register_keras_serializable("krpe_tf")
class LearnedBias2D(BiasLayer):
    """A table over (rows, columns) for images: one scalar per head and pair (dy, dx) (section 4.4 of the paper).

    b_(dy, dx) = table[dy + height - 1, dx + width - 1]. The positions are those of the grid, row after row, of which
    there must be height * width; with `class_token` there is one more before them, outside the grid, with three scalars
    of its own per head: how it weighs itself, how it weighs the grid, and how the grid weighs it. The table starts from
    a slope per head, -s_h sqrt(dy^2 + dx^2). Served by the routes "dense" and "fft".

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
        """How many positions queries and keys must have."""
        return self.height * self.width + int(self.class_token)

    def log_weights(self, offsets):
        """The bias itself, within the grid.

        Args:
            offsets: integers (..., 2), (dy, dx) of the key minus those of the query. Those past the table are clipped.

        Returns:
            b at those offsets, float32, shape (num_heads, *offsets.shape[:-1]).
        """
        middle = ops.convert_to_tensor([self.height - 1, self.width - 1], "int32")
        index = ops.clip(ops.cast(offsets, "int32") + middle, 0, 2 * middle)
        return ops.take(self.diagonals(), index[..., 0] * (2 * self.width - 1) + index[..., 1], axis=1)

    def diagonals(self):
        """The table as one row: b at dy (2 width - 1) + dx, ascending, (num_heads, (2 height - 1) (2 width - 1))."""
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


def make_position_bias(position_bias, num_heads: int):
    """The bias layer (or None) that an argument `position_bias` of a layer or model stands for.

    Args:
        position_bias: None, "decay", "bucketed", or a bias layer with `num_heads` heads.
        num_heads: number of attention heads.

    Raises:
        ValueError: for anything else, or a bias with another number of heads.
    """
    if position_bias is None:
        return None
    if isinstance(position_bias, str):
        named = {"decay": DecayBias, "bucketed": BucketedBias}
        if position_bias in named:
            return named[position_bias](num_heads, name=f"{position_bias}_bias")
    elif hasattr(position_bias, "log_weights") and not isinstance(position_bias, type):
        if position_bias.num_heads != num_heads:
            raise ValueError(
                f"position_bias must have as many heads as the attention, {num_heads}. "
                f"Received: position_bias with num_heads={position_bias.num_heads}"
            )
        return position_bias
    raise ValueError(
        f'position_bias must be None, "decay", "bucketed" or a bias layer. Received: position_bias={position_bias!r}'
    )


def _bucket_starts(num_buckets: int, max_distance: int) -> np.ndarray:
    """Smallest distance of each bucket of one direction, in integers so that no boundary depends on rounding."""
    exact = num_buckets // 2
    steps = num_buckets - exact
    starts = list(range(exact))
    for step in range(steps):
        # The smallest d with d >= exact * (max_distance / exact)^(step / steps).
        distance = max(starts[-1], exact)
        while distance**steps * exact**step < exact**steps * max_distance**step:
            distance += 1
        starts.append(distance)
    return np.array(starts)
