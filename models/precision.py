"""A model in half precision, once more in float32."""

from typing import Any

import keras

POLICIES = ("DTypePolicy", "DTypePolicyMap")
QUANTIZED_POLICIES = ("QuantizedDTypePolicy", "QuantizedFloat8DTypePolicy")


def compute_dtypes(model: keras.Model) -> list[str]:
    """Return the names of the dtypes that the layers of a model compute in, those inside other layers too."""
    # Inputs compute nothing, and have the policy that was Keras' own when they were made; a model has its layers'.
    layers = [x for x in _layers(model) if not isinstance(x, (keras.layers.InputLayer, keras.Model))]
    return sorted({x.compute_dtype for x in layers if keras.backend.is_float_dtype(x.compute_dtype)})


def in_float32(model: keras.Model) -> keras.Model:
    """Return a model with the weights of another one that computes in float32, as files for phones do.

    It is built from the model's config, with "float32" in place of every dtype policy; `model` is left as it is.

    Args:
        model: A Keras model of any dtype policy, mixed or not, or of one for each layer (`DTypePolicyMap`).

    Returns:
        A model of the same class; `model` itself if it computes in float32.

    Raises:
        ValueError: If no model with the same weights can be built from the config; says what to do.
    """
    computes = compute_dtypes(model)
    if computes in ([], ["float32"]):
        return model
    before = keras.config.dtype_policy()
    # Also those that are not registered: their config is read where they are known.
    classes = {type(layer).__name__: type(layer) for layer in _layers(model)}
    keras.config.set_dtype_policy("float32")  # For configs without a policy.
    try:
        with keras.saving.custom_object_scope(classes):
            twin = type(model).from_config(_with_float32(model.get_config()))
        twin.set_weights(model.get_weights())
    # Configs are anyone's code.
    except Exception as error:
        raise _refusal(model, computes, error) from error
    finally:
        keras.config.set_dtype_policy(before)
    left = compute_dtypes(twin)
    if left != ["float32"]:
        raise _refusal(model, computes, f"the model that its config gives computes in {', '.join(left)}")
    return twin


def _refusal(model: keras.Model, computes: list[str], reason: str | Exception) -> ValueError:
    reason = str(reason).partition("\n")[0]  # Keras adds the whole config.
    return ValueError(
        "`model` must compute in float32, and none that does could be made from its config "
        f"({reason}). Build the model again with dtype='float32', give it the weights by "
        "`twin.set_weights(model.get_weights())`, and take that one. "
        f"Received: model={model.name!r}, which computes in {', '.join(computes)}"
    )


def _layers(model: keras.Model) -> list[keras.layers.Layer]:
    return list(model._flatten_layers())


def _with_float32(config: Any) -> Any:
    """Return a config with "float32" in place of every dtype policy, and of every other dtype of floats."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(_with_float32, config))
    if not isinstance(config, dict):
        return config
    return {
        name: _float32_policy(value) if name == "dtype" or name.endswith("_dtype") else _with_float32(value)
        for name, value in config.items()
    }


def _float32_policy(policy: Any) -> Any:
    if isinstance(policy, str):
        return "float32" if "float" in policy and "_from_" not in policy else policy
    kind = policy.get("class_name") if isinstance(policy, dict) else None
    if kind == "DTypePolicy" and "float" not in policy["config"]["name"]:
        return policy  # Integers and strings.
    if kind in POLICIES:
        return "float32"
    if kind in QUANTIZED_POLICIES:
        return {**policy, "config": {**policy["config"], "source_name": "float32"}}
    return policy
