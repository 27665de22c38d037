"""A position bias as a tf_keras layer."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf
import tf_keras

from ..position_bias import BiasLayer


@tf_keras.utils.register_keras_serializable("krpe_tf")
class PositionBias(tf_keras.layers.Layer):
    """A bias of `krpe_tf`, computed from weights that tf_keras holds: it trains, mirrors and saves them.

        shared = krpe_tf.garden.PositionBias(krpe_tf.LearnedBias(num_heads=4, max_distance=127))
        layers = [krpe_tf.garden.KernelizedRPEAttention(4, 64, position_bias=shared) for _ in range(2)]

    The mathematics is the Keras layer's own: whatever it computes, it computes with this layer's weights in place of
    its own. Called with offsets, it gives b, as the Keras layer does.

    Args:
        bias: any bias layer of `krpe_tf`, or a subclass of one; the weights start where its own stand now, and share
            nothing with them later. Or what `keras.saving.serialize_keras_object` makes of one.

    Raises:
        ValueError: if `bias` is not such a layer.
    """

    def __init__(self, bias, name: str | None = None, **kwargs):
        if isinstance(bias, dict):
            bias = keras.saving.deserialize_keras_object(bias)
        if not isinstance(bias, BiasLayer):
            raise ValueError(f"bias must be a bias layer of krpe_tf. Received: bias={bias!r}")
        # Half precision leaves a bias alone.
        super().__init__(name=name or bias.name, **{**kwargs, "dtype": "float32"})
        self.num_heads = bias.num_heads
        # Behind a function, where tf_keras does not take the Keras layer and its weights for parts to save.
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
        """The Keras layer, which reads this layer's weights for its own while this is open."""
        bias = self._definition()
        pairs = zip(bias.weights, self.weights, strict=True)
        with keras.StatelessScope([(own, tf.convert_to_tensor(weight)) for own, weight in pairs]):
            yield bias

    def call(self, offsets):
        return self.log_weights(offsets)

    @tf.autograph.experimental.do_not_convert
    def log_weights(self, offsets):
        """b at these offsets, key position minus query position: as the Keras layer's."""
        with self.applied() as bias:
            return bias.log_weights(offsets)

    def get_config(self):
        return {**super().get_config(), "bias": keras.saving.serialize_keras_object(self._definition())}
