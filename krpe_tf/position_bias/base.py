"""What all biases share, and the base of the one-dimensional ones."""

import numpy as np
from keras import layers, ops

from ..checks import check_at_least
from ..finite import FiniteWeights

# How much more than its slope a head gives its neighbour at the start: e^6 times the weight.
PEAK = 6.0


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Return the slopes s_h = 2^(-8 h / heads), h = 1..heads, that every bias starts from (ALiBi, arXiv 2108.12409)."""
    return 2.0 ** (-8.0 * np.arange(1, num_heads + 1) / num_heads)


def starting_bias(num_heads: int, radius: int, offsets: np.ndarray) -> np.ndarray:
    """Return the values that biases over one axis start from: a slope, and a peak at a neighbour of each head's own.

        b_t = -s_h |t| + 6 [t = o_h and |t| < radius],        o_1, o_2, ... = -1, 1, -2, 2, ...

    Heads look at different neighbours from the first step on, like the weights of a convolution (ConViT, arXiv
    2103.10697); from slopes alone all look at both sides alike, and the first hundreds of steps go into telling left
    from right, see docs/recipes.md.

    Args:
        num_heads: number of attention heads, at least 1.
        radius: half-width of the near band in positions; a neighbour outside of it has no peak.
        offsets: integers (n,), key position minus query position.
    """
    head = np.arange(num_heads)
    neighbours = (1 + head // 2) * np.where(head % 2, 1, -1)
    peaks = (offsets == neighbours[:, None]) & (np.abs(offsets) < radius)
    return -alibi_slopes(num_heads)[:, None] * np.abs(offsets) + PEAK * peaks


def remove_peaks(biases) -> None:
    """Leave biases that were just made their slopes alone: for heads that were trained without a bias.

    Such heads look at neighbours by what they have learned already.

    Args:
        biases: Biases over one axis, or None.
    """
    for weight in (weight for bias in biases if bias is not None for weight in bias.weights):
        if weight.name in ("near", "table"):
            weight.assign(ops.where(weight > 0, weight - PEAK, weight))  # No slope is above zero.


class BiasLayer(FiniteWeights, layers.Layer):
    """Base of all biases: a layer of float32 weights that exist from the start, called with offsets."""

    def __init__(self, num_heads: int, **kwargs):
        check_at_least(1, num_heads=num_heads)
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.supports_masking = True

    def call(self, offsets):
        return self.log_weights(offsets)

    def add_bias_weight(self, name: str, initial: np.ndarray):
        """Add a float32 weight that mixed precision leaves alone, starting at `initial`."""
        initial = np.asarray(initial, "float32")
        # `initializers.Constant` would serialise the whole array into the config.
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
        """Return log-weights of the offsets -(radius - 1) .. radius - 1, shape (num_heads, 2 * radius - 1)."""
        raise NotImplementedError

    def tails(self):
        """Return the tails before and after the query: (log_amplitudes, rates), both of shape (2, num_heads, terms)."""
        raise NotImplementedError

    def log_weights(self, offsets):
        """Return the bias itself.

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
        # A row for every side, head and term, not broadcast: LiteRT's converter folds no constant that grows much.
        terms = log_amplitudes.shape[-1]
        log_amplitudes, rates = (ops.reshape(part, (-1, 1)) for part in (log_amplitudes, rates))
        decays = log_amplitudes - rates * ops.concatenate([beyond] * rates.shape[0])
        decays = ops.reshape(decays, (2 * self.num_heads, terms, -1))
        before, after = ops.split(ops.logsumexp(decays, axis=1), 2)
        values = ops.where(distance < self.radius, near, ops.where(flat < 0, before, after))
        return ops.reshape(values, (self.num_heads, *shape))

    def compute_output_shape(self, offsets_shape):
        return (self.num_heads, *offsets_shape)
