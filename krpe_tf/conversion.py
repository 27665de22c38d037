"""From trained softmax attention to kernelized attention (section 4.5 of the paper)."""

from keras import dtype_policies, layers

from .attention import KernelizedRPEAttention

# Arguments of both layers that mean the same, beside what the weights determine.
KEPT = (
    "num_heads",
    "key_dim",
    "value_dim",
    "dropout",
    "use_bias",
    "output_shape",
    "seed",
    "kernel_initializer",
    "bias_initializer",
    "kernel_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "kernel_constraint",
    "bias_constraint",
    # From Keras 3.15 on.
    "use_gate",
    "sliding_window",
)
DETERMINED = {"num_heads", "key_dim", "value_dim", "use_bias", "output_shape", "use_gate"}


def from_multi_head_attention(layer: layers.MultiHeadAttention, **arguments) -> KernelizedRPEAttention:
    """Convert a trained `keras.layers.MultiHeadAttention` to a `KernelizedRPEAttention` with its weights.

    By default the result computes what `layer` computes: `feature_map="softmax", normalize=False, position_bias=None`.
    Other arguments turn it into the linear layer that estimates it:

        exact = from_multi_head_attention(layer)
        linear = from_multi_head_attention(layer, feature_map="orthogonal", num_features=64)

    The estimate is good where queries and keys have small norms, as in a model trained with `normalize=True` and a
    position bias (Figure 2 of the paper); otherwise fine-tune after converting. Gate, sliding window, regularizers,
    constraints, seed and dtype policy go over; LoRA's weights are merged into the kernels. Dropout acts on the
    attention output, not on the scores. `flash_attention`, which changes no number, is dropped.

    Args:
        layer: a built layer with attention over one axis, the one between batch and width.
        **arguments: arguments of `KernelizedRPEAttention` that replace the layer's own, except those that its weights
            determine.

    Raises:
        ValueError: For another kind of layer, for one that is not built, attends over other axes, is quantized or has
            projections of different dtype policies, or for an argument that the weights determine.
    """
    if not isinstance(layer, layers.MultiHeadAttention) or not layer.built:
        raise ValueError(f"`layer` must be a built keras.layers.MultiHeadAttention. Received: layer={layer!r}")
    shapes = {name: tuple(shape) for name, shape in layer.get_build_config()["shapes_dict"].items() if shape}
    _check_axes(layer, shapes)
    given = sorted(DETERMINED & arguments.keys())
    if given:
        raise ValueError(
            f"{', '.join(f'`{name}`' for name in sorted(DETERMINED))} are determined by the weights and cannot be "
            f"given. Received: {', '.join(f'{name}={arguments[name]!r}' for name in given)}"
        )
    config = layer.get_config()
    sources = {name: getattr(layer, f"{name}_dense") for name in ("query", "key", "value", "output")}
    if config.get("use_gate"):
        sources["gate"] = layer._gate_dense  # no public name has it
    converted = KernelizedRPEAttention(
        **{
            **{name: config[name] for name in KEPT if config.get(name) is not None},
            "dtype": _dtype_policy(layer, sources.values()),
            "feature_map": "softmax",
            "normalize": False,
            "position_bias": None,
            **arguments,
        }
    )
    converted.build(**shapes)
    for name, source in sources.items():
        target = getattr(converted, f"{name}_dense")
        target.kernel.assign(source.kernel)
        if source.bias is not None:
            target.bias.assign(source.bias)
    return converted


def _check_axes(layer, shapes):
    """Raise a ValueError unless inputs have one axis between batch and width, over which the layer attends."""
    axes = layer.get_config()["attention_axes"]
    if (axes is not None and tuple(axes) not in ((1,), (-2,))) or any(len(shape) != 3 for shape in shapes.values()):
        raise ValueError(
            "`layer` must attend over the one axis between batch and width; fold further axes of its inputs into the "
            f"batch. Received: layer with attention_axes={axes}, built for shapes {shapes}"
        )


def _dtype_policy(layer, projections):
    """Return the one dtype policy of a layer and its projections."""
    quantized = [each.name for each in projections if each.quantization_mode]
    if quantized:
        raise ValueError(
            "`layer` must not be quantized: convert it before, then call `quantize` of the result. "
            f"Received: layer with quantized {', '.join(quantized)}"
        )
    dtypes = {each.name: (each.variable_dtype, each.compute_dtype) for each in (layer, *projections)}
    if len(set(dtypes.values())) > 1:
        raise ValueError(
            "`layer` must have one dtype policy for all its projections. "
            f"Received: layer with variables and computation in {dtypes}"
        )
    policy = layer.dtype_policy
    return policy.default_policy if isinstance(policy, dtype_policies.DTypePolicyMap) else policy
