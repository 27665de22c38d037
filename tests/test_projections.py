"""What the layer shares with `keras.layers.MultiHeadAttention`: projections, gate, LoRA, quantization."""

import h5py
import keras
import numpy as np
import pytest
from definition import error, layer_output, to_numpy

from krpe_tf import KernelizedRPEAttention

EXACT = {"feature_map": "softmax", "normalize": False, "position_bias": None}


def make(**arguments):
    return KernelizedRPEAttention(**{"num_heads": 2, "key_dim": 4, "seed": 1, **arguments})


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def model_of(**arguments):
    x = keras.Input((None, 6))
    return keras.Model(x, make(name="attention", **arguments)(x, x))


@pytest.mark.parametrize("feature_map", ["orthogonal", "softmax"])
@pytest.mark.parametrize("output_shape", [None, 5, (2, 3)])
def test_a_gate_and_the_axes_of_the_output(feature_map, output_shape):
    layer = make(use_gate=True, value_dim=3, output_shape=output_shape, feature_map=feature_map)
    query, value = normal(2, 9, 6), normal(2, 11, 5, seed=1)
    layer(query, value)
    layer.gate_dense.bias.assign(normal(2, 3))
    output, scores = layer(query, value, return_attention_scores=True)
    assert error(to_numpy(output), layer_output(layer, query, value)[0]) < 1e-5
    assert output.shape == layer.compute_output_shape(query.shape, value.shape) == layer(query, value).shape
    symbols = keras.Input(batch_shape=query.shape), keras.Input(batch_shape=value.shape)
    symbolic, symbolic_scores = layer(*symbols, return_attention_scores=True)
    assert (symbolic.shape, symbolic_scores.shape) == (output.shape, scores.shape)
    again = KernelizedRPEAttention.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    # What a padded query holds reaches no gate.
    mask = np.arange(9)[None] < np.array([[9], [5]])
    dirty = np.where(mask[..., None], query, np.float32(np.nan))
    np.testing.assert_array_equal(*(to_numpy(layer(x, value, query_mask=mask)) for x in (query, dirty)))


def test_a_gated_layer_decodes():
    layer, x = make(use_gate=True, causal=True, output_shape=(2, 3)), normal(2, 7, 6)
    expected, state = to_numpy(layer(x, x)), layer.initial_state(2)
    for first, last in ((0, 3), (3, 7)):
        output, state = layer.step(x[:, first:last], state)
        assert error(to_numpy(output), expected[:, first:last]) < 1e-5


def test_shapes_that_do_not_fit_have_no_output_shape():
    assert make().compute_output_shape([None, None, 6], [None, 7, 5]) == (None, None, 6)
    with pytest.raises(ValueError, match=r"`key` and `value` must be equal in batch and length.*Received: key.shape="):
        make().compute_output_shape((2, 9, 6), (2, 7, 5), (2, 8, 5))
    with pytest.raises(ValueError, match=r"`query` must have shape.*Received: query.shape=\(2, 6\)"):
        make().compute_output_shape((2, 6), (2, 7, 5))


def test_regularizers_and_constraints_act_on_every_projection():
    x, names = normal(2, 9, 6), ("kernel_regularizer", "bias_regularizer", "activity_regularizer")
    reference = keras.layers.MultiHeadAttention(2, 4, **dict.fromkeys(names, "l2"), kernel_constraint="non_neg")
    layer = make(**EXACT, **dict.fromkeys(names, "l2"), kernel_constraint="non_neg", bias_constraint="non_neg")
    layer(x, x), reference(x, x)
    for ours, theirs in zip(layer.trainable_weights, reference.trainable_weights, strict=True):
        ours.assign(normal(*ours.shape))
        theirs.assign(ours)
    layer(x, x), reference(x, x)
    ours, theirs = (sorted(float(to_numpy(loss)) for loss in each.losses) for each in (layer, reference))
    assert error(ours, theirs) < 1e-6
    for weight in layer.trainable_weights:
        assert isinstance(weight.constraint, keras.constraints.NonNeg)
    config = KernelizedRPEAttention.from_config(layer.get_config()).get_config()
    assert config == layer.get_config()
    assert config["activity_regularizer"]["class_name"] == "L2"


def test_files_have_the_names_of_0_1(tmp_path):
    model_of().save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5") as file:
        names = set(file["layers/kernelized_rpe_attention"])
    assert {"query_dense", "key_dense", "value_dense", "output_dense", "position_bias"} <= names
    assert "projections" not in names


def test_lora_trains_few_weights_and_is_saved_merged(tmp_path):
    model, x = model_of(use_gate=True), normal(2, 9, 6)
    layer = model.get_layer("attention")
    for dense in layer.projections():
        dense.enable_lora(2)
        dense.lora_kernel_b.assign(normal(*dense.lora_kernel_b.shape) / 8)
    expected = to_numpy(model(x))
    # Two factors and a bias for each projection, and the position bias.
    assert len(layer.trainable_weights) == 5 * 3 + 3
    frozen = to_numpy(layer.query_dense._kernel)
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.keras")
    assert error(to_numpy(keras.saving.load_model(tmp_path / "model.keras")(x)), expected) < 1e-5
    model.train_on_batch(x, normal(2, 9, 6, seed=1))
    np.testing.assert_array_equal(to_numpy(layer.query_dense._kernel), frozen)
    assert error(to_numpy(model(x)), expected) > 1e-4
    with pytest.raises(ValueError, match="already enabled"):
        layer.query_dense.enable_lora(2)


@pytest.mark.filterwarnings("ignore:Layer \\w+ does not have a `quantize` method:UserWarning")
def test_a_quantized_layer_is_saved_and_loaded(tmp_path):
    model, x = model_of(), normal(2, 9, 6)
    layer, expected = model.get_layer("attention"), to_numpy(model(x))
    model.quantize("int8")
    assert [keras.backend.standardize_dtype(dense.kernel.dtype) for dense in layer.projections()] == ["int8"] * 4
    assert {w.dtype for w in layer.position_bias.weights} == {"float32"}
    quantized = to_numpy(model(x))
    assert 0 < error(quantized, expected) < 0.05
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(again(x)), quantized)
    assert again.get_layer("attention").query_dense.quantization_mode == "int8"
    with pytest.raises(ValueError, match="already quantized"):
        layer.quantize("int8")


def test_a_map_of_dtype_policies():
    int8 = keras.dtype_policies.QuantizedDTypePolicy("int8", "float32")
    policies = keras.dtype_policies.DTypePolicyMap(
        "float32", {"mapped/query": int8, "mapped/value": keras.DTypePolicy("bfloat16")}
    )
    layer, x = make(dtype=policies, name="mapped"), normal(2, 9, 6)
    assert keras.backend.standardize_dtype(layer(x, x).dtype) == "float32"
    dtypes = {dense.name: keras.backend.standardize_dtype(dense.kernel.dtype) for dense in layer.projections()}
    assert dtypes == {"query": "int8", "key": "float32", "value": "bfloat16", "attention_output": "float32"}
    again = KernelizedRPEAttention.from_config(layer.get_config())
    again(x, x)
    assert [w.dtype for w in again.weights] == [w.dtype for w in layer.weights]


def test_without_random_features_the_weights_are_those_of_keras():
    layer, reference, x = make(**EXACT, num_features=0), keras.layers.MultiHeadAttention(2, 4), normal(2, 9, 6)
    layer(x, x), reference(x, x)
    layer.set_weights(reference.get_weights())
    assert error(to_numpy(layer(x, x)), to_numpy(reference(x, x))) < 1e-5
    layer.redraw(3)
    assert layer.get_config()["seed"] == 3
    make(feature_map="elu", num_features=0)(x, x)
    with pytest.raises(ValueError, match=r"`num_features` must be an integer of at least 1. Received: num_features=0"):
        make(num_features=0)
