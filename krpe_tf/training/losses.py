"""The loss of the global batch."""

import keras
import numpy as np
from keras import ops

from .replicas import sum_over_replicas


def class_probabilities(logits) -> np.ndarray:
    """Return the softmax of logits (batch, classes), in numpy."""
    logits = np.asarray(logits, "float64")
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("krpe_tf")
class GlobalCrossEntropy(keras.losses.Loss):
    """Mean cross-entropy, in nats, over what has weight in the global batch.

        sum(weight * -log softmax(logits)[label]) / sum(weight),    both sums over the rows of all replicas

    Replicas may hold different numbers of masked tokens, or of rows: each counts once. On a replica the loss is its
    share, and gradients are summed over replicas; a batch without any weight has loss 0.

    Call arguments:
        y_true: Class ids (batch, ...).
        y_pred: Logits (batch, ..., classes).
        sample_weight: (batch, ...), of the rank of `y_true` or less; all ones if None.
    """

    def __init__(self, name: str = "cross_entropy", dtype=None):
        super().__init__(name=name, reduction="sum", dtype=dtype)

    def call(self, y_true, y_pred):
        return ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    def __call__(self, y_true, y_pred, sample_weight=None):
        y_pred = ops.convert_to_tensor(y_pred, self.dtype)
        losses = self.call(ops.convert_to_tensor(y_true, "int32"), y_pred)
        weights = ops.ones_like(losses)
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, losses.dtype)
            while len(sample_weight.shape) < len(losses.shape):
                sample_weight = sample_weight[..., None]
            weights = weights * sample_weight
        return ops.divide_no_nan(ops.sum(losses * weights), sum_over_replicas(ops.sum(weights)))

    def get_config(self):
        return {"name": self.name}
