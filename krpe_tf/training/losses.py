"""The loss of the global batch."""

import keras
import numpy as np
from keras import ops

from ..checks import check_rate
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

    Args:
        label_smoothing: Share s of the labels that is spread evenly over all classes, in [0, 1): the loss of a label is
            (1 - s) * -log softmax(logits)[label] + s * the mean over all classes of -log softmax(logits).

    Call arguments:
        y_true: Class ids (batch, ...).
        y_pred: Logits (batch, ..., classes).
        sample_weight: (batch, ...), of the rank of `y_true` or less; all ones if None.
    """

    def __init__(self, name: str = "cross_entropy", dtype=None, label_smoothing: float = 0.0):
        check_rate(label_smoothing=label_smoothing)
        super().__init__(name=name, reduction="sum", dtype=dtype)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        losses = ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        if not self.label_smoothing:
            return losses
        spread = ops.logsumexp(y_pred, axis=-1) - ops.mean(y_pred, axis=-1)
        return (1 - self.label_smoothing) * losses + self.label_smoothing * spread

    def __call__(self, y_true, y_pred, sample_weight=None):
        y_pred = ops.convert_to_tensor(y_pred, self.dtype)
        losses = self.call(ops.convert_to_tensor(y_true, "int32"), y_pred)
        weights = ops.ones_like(losses)
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, losses.dtype)
            while len(sample_weight.shape) < len(losses.shape):
                sample_weight = sample_weight[..., None]
            weights = weights * sample_weight
        return _global_mean(losses, weights)

    def get_config(self):
        smoothing = {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}
        return {"name": self.name, **smoothing}


@keras.saving.register_keras_serializable("krpe_tf")
class GlobalVectorError(keras.losses.Loss):
    """How far vectors are from those to imitate: of tokens, and of their mean over each row, in equal parts.

        mean of |x - y|^2 / |y|^2 over tokens and layers + the same of the rows' means

    Both means are over what has weight in the global batch, as in `GlobalCrossEntropy`.

    Call arguments:
        y_true: The vectors y to imitate, `(batch, layers, n, width)`.
        y_pred: The vectors x, of the same shape.
        sample_weight: `(batch, n)`, zero where padded; all ones if None.
    """

    def __init__(self, name: str = "vector_error", dtype=None):
        super().__init__(name=name, reduction="sum", dtype=dtype)

    def __call__(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = (ops.convert_to_tensor(y, self.dtype) for y in (y_true, y_pred))
        weights = ops.ones_like(y_true[:, 0, :, 0]) if sample_weight is None else ops.cast(sample_weight, self.dtype)
        shown = weights[:, None, :, None]
        # Sums in place of means: the error is relative.
        of_rows = self.call(*(ops.sum(y * shown, axis=2) for y in (y_true, y_pred)))
        return _global_mean(self.call(y_true, y_pred), weights) + _global_mean(of_rows, ops.max(weights, axis=1))

    def call(self, y_true, y_pred):
        """Return the errors, (batch, n), mean over the layers."""
        errors = ops.divide_no_nan(ops.sum(ops.square(y_pred - y_true), axis=-1), ops.sum(ops.square(y_true), axis=-1))
        return ops.mean(errors, axis=1)

    def get_config(self):
        return {"name": self.name}


def _global_mean(losses, weights):
    return ops.divide_no_nan(ops.sum(losses * weights), sum_over_replicas(ops.sum(weights)))
