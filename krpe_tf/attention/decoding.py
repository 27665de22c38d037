"""Decoding: attention that reads a sequence a step at a time, from a state that does not grow.

With the exact kernel ("softmax") the state is a cache of keys and values, of a size that is known ahead.
"""

from keras import ops

from ..checks import check_at_least
from ..feature_maps import apply_feature_map
from ..position_bias import NoBias
from ..toeplitz import (
    initial_cache,
    initial_state,
    is_grid,
    make_cache,
    read_cache,
    read_sums,
    stream,
    stream_cache,
    sum_keys,
)
from .checks import check_cross_step, check_step, check_widths
from .kernel import heads_first
from .masks import zero_masked
from .projections import HeadProjections


class Decoding(HeadProjections):
    """What `KernelizedRPEAttention` needs to decode; it brings `causal`, the feature map and the position bias."""

    @property
    def can_decode(self) -> bool:
        """Whether `initial_state` and `step` serve this layer at any length, in constant memory."""
        served = self.causal and not self._exact and self.sliding_window is None
        return served and hasattr(self._stream_bias, "tails")

    def initial_state(self, batch_size: int, max_length: int | None = None) -> dict:
        """Return the state of streams that have read nothing: arrays of zeros of constant size.

        Args:
            batch_size: number of streams.
            max_length: with the feature map "softmax", how many positions a stream may have: the state is a cache of
                all their keys and values. Without effect on other maps.

        Raises:
            ValueError: If the layer is not causal, if its feature map is "softmax" and there is no `max_length`, or if
                its bias has no tails.
        """
        check_at_least(1, batch_size=batch_size)
        if self._exact and max_length is not None:
            check_at_least(1, max_length=max_length)
            served = self.causal and self.sliding_window is None and not is_grid(self._stream_bias)
        else:
            served = self.can_decode
        if not served:
            raise ValueError(
                'decoding needs `causal=True`, a feature map other than "softmax", whose state would grow with the '
                "length, or a `max_length`, no sliding window, and a bias with a near band and tails; call the layer "
                f"on the whole sequence instead. Received: causal={self.causal}, feature_map={self.feature_map!r}, "
                f"max_length={max_length}, sliding_window={self.sliding_window}, position_bias={self.position_bias!r}"
            )
        if self._exact:
            return initial_cache(self.num_heads, batch_size, max_length, self.key_dim, self.value_dim)
        return initial_state(self._stream_bias, batch_size, self._feature_width, self.value_dim)

    def step(self, query, state: dict, mask=None, reset=None, count=None):
        """Read the next positions of causal self-attention, in constant memory: `layer(x, x)`, piece by piece.

        Args:
            query: (batch, n, width), the next n positions, n known and at least 1.
            state: from `initial_state`, or from the previous step.
            mask: None, or bool or integer (batch, n), zero where a position is padding: hidden from the others, with an
                attention of zero. It still counts as a position.
            reset: None, or bool or integer: (batch,), nonzero where a batch entry starts a new sequence with the first
                of these positions, or (batch, n), nonzero at each position that starts one; then what
                came before must be finite. Not (batch, n) with the feature map "softmax".
            count: None, or integers () or (batch,), from 0 to n: how many first positions an entry reads. The others
                do not count as positions; what is returned for them means nothing. Not together with a `reset`
                (batch, n).

        Returns:
            (batch, n, output width), and the new state.

        Raises:
            ValueError: As `initial_state`, if the layer is not built, if `query` does not have rank 3, if `state` is
                for another batch size, or if more positions are known to be read than `max_length`.
        """
        keys = state.get("keys") if isinstance(state, dict) else None
        expected = self.initial_state(1, 1 if keys is None else keys.shape[2])
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
        if self._exact:
            if starts is not None:
                raise ValueError(
                    '`reset` must have shape (batch,) with `feature_map="softmax"`. '
                    f"Received: reset.shape={tuple(starts.shape)}"
                )
            output, state = stream_cache(*arrays, self._stream_bias, state, mask, count)
            output = output if mask is None else zero_masked(output, mask[:, None])
        else:
            output, state = stream(*arrays, self._stream_bias, state, mask, starts, count, self._positive)
        return self._join_heads(ops.transpose(output, (0, 2, 1, 3)), query), state

    def cross_state(self, value, value_mask=None) -> dict:
        """Read the keys of cross-attention once, for all queries that `cross_step` brings.

        It holds "sums" (batch, heads, m, value_dim + 1), the sum of phi(k)^T [v, 1] over the keys, in float32: its size
        does not depend on their number. With the feature map "softmax" it holds "keys" (batch, heads, n_k, key_dim) and
        "values" (batch, heads, n_k, value_dim + 1), which are [v, 1].

        Args:
            value: (batch, n_k, width).
            value_mask: None, or bool or integer (batch, n_k), zero where padded: adds nothing, whatever it holds.

        Returns:
            A dict of these.

        Raises:
            ValueError: If the layer is not built, or has what needs positions: a bias, a causal mask or a window.
        """
        self._check_cross()
        value = zero_masked(ops.convert_to_tensor(value), value_mask)
        check_widths((value, value), self.input_widths[1:], ("value", "key"))
        key, value = heads_first(self.key_dense(value)), heads_first(self.value_dense(value))
        key = self._features(key)
        return make_cache(key, value, value_mask) if self._exact else {"sums": sum_keys(key, value, value_mask)}

    @property
    def cross_shapes(self) -> dict[str, tuple]:
        """The shapes of what `cross_state` returns: without the batch, and None for the number of keys."""
        if self._exact:
            return {
                "keys": (self.num_heads, None, self.key_dim),
                "values": (self.num_heads, None, self.value_dim + 1),
            }
        return {"sums": (self.num_heads, self._feature_width, self.value_dim + 1)}

    def cross_step(self, query, state: dict):
        """Compute cross-attention of any queries to the keys that a state holds: `layer(query, value)`.

        Args:
            query: (batch, n, width). Also several times as many rows as the state has: a row of the state then serves
                as many of them that follow one another, such as the beams of a search.
            state: From `cross_state`. It stays as it is.

        Returns:
            (batch, n, output width). A query of no keys gets an attention of zero.

        Raises:
            ValueError: As `cross_state`; for a state that does not fit.
        """
        self._check_cross()
        query = ops.convert_to_tensor(query)
        check_cross_step(query, state, self.cross_shapes)
        check_widths((query,), self.input_widths)
        rows, n, width = ops.shape(query)
        # There are no positions: queries of several rows are as good as several queries of one row.
        together = ops.reshape(query, (ops.shape(next(iter(state.values())))[0], -1, width))
        features = self._features(heads_first(self.query_dense(together)))
        output = read_cache(features, state) if self._exact else read_sums(features, state["sums"], self._positive)
        output = self._join_heads(ops.transpose(output, (0, 2, 1, 3)), together)
        return ops.reshape(output, (rows, n, *output.shape[2:]))

    def _features(self, heads):
        return apply_feature_map(self.feature_map, heads, self.projection, self.normalize)

    @property
    def _exact(self) -> bool:
        return self.feature_map == "softmax"

    @property
    def _positive(self) -> bool:
        return self.feature_map != "trigonometric"

    @property
    def _feature_width(self) -> int:
        widths = {"elu": self.key_dim, "trigonometric": 2 * self.num_features}
        return widths.get(self.feature_map, self.num_features)

    def _check_cross(self):
        self._check_built()
        if self.position_bias is not None or self.causal or self.sliding_window is not None:
            raise ValueError(
                "`cross_state` and `cross_step` need `position_bias=None`, `causal=False` and no sliding window: a "
                f"query has no place among the keys. Received: position_bias={self.position_bias!r}, "
                f"causal={self.causal}, sliding_window={self.sliding_window}"
            )

    def _check_built(self):
        if not self.built:
            raise ValueError(f"the layer must be built: call it on an input first. Received: built={self.built}")

    @property
    def _stream_bias(self):
        return self.position_bias or NoBias(self.num_heads)
