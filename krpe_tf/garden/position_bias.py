"""A position bias as a tf_keras layer."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf
import tf_keras

from ..position_bias import BiasLayer


@tf_keras.utils.register_keras_serializable("krpe_tf")
class PositionBias(tf_keras.layers.Layer):
    """A bias of `krpe_tf` whose weights belong to tf_keras, which trains, mirrors and saves them.

        shared = krpe_tf.garden.PositionBias(krpe_tf.LearnedBias(num_heads=4, max_distance=127))
        layers = [krpe_tf.garden.KernelizedRPEAttention(4, 64, position_bias=shared) for _ in range(2)]

    The Keras layer itself computes, with this layer's weights in place of its own. Called with offsets, it returns b,
    as the Keras layer does.

    Args:
        bias: a bias layer of `krpe_tf` or of a subclass, whose weights are copied; or its serialised form, from
            `keras.saving.serialize_keras_object`.

    Raises:
        ValueError: If `bias` is not such a layer.
    """

    def __init__(self, bias, name: str | None = None, **kwargs):
        if isinstance(bias, dict):
            bias = keras.saving.deserialize_keras_object(bias)
        if not isinstance(bias, BiasLayer):
            raise ValueError(f"`bias` must be a bias layer of krpe_tf. Received: bias={bias!r}")
        # Half precision leaves a bias alone.
        super().__init__(name=name or bias.name, **{**kwargs, "dtype": "float32"})
        self.num_heads = bias.num_heads
        # In a function, so that tf_keras does not track the Keras layer and its weights as parts to save.
        self._definition = lambda: bias
        with tf.name_scope(self.name):
            for variable in bias.weights:
                start = keras.ops.convert_to_numpy(variable)
                self.add_weight(
                    variable.name,
                    start.shape,
                    dtype="float32",
                    initializer=tf_keras.initializers.Constant(start),
                    trainable=variable.trainable,
                )
        self.built = True

    @contextlib.contextmanager
    def applied(self) -> Iterator[BiasLayer]:
        """Yield the Keras layer, which computes with this layer's weights while the scope is open."""
        bias = self._definition()
        pairs = zip(bias.weights, self.weights, strict=True)
        with keras.StatelessScope([(own, tf.convert_to_tensor(weight)) for own, weight in pairs]):
            yield bias

    def call(self, offsets):
        return self.log_weights(offsets)

    @tf.autograph.experimental.do_not_convert
    def log_weights(self, offsets):
        """Return b at these offsets, key position minus query position, as the Keras layer does."""
        with self.applied() as bias:
            return bias.log_weights(offsets)

    def get_config(self):
        return {**super().get_config(), "bias": keras.saving.serialize_keras_object(self._definition())}
