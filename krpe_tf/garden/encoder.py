"""The encoder of `krpe_tf.models`, for Model Garden's tasks."""

import tf_keras
from official.modeling.hyperparams import base_config
from official.nlp.modeling.layers import OnDeviceEmbedding

from ..checks import check_at_least, check_one_of, check_rate
from ..position_bias import BucketedBias, DecayBias, LearnedBias
from .attention import KernelizedRPEAttention
from .encoder_block import EncoderBlock, make_norm
from .encoder_config import EncoderConfig
from .position_bias import PositionBias

BIASES = {"decay": DecayBias, "bucketed": BucketedBias, "learned": LearnedBias}


@base_config.bind(EncoderConfig)
@tf_keras.utils.register_keras_serializable("krpe_tf")
class Encoder(tf_keras.layers.Layer):
    """The transformer of `krpe_tf.models.Encoder`, with the inputs and outputs of Model Garden's `BertEncoderV2`.

    Model Garden builds it for the encoder type "any":

        config = official.nlp.configs.encoders.EncoderConfig(type="any", any=krpe_tf.garden.EncoderConfig())
        encoder = official.nlp.configs.encoders.build_encoder(config)

    There are no absolute positions, so that any length runs, and no token types: "input_type_ids" is ignored. A padded
    token attends as others do, and no other token sees it.

    Inputs: a dict of "input_word_ids" and "input_mask", integers (batch, n), zero in the mask where padded.

    Outputs: a dict of "sequence_output" (batch, n, hidden_size), "pooled_output" (batch, hidden_size), of the first
    token, and "encoder_outputs", a tensor (batch, n, hidden_size) for each layer, the last of them normed.

    Args:
        config: sizes, bias and rates.

    Raises:
        ValueError: If a size is below 1, a rate is outside [0, 1), the heads do not divide `hidden_size`, or
            `position_bias.type` is unknown.
    """

    def __init__(self, config: EncoderConfig, **kwargs):
        names = ("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "intermediate_size")
        check_at_least(1, **{name: getattr(config, name) for name in names})
        check_rate(dropout_rate=config.dropout_rate, attention_dropout_rate=config.attention_dropout_rate)
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                "`num_attention_heads` must divide `hidden_size`. Received: "
                f"num_attention_heads={config.num_attention_heads}, hidden_size={config.hidden_size}"
            )
        super().__init__(**kwargs)
        self.config = config.replace()  # a copy

        def initializer():
            return tf_keras.initializers.TruncatedNormal(stddev=config.initializer_range)

        self.embedding = OnDeviceEmbedding(
            config.vocab_size, config.hidden_size, initializer=initializer(), name="word_embeddings"
        )
        self.embedding_dropout = tf_keras.layers.Dropout(config.dropout_rate)

        def position_bias():
            bias = make_bias(config)
            return None if bias is None else PositionBias(bias)

        shared_bias = position_bias()
        self.blocks = []
        for index in range(config.num_layers):
            attention = KernelizedRPEAttention(
                config.num_attention_heads,
                config.hidden_size // config.num_attention_heads,
                num_features=config.num_features,
                feature_map=config.feature_map,
                normalize=config.normalize,
                position_bias=shared_bias if config.share_position_bias else position_bias(),
                causal=config.causal,
                route=config.route,
                seed=config.seed + index,
                dropout=config.attention_dropout_rate,
                kernel_initializer=initializer(),
                name="self_attention",
            )
            sizes = config.hidden_size, config.intermediate_size, config.dropout_rate
            self.blocks.append(EncoderBlock(attention, *sizes, initializer, name=f"transformer/layer_{index}"))
        self.final_norm = make_norm("final_layer_norm")
        self.pooler = tf_keras.layers.Dense(
            config.hidden_size, activation="tanh", kernel_initializer=initializer(), name="pooler_transform"
        )
        # Model Garden's models call an encoder with these, and build on its outputs.
        names = ("input_word_ids", "input_mask", "input_type_ids")
        self.inputs = {name: tf_keras.Input((None,), dtype="int32", name=name) for name in names}

    def call(self, inputs, training=None):
        x = self.embedding_dropout(self.embedding(inputs["input_word_ids"]), training=training)
        outputs = []
        for block in self.blocks:
            x = block(x, inputs["input_mask"], training=training)
            outputs.append(x)
        outputs[-1] = self.final_norm(x)
        return {
            "sequence_output": outputs[-1],
            "pooled_output": self.pooler(outputs[-1][:, 0]),
            "encoder_outputs": outputs,
        }

    def get_embedding_table(self):
        """Return the embedding matrix (vocab_size, hidden_size), which a masked-LM head shares."""
        return self.embedding.embeddings

    def get_embedding_layer(self):
        """Return the embedding layer."""
        return self.embedding

    def get_config(self):
        return {**super().get_config(), "config": self.config.as_dict()}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "config": EncoderConfig(config["config"])})


def make_bias(config: EncoderConfig):
    """Return the Keras bias layer that the config names, or None."""
    chosen = config.position_bias
    check_one_of((None, *BIASES), **{"position_bias.type": chosen.type})
    if chosen.type is None:
        return None
    return BIASES[chosen.type](config.num_attention_heads, **chosen.get().as_dict(), name=f"{chosen.type}_bias")
