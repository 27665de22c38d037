"""Loss and optimizer of the global batch: a step on several replicas is the step that one device makes.

On JAX a program sees global arrays, and nothing here differs from what Keras does. Under `tf.distribute` every replica
sees its rows alone. Keras then takes the mean of the replicas' means, though they hold different numbers of masked
tokens; clips each replica's gradient before it sums them; and asks the first replica alone whether a float16 gradient
overflowed.
"""

import keras
from keras import ops

# Pulling these towards zero would not simplify the model: a bias of zero is no position, a scale of zero is no signal.
NOT_DECAYED = ("bias", "gamma", "beta", "near", "table", "class_weights", "log_amplitude", "log_rate")


def _replica_context():
    """TensorFlow's replica context, or None where this is the only replica or the code of all of them."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def sum_over_replicas(tensors):
    """The sum of a tensor, or of each of a list, over all replicas; the tensor itself where there is one replica."""
    context = _replica_context()
    return tensors if context is None else context.all_reduce("SUM", tensors)


@keras.saving.register_keras_serializable("krpe_tf")
class GlobalCrossEntropy(keras.losses.Loss):
    """The mean cross-entropy, in nats, over what has weight in the global batch.

        sum(weight * -log softmax(logits)[label]) / sum(weight),    both sums over the rows of all replicas

    Replicas may hold different numbers of masked tokens, or of rows: each counts once. On a replica the loss is its
    share, which gradients add up over replicas; a batch without any weight has loss 0.

    Call arguments:
        y_true: class ids (batch, ...).
        y_pred: logits (batch, ..., classes).
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


@keras.saving.register_keras_serializable("krpe_tf")
class GlobalAdamW(keras.optimizers.AdamW):
    """AdamW on the gradient of the global batch: summed over replicas before it is clipped.

    Weight decay leaves biases, norm scales and position biases alone: the weights named in `NOT_DECAYED`. A gradient
    that names rows, as an embedding's does, is added up row by row first: Keras would clip and square what each of a
    row's tokens gives by itself.

    Args: those of `keras.optimizers.AdamW`.
    """

    def build(self, variables):
        if not self.built:
            # By the weight itself: Keras would look for each name anywhere in the path.
            self.exclude_from_weight_decay(var_list=[v for v in variables if v.name in NOT_DECAYED])
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            known = [i for i, gradient in enumerate(grads) if gradient is not None]
            summed = sum_over_replicas([tf.convert_to_tensor(grads[i]) for i in known])
            grads = list(grads)
            for i, gradient in zip(known, summed, strict=True):
                grads[i] = gradient
        super().apply(grads, trainable_variables)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        """Keras sums here, after clipping; `apply` has done it."""
        return list(grads_and_vars)


@keras.saving.register_keras_serializable("krpe_tf")
class GlobalLossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Loss scaling that skips a step where the gradient of any replica has overflowed.

    Args: those of `keras.optimizers.LossScaleOptimizer`.
    """

    def check_finite(self, grads):
        finite = super().check_finite(grads)
        return ops.equal(sum_over_replicas(ops.cast(ops.logical_not(finite), "float32")), 0)
