"""One check that every layer of ours passes: what Keras expects of a layer, from config to training."""

import json
from pathlib import Path

import keras
import numpy as np
from definition import to_numpy

# What one rounding of a dtype can do, over the largest value. Several of them stand in a row in a layer.
ROUNDING = {"mixed_bfloat16": 2.0**-8, "mixed_float16": 2.0**-11}


def run_layer_check(layer_class, arguments: dict, inputs: dict, output_shape: tuple, tmp_path: Path):
    """Checks config, build, eager, symbolic and unknown-length calls, `fit`, `.keras`, and mixed precision.

    Args:
        layer_class, arguments: the layer.
        inputs: float32 arrays (batch, length, width) by the name of the call argument.
        output_shape: of the output for these inputs.
        tmp_path: where a model may be saved.
    """
    layer = check_config(layer_class, arguments)
    layer.build(**{f"{name}_shape": x.shape for name, x in inputs.items()})
    assert layer.built
    layer_of_call = layer_class(**arguments)
    output = layer_of_call(**inputs)
    assert [w.path.split("/", 1)[1:] for w in layer.weights] == [
        w.path.split("/", 1)[1:] for w in layer_of_call.weights
    ]
    assert tuple(output.shape) == output_shape
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    layer.set_weights(layer_of_call.get_weights())
    expected = to_numpy(layer(**inputs))
    np.testing.assert_array_equal(expected, to_numpy(output))

    for length in (next(iter(inputs.values())).shape[1], None):
        model = make_model(layer, inputs, length)
        assert model.output.shape == (None, length, output_shape[-1])
        difference = np.abs(to_numpy(model(inputs)) - expected).max()
        assert difference < 1e-5 * np.abs(expected).max()
    check_round_trip(model, inputs, tmp_path)
    check_mixed_precision(layer_class, arguments, layer, inputs, expected)
    check_training(model, layer, inputs, expected)


def make_model(layer, inputs, length=None):
    symbols = {name: keras.Input((length, x.shape[-1]), name=name) for name, x in inputs.items()}
    return keras.Model(symbols, layer(**symbols))


def check_config(layer_class, arguments):
    layer = layer_class(**arguments)
    config = layer.get_config()
    json.dumps(config)
    again = layer_class.from_config(config)
    assert without_shared_ids(again.get_config()) == without_shared_ids(config)
    for name, value in arguments.items():
        if isinstance(value, (str, int, float, bool)):
            assert config[name] == value, name
    return layer


def without_shared_ids(config):
    if isinstance(config, dict):
        ids = ("shared_object_id", "owner_id")
        return {key: without_shared_ids(value) for key, value in config.items() if key not in ids}
    return config


def check_round_trip(model, inputs, tmp_path):
    """A `.keras` file gives back the same weights and the same numbers, to the bit."""
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert len(again.weights) == len(model.weights)
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
    np.testing.assert_array_equal(to_numpy(model(inputs)), to_numpy(again(inputs)))
    return again


def check_mixed_precision(layer_class, arguments, layer, inputs, expected):
    for policy, rounding in ROUNDING.items():
        half = layer_class(**{**arguments, "dtype": policy})
        half.build(**{f"{name}_shape": x.shape for name, x in inputs.items()})
        assert {w.dtype for w in half.weights} <= {"float32", "uint32", "int32", "int64"}  # seeds are integers
        half.set_weights(layer.get_weights())
        output = half(**inputs)
        assert keras.backend.standardize_dtype(output.dtype) == keras.DTypePolicy(policy).compute_dtype
        output = to_numpy(keras.ops.cast(output, "float32"))
        assert np.isfinite(output).all()
        assert np.abs(output - expected).max() < 8 * rounding * np.abs(expected).max()


def check_training(model, layer, inputs, expected):
    before = [to_numpy(w) for w in layer.trainable_weights]
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    target = np.random.default_rng(0).standard_normal(expected.shape).astype("float32")
    model.fit(inputs, target, batch_size=len(target), epochs=2, verbose=0)
    for weight, value in zip(layer.trainable_weights, before, strict=True):
        now = to_numpy(weight)
        assert np.isfinite(now).all(), weight.path
        assert (now != value).any(), weight.path
