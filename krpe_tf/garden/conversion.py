"""From an encoder that Model Garden trained to a Keras model, which `krpe_tf.export` takes."""

import keras
import tensorflow as tf

from ..models import Encoder
from .encoder import Encoder as GardenEncoder
from .encoder import make_bias


def to_keras(encoder: GardenEncoder) -> Encoder:
    """Convert an encoder of `garden` to a `krpe_tf.models.Encoder` with its weights.

    Both compute the same at every position that is no padding. The pooler is dropped. Dropout is the config's
    `dropout_rate` throughout.

    Args:
        encoder: a built `krpe_tf.garden.Encoder`: the `encoder_network` of Model Garden's models.

    Raises:
        ValueError: For any other object.
    """
    if not isinstance(encoder, GardenEncoder) or not encoder.built:
        raise ValueError(f"`encoder` must be a built krpe_tf.garden.Encoder. Received: encoder={encoder!r}")
    config = encoder.config
    converted = Encoder(
        vocabulary_size=config.vocab_size,
        num_layers=config.num_layers,
        num_heads=config.num_attention_heads,
        hidden_dim=config.hidden_size,
        intermediate_dim=config.intermediate_size,
        num_features=config.num_features,
        feature_map=config.feature_map,
        position_bias=make_bias(config),
        share_position_bias=config.share_position_bias,
        normalize=config.normalize,
        route=config.route,
        dropout=config.dropout_rate,
        causal=config.causal,
        seed=config.seed,
    )
    _assign([converted.token_embedding.embeddings], [encoder.get_embedding_table()])
    for index, block in zip(range(config.num_layers), encoder.blocks, strict=True):
        for name in ("attention_norm", "feed_forward_norm", "feed_forward_in", "feed_forward_out"):
            _assign(converted.get_layer(f"layer_{index}_{name}").weights, getattr(block, name).weights)
        assign_attention(converted.get_layer(f"layer_{index}_attention"), block.attention)
    _assign(converted.get_layer("final_norm").weights, encoder.final_norm.weights)
    return converted


def assign_attention(layer: keras.layers.Layer, source):
    """Assign to a built `krpe_tf.KernelizedRPEAttention` the weights of a built one of `garden`.

    Raises:
        ValueError: If shapes differ, or one has a position bias and the other none.
    """
    for name in ("query", "key", "value", "output"):
        _assign(getattr(layer, f"{name}_dense").weights, getattr(source, f"_{name}_dense").weights)
    _assign([layer.projection], [source.projection])
    _assign(*(x.position_bias.weights if x.position_bias is not None else [] for x in (layer, source)))


def _assign(targets, sources):
    for target, source in zip(targets, sources, strict=True):
        target.assign(tf.convert_to_tensor(source))
