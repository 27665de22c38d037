"""Bits per byte, by which language models of any tokens compare."""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("krpe_tf")
class BitsPerByte(keras.metrics.Metric):
    """How many bits a byte of text takes: comparable between models whose tokens differ.

        sum(weight * -log2 softmax(logits)[label]) / sum(weight * token_bytes[label])

    Both sums run over all batches, in float32: how targets are distributed over them changes nothing but the rounding.
    A token that stands for no text, such as the end, takes bits and has no bytes.

    Args:
        token_bytes: How many bytes of text each id stands for, see `ReversibleTokenizer.token_bytes`.
    """

    def __init__(self, token_bytes: Sequence[int] | np.ndarray, name: str = "bits_per_byte", dtype=None):
        super().__init__(name=name, dtype=dtype or "float32")
        self.token_bytes = np.asarray(token_bytes, "float32")
        self.nats = self.add_variable(shape=(), initializer="zeros", name="nats")
        self.bytes = self.add_variable(shape=(), initializer="zeros", name="bytes")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch.

        Args:
            y_true: Ids `(batch, ...)`.
            y_pred: Logits `(batch, ..., vocabulary_size)`.
            sample_weight: `(batch, ...)`; all ones if None.
        """
        labels = ops.cast(y_true, "int32")
        losses = ops.sparse_categorical_crossentropy(labels, ops.cast(y_pred, "float32"), from_logits=True)
        weights = ops.ones_like(losses) if sample_weight is None else ops.cast(sample_weight, losses.dtype)
        self.nats.assign_add(ops.cast(ops.sum(losses * weights), self.dtype))
        counts = ops.take(ops.convert_to_tensor(self.token_bytes), labels)
        self.bytes.assign_add(ops.cast(ops.sum(counts * weights), self.dtype))

    def result(self):
        """Return the bits per byte; 0 before the first byte."""
        return ops.divide_no_nan(self.nats, self.bytes * math.log(2))

    def get_config(self):
        return {**super().get_config(), "token_bytes": self.token_bytes.astype(int).tolist()}
