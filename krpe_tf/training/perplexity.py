"""Perplexity, by which models of the same tokens compare."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("krpe_tf")
class Perplexity(keras.metrics.Metric):
    """Measure the perplexity, exp of the mean cross-entropy of a token.

        exp(sum(weight * -log softmax(logits)[label]) / sum(weight))

    Both sums run over all batches, in float32. Label smoothing, of which a loss knows, has no part in it.
    """

    def __init__(self, name: str = "perplexity", dtype=None):
        super().__init__(name=name, dtype=dtype or "float32")
        self.nats = self.add_variable(shape=(), initializer="zeros", name="nats")
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

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
        self.count.assign_add(ops.cast(ops.sum(weights), self.dtype))

    def result(self):
        """Return the perplexity; 1 before the first token."""
        return ops.exp(ops.divide_no_nan(self.nats, self.count))
