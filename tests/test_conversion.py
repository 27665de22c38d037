"""From a trained `MultiHeadAttention`: identical as it comes, close with enough features."""

import inspect

import keras
import numpy as np
import pytest
from definition import error, to_numpy

from krpe_tf import KernelizedRPEAttention, from_multi_head_attention


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def trained(**arguments):
    """A peer whose weights, biases included, are off their start."""
    layer = keras.layers.MultiHeadAttention(**{"num_heads": 2, "key_dim": 4, **arguments})
    layer(normal(2, 3, 6), normal(2, 3, 6), normal(2, 3, 6))
    for seed, weight in enumerate(layer.weights):
        weight.assign(normal(*weight.shape, seed=seed))
    return layer


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"use_bias": False}, {"output_shape": 5}, {"output_shape": (5,)}])
def test_a_converted_layer_computes_the_same(arguments, causal):
    layer = trained(**arguments)
    converted = from_multi_head_attention(layer)
    query, value, key = normal(2, 9, 6), normal(2, 8, 6, seed=1), normal(2, 8, 6, seed=2)
    expected = to_numpy(layer(query, value, key, use_causal_mask=causal))
    assert error(to_numpy(converted(query, value, key, use_causal_mask=causal)), expected) < 1e-5


@pytest.mark.parametrize("feature_map", ["orthogonal", "positive", "trigonometric"])
def test_another_map_estimates_it(feature_map):
    layer = trained()
    for weight in layer.weights[:4]:
        weight.assign(0.15 * to_numpy(weight))  # queries and keys: small norms, for which the estimate is good
    x, errors = normal(2, 30, 6), []
    for num_features in (8, 2048):
        converted = from_multi_head_attention(layer, feature_map=feature_map, num_features=num_features, seed=0)
        errors.append(error(to_numpy(converted(x, x)), to_numpy(layer(x, x))))
    assert errors[1] < 0.1
    assert errors[1] < errors[0] / 3


def test_arguments_and_dropout_go_over():
    layer = trained(dropout=0.25, value_dim=4)
    converted = from_multi_head_attention(layer, position_bias="decay", normalize=True, causal=True)
    assert isinstance(converted, KernelizedRPEAttention)
    config = converted.get_config()
    assert (config["dropout"], config["position_bias"], config["normalize"]) == (0.25, "decay", True)
    again = KernelizedRPEAttention.from_config(config)
    again.build((None, None, 6), (None, None, 6))
    again.set_weights(converted.get_weights())
    x = normal(1, 9, 6)
    np.testing.assert_array_equal(to_numpy(again(x, x)), to_numpy(converted(x, x)))


def test_what_cannot_be_converted_raises():
    for layer in (keras.layers.Dense(3), keras.layers.MultiHeadAttention(2, 4), None):
        with pytest.raises(
            ValueError, match=r"`layer` must be a built keras.layers.MultiHeadAttention. Received: layer="
        ):
            from_multi_head_attention(layer)
    for axes, rank in (((1, 2), 4), ((2,), 4), (None, 4)):
        other = keras.layers.MultiHeadAttention(2, 4, attention_axes=axes)
        shape = (1, 3, 3, 6)[:rank]
        other.build(shape, shape)
        with pytest.raises(
            ValueError, match=r"`layer` must attend over the one axis.*Received: layer with attention_axes"
        ):
            from_multi_head_attention(other)
    for arguments in ({"output_shape": 3}, {"num_heads": 3}, {"use_bias": False}, {"use_gate": True}):
        with pytest.raises(ValueError, match=rf"`use_bias`.* cannot be given.*Received: {next(iter(arguments))}="):
            from_multi_head_attention(trained(), **arguments)
    quantized = trained()
    quantized.value_dense.quantize("int8")
    with pytest.raises(ValueError, match=r"`layer` must not be quantized.*Received: layer with quantized value"):
        from_multi_head_attention(quantized)
    policies = keras.dtype_policies.DTypePolicyMap("float32", {"mixed/key": keras.DTypePolicy("bfloat16")})
    with pytest.raises(ValueError, match=r"`layer` must have one dtype policy.*Received: layer with .*bfloat16"):
        from_multi_head_attention(trained(dtype=policies, name="mixed"))


PASSED_ON = {
    "output_shape": (2, 3),
    "attention_axes": 1,
    "flash_attention": False,
    "kernel_regularizer": "l2",
    "bias_regularizer": "l1",
    "activity_regularizer": "l2",
    "kernel_constraint": "max_norm",
    "bias_constraint": "max_norm",
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
    "seed": 7,
    "use_gate": True,
    "sliding_window": 3,
}


def test_every_argument_of_keras_goes_over():
    known = inspect.signature(keras.layers.MultiHeadAttention).parameters  # keras 3.13 has no gate and no window
    ours = {"num_heads", "key_dim", "value_dim", "dropout", "use_bias"}  # in the tests above
    assert set(known) - ours - {"kwargs"} <= set(PASSED_ON)
    layer = trained(**{name: value for name, value in PASSED_ON.items() if name in known})
    converted = from_multi_head_attention(layer)
    config, theirs = converted.get_config(), layer.get_config()
    assert {name: config[name] for name in PASSED_ON if name in theirs and name in config} == {
        name: theirs[name] for name in PASSED_ON if name in theirs and name in config
    }
    assert "attention_axes" not in config
    x = normal(2, 9, 6)
    expected = to_numpy(layer(x, x, use_causal_mask=True))
    assert error(to_numpy(converted(x, x, use_causal_mask=True)), expected) < 1e-5
    assert len(converted.losses) == len(layer.losses)
    assert error([to_numpy(loss) for loss in converted.losses], [to_numpy(loss) for loss in layer.losses]) < 1e-5


def test_the_weights_of_lora_are_merged():
    layer, x = trained(), normal(2, 9, 6)
    layer.value_dense.enable_lora(2)
    layer.value_dense.lora_kernel_b.assign(normal(2, 4))
    converted = from_multi_head_attention(layer, dtype="float32")
    assert len(converted.weights) == 9
    assert error(to_numpy(converted(x, x)), to_numpy(layer(x, x))) < 1e-5
