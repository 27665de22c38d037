"""Learned absolute positions, as in BERT: what the biases over offsets replace."""

import keras
import numpy as np
from keras import layers, ops

from ..checks import check_at_least, known_values
from ..finite import FiniteWeights
from ..toeplitz import active_overrides


@keras.saving.register_keras_serializable("krpe_tf")
class AbsolutePositions(FiniteWeights, layers.Layer):
    """Add a learned vector for each place to the embeddings `(batch, n, width)` of a row.

    Args:
        length: How many places there are; longer rows are refused.
        initializer: Of the table.

    Raises:
        ValueError: For a length below 1; when called, for a longer row, or one that holds several documents.
    """

    def __init__(self, length: int, initializer="glorot_uniform", **kwargs):
        check_at_least(1, absolute_positions=length)
        super().__init__(**kwargs)
        self.length = length
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        shape = (self.length, input_shape[-1])
        self.table = self.add_weight(shape=shape, initializer=self.initializer, name="table")

    def call(self, x):
        self._check_call(x)
        # Not `table[:n]`: of more places than there are it would be shorter, and one place would fit them all.
        return x + ops.slice(ops.convert_to_tensor(self.table), (0, 0), ops.shape(x)[1:])

    def step(self, x, places, count=None):
        """Add the vectors of the places from `places` `(batch,)` on to the embeddings `(batch, k, width)` of a step.

        Args:
            x: The embeddings.
            places: Integers `(batch,)`.
            count: None, or integers `()` or `(batch,)`: how many first tokens of the k there are, as in a step. What
                follows them is padding, which needs no place.

        Raises:
            ValueError: If a place is known to be behind the last one.
        """
        known, counts = known_values(places), x.shape[1] if count is None else known_values(count)
        # A count of another shape is refused by the layers behind this one.
        if known is not None and known.size and np.shape(counts) in ((), known.shape) and counts is not None:
            counts = np.broadcast_to(counts, known.shape)
            row = (known + counts).argmax()
            if known[row] + counts[row] > self.length:
                raise ValueError(
                    f"a model with `absolute_positions` reads at most {self.length} tokens. "
                    f"Received: {counts[row]} tokens behind {known[row]}"
                )
        places = places[:, None] + ops.arange(x.shape[1], dtype=places.dtype)
        table = ops.convert_to_tensor(self.table)
        return x + ops.cast(ops.take(table, ops.minimum(places, self.length - 1), axis=0), x.dtype)

    def compute_output_spec(self, x):
        self._check_call(x)
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def _check_call(self, x):
        if x.shape[1] is not None and x.shape[1] > self.length:
            raise ValueError(
                f"a model with `absolute_positions` reads rows of at most {self.length} tokens. "
                f"Received: {x.shape[1]} tokens"
            )
        if active_overrides().segment_ids is not None:
            raise ValueError(
                "a model with `absolute_positions` takes no `segment_ids`: places count from the start of a row; "
                "put each document into a row of its own. Received: segment_ids"
            )

    def get_config(self):
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "length": self.length, "initializer": initializer}
