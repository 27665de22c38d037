"""Decoding: causal attention that reads a sequence a step at a time, from a state that does not grow."""

from keras import ops

from ..checks import check_at_least
from ..position_bias import NoBias
from ..toeplitz import initial_state, stream
from .checks import check_step, check_widths
from .masks import zero_masked
from .projections import HeadProjections


class Decoding(HeadProjections):
    """What `KernelizedRPEAttention` needs to decode; it brings `causal`, the feature map and the position bias."""

    @property
    def can_decode(self) -> bool:
        """Whether `initial_state` and `step` serve this layer."""
        served = self.causal and self.feature_map != "softmax" and self.sliding_window is None
        return served and hasattr(self._stream_bias, "tails")

    def initial_state(self, batch_size: int) -> dict:
        """Return the state of streams that have read nothing: arrays of zeros of constant size.

        Args:
            batch_size: number of streams.

        Raises:
            ValueError: If the layer is not causal, if its feature map is "softmax", or if its bias has no tails.
        """
        check_at_least(1, batch_size=batch_size)
        if not self.can_decode:
            raise ValueError(
                'decoding needs `causal=True`, a feature map other than "softmax", whose state would grow with the '
                "length, no sliding window, and a bias with a near band and tails; call the layer on the whole "
                f"sequence instead. Received: causal={self.causal}, feature_map={self.feature_map!r}, "
                f"sliding_window={self.sliding_window}, position_bias={self.position_bias!r}"
            )
        features = {"elu": self.key_dim, "taylor": self.key_dim + 1, "trigonometric": 2 * self.num_features}
        m = features.get(self.feature_map, self.num_features)
        return initial_state(self._stream_bias, batch_size, m, self.value_dim)

    def step(self, query, state: dict, mask=None, reset=None, count=None):
        """Read the next positions of causal self-attention, in constant memory: `layer(x, x)`, piece by piece.

        Args:
            query: (batch, n, width), the next n positions, n known and at least 1.
            state: from `initial_state`, or from the previous step.
            mask: None, or bool or integer (batch, n), zero where a position is padding: hidden from the others, with an
                attention of zero. It still counts as a position.
            reset: None, or bool or integer: (batch,), nonzero where a batch entry starts a new sequence with the first
                of these positions, or (batch, n), nonzero at each position that starts one; then what
                came before must be finite.
            count: None, or integers () or (batch,), from 0 to n: how many first positions an entry reads. The others
                do not count as positions; what is returned for them means nothing. Not together with a `reset`
                (batch, n).

        Returns:
            (batch, n, output width), and the new state.

        Raises:
            ValueError: As `initial_state`, if the layer is not built, if `query` does not have rank 3, or if `state`
                is for another batch size.
        """
        expected = self.initial_state(1)
        self._check_built()
        mask, reset, count = (None if x is None else ops.convert_to_tensor(x) for x in (mask, reset, count))
        check_step(query, state, expected, mask, reset, count)
        check_widths((query,), self.input_widths)
        starts = None
        if reset is not None:
            reset = ops.cast(reset, "bool")
            reset, starts = (reset, None) if len(reset.shape) == 1 else (reset[:, 0], reset)
            # Not left to `starts`, which multiplies by zero: what came before may hold NaN.
            kept = ops.logical_not(reset)
            state = {name: zero_masked(x, kept[:, None, None]) for name, x in state.items()}
        if count is not None:
            query = zero_masked(query, ops.arange(query.shape[1]) < ops.reshape(ops.cast(count, "int32"), (-1, 1)))
        query = zero_masked(query, mask)
        arrays = self._project(query, query, query, mask, mask)
        positive = self.feature_map != "trigonometric"
        output, state = stream(*arrays, self._stream_bias, state, mask, starts, count, positive)
        return self._join_heads(ops.transpose(output, (0, 2, 1, 3)), query), state

    def _check_built(self):
        if not self.built:
            raise ValueError(f"the layer must be built: call it on an input first. Received: built={self.built}")

    @property
    def _stream_bias(self):
        return self.position_bias or NoBias(self.num_heads)
