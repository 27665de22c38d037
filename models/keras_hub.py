"""From a KerasHub backbone to an `Encoder`: its arguments, and the copy of its weights."""

import math

from keras import activations, ops

from ..position_bias import BucketedBias

# What the weights do not determine.
FREE = ("feature_map", "num_features", "normalize", "route", "dropout", "length", "seed", "dtype", "name")


def encoder_arguments(backbone, overrides: dict) -> dict:
    """Return the arguments of the `Encoder` that computes what the encoder of a T5 backbone computes.

    Args:
        backbone: A `keras_hub.models.T5Backbone`.
        overrides: Replace the arguments among `FREE`.

    Raises:
        ValueError: For another model, or other arguments.
    """
    _check_backbone(backbone)
    if fixed := sorted(set(overrides) - set(FREE)):
        raise ValueError(
            f"the weights leave these arguments free: {', '.join(FREE)}. "
            f"Received: {', '.join(f'{name}={overrides[name]!r}' for name in fixed)}"
        )
    attention = backbone.encoder_transformer_layers[0].self_attention
    return {
        "vocabulary_size": backbone.vocabulary_size,
        "num_layers": backbone.num_layers,
        "num_heads": backbone.num_heads,
        "hidden_dim": backbone.hidden_dim,
        "intermediate_dim": backbone.intermediate_dim,
        "feature_map": "softmax",
        "normalize": False,
        "position_bias": BucketedBias(
            backbone.num_heads, attention.relative_attention_buckets, attention.relative_attention_max_distance
        ),
        "dropout": backbone.dropout,
        "key_dim": attention.key_value_dim,
        "activation": activations.serialize(backbone.activation),
        "use_gated_activation": backbone.use_gated_activation,
        "norm": "rms",
        "norm_epsilon": backbone.layer_norm_epsilon,
        "use_bias": False,
        "dtype": backbone.dtype_policy,
        **overrides,
    }


def copy_weights(backbone, encoder) -> None:
    """Copy the weights of a T5 backbone's encoder into an `Encoder` made with `encoder_arguments`."""
    encoder.token_embedding.embeddings.assign(backbone.token_embedding.embeddings)
    # One bias for all layers, which KerasHub keeps in the first.
    table = backbone.encoder_transformer_layers[0].self_attention.relative_attention_bias
    encoder.position_biases[0].table.assign(ops.transpose(table))
    for index, source in enumerate(backbone.encoder_transformer_layers):
        prefix = f"layer_{index}"
        _copy_attention(source.self_attention, encoder.get_layer(f"{prefix}_attention"))
        encoder.get_layer(f"{prefix}_attention_norm").scale.assign(source.self_attention_layer_norm.weight)
        encoder.get_layer(f"{prefix}_feed_forward_norm").scale.assign(source.layer_norm.weight)
        projectors = {"in": source.input_projector, "out": source.output_projector}
        if encoder.use_gated_activation:
            projectors["gate"] = source.gate_projector
        for name, projector in projectors.items():
            encoder.get_layer(f"{prefix}_feed_forward_{name}").kernel.assign(projector.kernel)
    encoder.get_layer("final_norm").scale.assign(backbone.encoder_layer_norm.weight)


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


def _check_backbone(backbone) -> None:
    try:
        from keras_hub.models import T5Backbone
    except ImportError as error:
        raise ValueError(
            "`backbone` needs the package keras-hub: pip install keras-hub. "
            f"Received: a {type(backbone).__name__} without it"
        ) from error
    if not isinstance(backbone, T5Backbone):
        raise ValueError(
            "`backbone` must be a keras_hub.models.T5Backbone: its positions are a bias over offsets. BERT's absolute "
            f"and RoFormer's rotary positions are none. Received: {type(backbone).__name__}"
        )
