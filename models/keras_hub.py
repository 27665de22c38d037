"""From a KerasHub backbone to an `Encoder`: its arguments, and the copy of its weights."""

import math

from keras import activations, ops

from ..position_bias import BucketedBias
from .blocks import gelu_approximate
from .teacher import start_from_slopes

# What the weights do not determine.
FREE = ("feature_map", "num_features", "normalize", "route", "dropout", "length", "seed", "dtype", "name")
# Of BERT's, these too: a bias may take the place of positions, and gelu's formula is not the backbone's to know.
FREE_OF_BERT = (*FREE, "activation", "position_bias", "share_position_bias", "absolute_positions")


def encoder_arguments(backbone, overrides: dict) -> dict:
    """Return the arguments of the `Encoder` that computes what a backbone, or its encoder, computes.

    Args:
        backbone: A `keras_hub.models.T5Backbone` or `BertBackbone`.
        overrides: Replace the arguments that the weights do not determine.

    Raises:
        ValueError: For another model, other arguments, or more `absolute_positions` than the backbone has.
    """
    is_bert = _is_bert(backbone)
    free = FREE_OF_BERT if is_bert else FREE
    if fixed := sorted(set(overrides) - set(free)):
        raise ValueError(
            f"the weights leave these arguments free: {', '.join(free)}. "
            f"Received: {', '.join(f'{name}={overrides[name]!r}' for name in fixed)}"
        )
    if is_bert and (overrides.get("absolute_positions") or 0) > backbone.max_sequence_length:
        raise ValueError(
            f"`absolute_positions` must be None or at most the backbone's, {backbone.max_sequence_length}. "
            f"Received: absolute_positions={overrides['absolute_positions']}"
        )
    return {
        "vocabulary_size": backbone.vocabulary_size,
        "num_layers": backbone.num_layers,
        "num_heads": backbone.num_heads,
        "hidden_dim": backbone.hidden_dim,
        "intermediate_dim": backbone.intermediate_dim,
        "feature_map": "softmax",
        "normalize": False,
        "dropout": backbone.dropout,
        "dtype": backbone.dtype_policy,
        **(_arguments_of_bert if is_bert else _arguments_of_t5)(backbone),
        **overrides,
    }


def copy_weights(backbone, encoder) -> None:
    """Copy the weights of a backbone into an `Encoder` made with `encoder_arguments`.

    Copies, since JAX frees the arrays of what it trains.
    """
    (_copy_bert if _is_bert(backbone) else _copy_t5)(backbone, encoder)


def _arguments_of_bert(backbone) -> dict:
    return {
        "position_bias": None,
        "activation": gelu_approximate,
        "norm_epsilon": 1e-12,
        "normalize_first": False,
        "absolute_positions": backbone.max_sequence_length,
    }


def _copy_bert(backbone, encoder) -> None:
    tokens = backbone.token_embedding.embeddings
    # A text alone is all of segment 0.
    places = backbone.position_embedding.position_embeddings + backbone.segment_embedding.embeddings[0]
    if encoder.absolute_positions is None:
        tokens = tokens + ops.mean(places, axis=0)
    else:
        encoder.get_layer("absolute_positions").table.assign(places[: encoder.absolute_positions])
    encoder.token_embedding.embeddings.assign(ops.copy(tokens))
    start_from_slopes(encoder)
    encoder.get_layer("embedding_norm").set_weights(backbone.embeddings_layer_norm.get_weights())
    for index, source in enumerate(backbone.transformer_layers):
        attention = encoder.get_layer(f"layer_{index}_attention")
        for name in ("query", "key", "value", "output"):
            projection = getattr(source._self_attention_layer, f"{name}_dense")
            getattr(attention, f"{name}_dense").set_weights(projection.get_weights())
        for name, layer in (
            ("attention_norm", source._self_attention_layer_norm),
            ("feed_forward_norm", source._feedforward_layer_norm),
            ("feed_forward_in", source._feedforward_intermediate_dense),
            ("feed_forward_out", source._feedforward_output_dense),
        ):
            encoder.get_layer(f"layer_{index}_{name}").set_weights(layer.get_weights())


def _arguments_of_t5(backbone) -> dict:
    attention = backbone.encoder_transformer_layers[0].self_attention
    return {
        "position_bias": BucketedBias(
            backbone.num_heads, attention.relative_attention_buckets, attention.relative_attention_max_distance
        ),
        "key_dim": attention.key_value_dim,
        "activation": activations.serialize(backbone.activation),
        "use_gated_activation": backbone.use_gated_activation,
        "norm": "rms",
        "norm_epsilon": backbone.layer_norm_epsilon,
        "use_bias": False,
    }


def _copy_t5(backbone, encoder) -> None:
    encoder.token_embedding.embeddings.assign(ops.copy(backbone.token_embedding.embeddings))
    # One bias for all layers, which KerasHub keeps in the first.
    table = backbone.encoder_transformer_layers[0].self_attention.relative_attention_bias
    encoder.position_biases[0].table.assign(ops.transpose(table))
    for index, source in enumerate(backbone.encoder_transformer_layers):
        prefix = f"layer_{index}"
        _copy_attention(source.self_attention, encoder.get_layer(f"{prefix}_attention"))
        encoder.get_layer(f"{prefix}_attention_norm").scale.assign(ops.copy(source.self_attention_layer_norm.weight))
        encoder.get_layer(f"{prefix}_feed_forward_norm").scale.assign(ops.copy(source.layer_norm.weight))
        projectors = {"in": source.input_projector, "out": source.output_projector}
        if encoder.use_gated_activation:
            projectors["gate"] = source.gate_projector
        for name, projector in projectors.items():
            encoder.get_layer(f"{prefix}_feed_forward_{name}").kernel.assign(ops.copy(projector.kernel))
    encoder.get_layer("final_norm").scale.assign(ops.copy(backbone.encoder_layer_norm.weight))


def _copy_attention(source, target) -> None:
    # `KernelizedRPEAttention` divides products by sqrt(key_dim), or the norms of queries and keys; T5 by nothing.
    scale = 1.0 if target.normalize else math.sqrt(target.key_dim)
    for name, projector, factor in (
        ("query", source.query_projector, scale),
        ("key", source.key_projector, 1.0),
        ("value", source.value_projector, 1.0),
        ("output", source.output_projector, 1.0),
    ):
        kernel = getattr(target, f"{name}_dense").kernel
        kernel.assign(ops.reshape(ops.cast(projector.kernel, "float32") * factor, kernel.shape))


def _is_bert(backbone) -> bool:
    try:
        from keras_hub.models import BertBackbone, T5Backbone
    except ImportError as error:
        raise ValueError(
            "`backbone` needs the package keras-hub: pip install keras-hub. "
            f"Received: a {type(backbone).__name__} without it"
        ) from error
    if not isinstance(backbone, (BertBackbone, T5Backbone)):
        raise ValueError(
            "`backbone` must be a keras_hub.models.T5Backbone or BertBackbone. RoFormer's rotary positions are neither "
            f"a bias over offsets nor a table. Received: {type(backbone).__name__}"
        )
    return isinstance(backbone, BertBackbone)
