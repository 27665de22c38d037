"""LearnedBias2D: the table over rows and columns, and both of its routes against the float64 definition."""

import keras
import numpy as np
import pytest
from definition import Attention, error, float64, forward_backward, grid_index, layer_output, randomize, to_numpy
from layer_checks import run_layer_check

from krpe_tf import KernelizedRPEAttention, LearnedBias2D, toeplitz_attention
from krpe_tf.toeplitz import grid

GRIDS = [(3, 5), (1, 7), (6, 1), (1, 1), (9, 70)]


def make(height, width, class_token=False, heads=2):
    return randomize(LearnedBias2D(heads, height, width, class_token=class_token))


def check(bias, route, batch=2, **options):
    n, rng = bias.num_positions, np.random.default_rng(0)
    query, key = (np.exp(rng.standard_normal((batch, 2, n, 3)) / 2).astype("float32") for _ in range(2))
    value, cotangent = (rng.standard_normal((batch, 2, n, 2)).astype("float32") for _ in range(2))

    def attention(*arrays):
        return toeplitz_attention(*arrays, bias, route=route, **options)

    output, of_arrays, of_weights = forward_backward(attention, [query, key, value], cotangent, bias.weights)
    expected = Attention(query, key, value, bias, **options)
    tolerance = 1e-4 if route == "fft" else 1e-5
    assert error(output, expected.output, np.abs(value).max()) < tolerance
    *right, by_name = expected.gradients(cotangent)
    right += [by_name[weight.name] for weight in bias.weights]
    scale = max(np.abs(x).max() for x in right)
    for actual, expected_gradient in zip([*of_arrays, *of_weights], right, strict=True):
        assert error(actual, expected_gradient, scale) < tolerance


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("size", GRIDS)
@pytest.mark.parametrize("route", ["dense", "fft", "auto"])
def test_route_computes_the_definition(route, size, class_token):
    bias = make(*size, class_token)
    n = bias.num_positions
    check(bias, route)
    check(bias, route, key_mask=np.stack([np.ones(n, bool), np.arange(n) >= n // 3]))


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("block", [1, 20, 512])
def test_dense_takes_rows_of_the_grid_in_blocks(monkeypatch, block, class_token):
    monkeypatch.setattr(grid, "BLOCK", block)
    n = make(7, 9, class_token).num_positions
    for options in (
        {},
        {"causal": True},
        {"causal": True, "prefix_length": 12},
        {"key_mask": np.eye(2, n, dtype=bool)},
    ):
        check(make(7, 9, class_token), "dense", **options)


@pytest.mark.parametrize("route", ["dense", "fft"])
def test_a_grid_over_a_wide_range_of_weights(route):
    bias = LearnedBias2D(2, 6, 8, class_token=True)
    rng = np.random.default_rng(0)
    for weight in bias.weights:
        weight.assign(rng.uniform(-30, 30, weight.shape))
    check(bias, route)
    check(bias, route, key_mask=np.arange(49)[None].repeat(2, 0) >= 44)
    bias.class_weights.assign(np.full((2, 3), 100))
    check(bias, route, key_mask=np.arange(49)[None].repeat(2, 0) >= 1)  # a hidden token sets no scale


@pytest.mark.parametrize("class_token", [False, True])
def test_log_weights_are_those_of_the_table(class_token):
    bias = make(3, 4, class_token)
    dy, dx = np.meshgrid(np.arange(-2, 3), np.arange(-3, 4), indexing="ij")
    values = to_numpy(bias.log_weights(np.stack([dy, dx], axis=-1)))
    np.testing.assert_array_equal(values, to_numpy(bias.table))
    flat = np.concatenate([float64(w).reshape(2, -1) for w in bias.weights], axis=1)
    assert bias.num_positions == len(grid_index(bias))
    assert flat.shape[1] == grid_index(bias).max() + 1


def test_the_table_starts_from_a_slope_per_head():
    table = to_numpy(LearnedBias2D(2, 4, 4).table)
    np.testing.assert_allclose(table[:, 3, 3], 0)
    np.testing.assert_allclose(table[:, 6, 3], [-3 / 16, -3 / 256])
    np.testing.assert_allclose(table[:, 6, 7 - 8], [-np.sqrt(18) / 16, -np.sqrt(18) / 256], rtol=1e-6)


@pytest.mark.parametrize("feature_map", ["orthogonal", "softmax"])
def test_the_layer_and_its_scores(feature_map):
    layer = KernelizedRPEAttention(2, 4, feature_map=feature_map, position_bias=make(3, 4, True), seed=1)
    x = np.random.default_rng(0).standard_normal((2, 13, 6)).astype("float32")
    output, scores = layer(x, x, return_attention_scores=True)
    expected, expected_scores = layer_output(layer, x)
    assert error(to_numpy(output), expected) < 1e-5
    assert error(to_numpy(scores), expected_scores) < 1e-5
    assert error(to_numpy(layer(x, x)), expected) < 1e-5


def test_layer_check(tmp_path):
    x = np.random.default_rng(0).standard_normal((4, 13, 6)).astype("float32")
    arguments = {"num_heads": 2, "key_dim": 4, "seed": 1, "position_bias": LearnedBias2D(2, 3, 4, class_token=True)}
    run_layer_check(KernelizedRPEAttention, arguments, {"query": x, "value": x}, (4, 13, 6), tmp_path)


def test_a_vision_model_trains_and_loads(tmp_path):
    images = keras.Input((8, 8, 1))
    x = keras.layers.Reshape((16, 6))(keras.layers.Conv2D(6, 2, strides=2)(images))
    x = KernelizedRPEAttention(2, 4, position_bias=LearnedBias2D(2, 4, 4), route="fft", seed=1)(x, x)
    model = keras.Model(images, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(x)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = np.random.default_rng(0).standard_normal((8, 8, 8, 1)).astype("float32")
    model.fit(data, np.arange(8) % 2, epochs=2, verbose=0)
    model.save(tmp_path / "vision.keras")
    again = keras.saving.load_model(tmp_path / "vision.keras")
    np.testing.assert_array_equal(to_numpy(again(data)), to_numpy(model(data)))


@pytest.mark.parametrize("argument", ["num_heads", "height", "width"])
@pytest.mark.parametrize("value", [0, -1, 2.5, None])
def test_bad_arguments_raise(argument, value):
    arguments = {"num_heads": 2, "height": 3, "width": 4, argument: value}
    with pytest.raises(ValueError, match=rf"`{argument}`.*Received: {argument}="):
        LearnedBias2D(**arguments)
