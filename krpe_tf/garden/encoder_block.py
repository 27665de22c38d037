"""One layer of the encoder."""

import tensorflow as tf
import tf_keras

NORM_EPSILON = 1e-6


class EncoderBlock(tf_keras.layers.Layer):
    """x + attention(norm(x)), then x + feed_forward(norm(x)), as in `krpe_tf.models.Encoder`.

    Model Garden's `TransformerScaffold` with `norm_first` is another function: its keys and values come from x before
    the norm.

    Args:
        attention: a tf_keras attention layer.
        width: width of the inputs and outputs.
        intermediate_size: width inside the feed-forward block.
        dropout_rate: rate on the output of the feed-forward block.
        kernel_initializer: a function that returns a new initializer.
        name: name of the layer.
    """

    def __init__(
        self, attention, width: int, intermediate_size: int, dropout_rate: float, kernel_initializer, name: str
    ):
        super().__init__(name=name)
        self.attention = attention
        self.attention_norm = make_norm("self_attention_layer_norm")
        self.feed_forward_norm = make_norm("output_layer_norm")
        self.feed_forward_in = tf_keras.layers.Dense(
            intermediate_size, activation="gelu", kernel_initializer=kernel_initializer(), name="intermediate"
        )
        self.feed_forward_out = tf_keras.layers.Dense(width, kernel_initializer=kernel_initializer(), name="output")
        self.dropout = tf_keras.layers.Dropout(dropout_rate)

    def call(self, x, padding_mask, training=None):
        y = self.attention_norm(x)
        y = self.attention(y, y, attention_mask=padding_mask, training=training)
        x += tf.cast(y, x.dtype)
        y = self.feed_forward_out(self.feed_forward_in(self.feed_forward_norm(x)))
        return x + tf.cast(self.dropout(y, training=training), x.dtype)


def make_norm(name: str) -> tf_keras.layers.Layer:
    """Return a layer norm that computes in float32: half precision is too coarse for its statistics."""
    return tf_keras.layers.LayerNormalization(epsilon=NORM_EPSILON, dtype="float32", name=name)
