"""From trained softmax attention to kernelized attention (section 4.5 of the paper)."""

from keras import layers

from .attention import KernelizedRPEAttention


def from_multi_head_attention(layer: layers.MultiHeadAttention, **arguments) -> KernelizedRPEAttention:
    """Convert a trained `keras.layers.MultiHeadAttention` to a `KernelizedRPEAttention` with its weights.

    By default the result computes what `layer` computes: `feature_map="softmax", normalize=False, position_bias=None`.
    Other arguments turn it into the linear layer that estimates it:

        exact = from_multi_head_attention(layer)
        linear = from_multi_head_attention(layer, feature_map="orthogonal", num_features=64)

    The estimate is good where queries and keys have small norms, as in a model trained with `normalize=True` and a
    position bias (Figure 2 of the paper); otherwise fine-tune after converting. Dropout acts on the attention output,
    not on the scores; regularizers and constraints are dropped.

    Args:
        layer: a built layer with attention over one axis and an output of one axis.
        **arguments: arguments of `KernelizedRPEAttention` that replace the layer's own, except those that its weights
            determine.

    Raises:
        ValueError: For another kind of layer, for one that is not built or has a gate or more than one attention or
            output axis, or for an argument that the weights determine.
    """
    if not isinstance(layer, layers.MultiHeadAttention) or not layer.built:
        raise ValueError(f"`layer` must be a built keras.layers.MultiHeadAttention. Received: layer={layer!r}")
    config = layer.get_config()
    axes, output_shape = config["attention_axes"], config["output_shape"]
    output_shape = (output_shape,) if isinstance(output_shape, int) else tuple(output_shape or (None,))
    if (axes is not None and tuple(axes) not in ((1,), (-2,))) or len(output_shape) != 1:
        raise ValueError(
            "`layer` must attend over one axis and have an output of one axis. "
            f"Received: layer with attention_axes={axes}, output_shape={config['output_shape']}"
        )
    if config.get("use_gate"):
        raise ValueError("`layer` must have no gate. Received: layer with use_gate=True")
    determined = {"num_heads", "key_dim", "value_dim", "use_bias", "output_shape"}
    if determined & arguments.keys():
        raise ValueError(
            f"{', '.join(f'`{name}`' for name in sorted(determined))} are determined by the weights and cannot be "
            "given. Received: "
            + ", ".join(f"{name}={arguments[name]!r}" for name in sorted(determined & arguments.keys()))
        )
    kept = ("num_heads", "key_dim", "value_dim", "dropout", "use_bias", "kernel_initializer", "bias_initializer")
    converted = KernelizedRPEAttention(
        **{
            **{name: config[name] for name in (*kept, "dtype")},
            "output_shape": output_shape[0],
            "feature_map": "softmax",
            "normalize": False,
            "position_bias": None,
            **arguments,
        }
    )
    weights = layer.weights
    kernels = [weight for weight in weights if weight.name == "kernel"]
    query, key, value, output = (kernel.shape for kernel in kernels)
    converted.output_width = output[-1]
    converted.build((None, None, query[0]), (None, None, value[0]), (None, None, key[0]))
    dense = (converted.query_dense, converted.key_dense, converted.value_dense, converted.output_dense)
    for target, source in zip((weight for part in dense for weight in part.weights), weights, strict=True):
        target.assign(source)
    return converted
