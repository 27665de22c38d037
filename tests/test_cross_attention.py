"""Cross-attention whose keys are read once, and caches of the exact kernel: what the layer gives for the whole."""

import keras
import numpy as np
import pytest
from calls import call, compile_step
from definition import error, forward_backward, layer_output, randomize, to_numpy

from krpe_tf import DecayBias, KernelizedRPEAttention, LearnedBias, LearnedBias2D
from krpe_tf.feature_maps import FEATURE_MAPS

PADDED = np.arange(20) >= np.array([[20], [13]])  # of (2, 20), whole and with 7 of padding


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def make(feature_map="orthogonal", **arguments):
    arguments = {"position_bias": None, "num_features": 5, "seed": 1, **arguments}
    layer = KernelizedRPEAttention(2, 4, feature_map=feature_map, **arguments)
    layer.build((None, None, 6), (None, None, 6) if layer.causal else (None, None, 7))
    return layer


@pytest.mark.parametrize("feature_map", FEATURE_MAPS)
def test_keys_that_are_read_once_give_the_definition(feature_map):
    layer, query, value = make(feature_map, value_dim=3, use_gate=True), normal(2, 5, 6), normal(2, 20, 7, seed=1)
    expected, _ = layer_output(layer, query, value, key_mask=~PADDED)
    value[PADDED] = np.nan
    state = layer.cross_state(value, ~PADDED)
    tolerance = 1e-4 if feature_map == "trigonometric" else 1e-5
    assert error(to_numpy(layer.cross_step(query, state)), expected) < tolerance
    assert error(to_numpy(call(layer, query, value, value_mask=~PADDED)), expected) < tolerance
    sizes = {"keys": (2, 2, 20, 4), "values": (2, 2, 20, 4)} if feature_map == "softmax" else {"sums": (2, 2, None, 4)}
    assert state.keys() == sizes.keys()
    m = {"trigonometric": 10, "elu": 4}.get(feature_map, 5)
    for name, x in state.items():
        assert tuple(x.shape) == tuple(m if size is None else size for size in sizes[name])
        assert layer.cross_shapes[name] == tuple(None if size == 20 else size for size in x.shape[1:])


@pytest.mark.parametrize("feature_map", ["orthogonal", "softmax"])
def test_beams_of_a_source_share_what_it_gives(feature_map):
    layer, query = make(feature_map), normal(6, 4, 6)
    state = layer.cross_state(normal(2, 20, 7, seed=1), ~PADDED)
    repeated = {name: np.repeat(to_numpy(x), 3, axis=0) for name, x in state.items()}
    expected = to_numpy(layer.cross_step(query, repeated))
    assert error(to_numpy(layer.cross_step(query, state)), expected) < 1e-6
    with pytest.raises(ValueError, match=r"of a batch that divides that of `query`.*query.shape=\(5, 4, 6\)"):
        layer.cross_step(query[:5], state)


@pytest.mark.parametrize("feature_map", ["orthogonal", "trigonometric", "softmax"])
def test_no_keys_give_zeros_and_padding_no_gradient(feature_map):
    layer, query, value = make(feature_map, use_bias=False), normal(2, 5, 6), normal(2, 20, 7, seed=1)
    value[PADDED] = np.nan
    mask = ~PADDED & (np.arange(2) == 1)[:, None]  # The first row has no keys.

    def function(query, value):
        return layer(query, value, value_mask=mask)

    output, gradients, of_weights = forward_backward(function, [query, value], variables=layer.trainable_weights)
    stepped = to_numpy(layer.cross_step(query, layer.cross_state(value, mask)))
    assert (output[0] == 0).all()
    assert (stepped[0] == 0).all()
    assert (output[1] != 0).all()
    assert error(stepped[1], output[1]) < 1e-4
    assert all(np.isfinite(x).all() for x in [output, *gradients, *of_weights])
    assert (gradients[1][~mask] == 0).all()
    nothing = layer.cross_step(query, layer.cross_state(value[:, :0]))
    assert (to_numpy(nothing) == 0).all()


def test_a_source_of_8192_tokens_is_one_sum_in_float32():
    layer, query, value = make(normalize=False), 3 * normal(1, 3, 6), 3 * normal(1, 8192, 7, seed=1)
    expected, _ = layer_output(layer, query, value)
    state = layer.cross_state(value)
    assert {name: tuple(x.shape) for name, x in state.items()} == {"sums": (1, 2, 5, 5)}
    assert error(to_numpy(layer.cross_step(query, state)), expected) < 1e-5
    half = make(dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(half.cross_state(value)["sums"].dtype) == "float32"


@pytest.mark.parametrize("bias", [None, LearnedBias, DecayBias])
def test_steps_of_the_exact_kernel_read_a_cache(bias):
    bias = bias and randomize(bias(2, 3))
    layer, x = make("softmax", position_bias=bias, causal=True), normal(2, 20, 6)
    mask = np.random.default_rng(1).random((2, 20)) < 0.8
    expected = to_numpy(call(layer, x, x, query_mask=mask, attention_mask=mask))
    x[~mask] = np.nan
    step, state = compile_step(layer.step), layer.initial_state(2, max_length=20)
    outputs = []
    for start, end in ((0, 9), (9, 10), (10, 20)):
        output, state = step(x[:, start:end], state, mask=mask[:, start:end])
        outputs.append(to_numpy(output))
    assert error(np.concatenate(outputs, axis=1), expected) < 1e-5


def test_a_cache_counts_positions_and_starts_anew():
    layer, x = make("softmax", position_bias="decay", causal=True), normal(2, 12, 6)
    expected = to_numpy(call(layer, x, x))
    step = compile_step(layer.step)
    piece = np.stack([x[0, :8], np.concatenate([x[1, :5], np.full((3, 6), np.nan, "float32")])])
    first, state = step(piece, layer.initial_state(2, 30), count=np.array([8, 5]))
    assert error(to_numpy(first)[1, :5], expected[1, :5]) < 1e-5
    second, state = step(np.stack([x[0, 8:12], x[1, 5:9]]), state)
    assert error(to_numpy(second), np.stack([expected[0, 8:12], expected[1, 5:9]])) < 1e-5
    third, _ = step(np.stack([x[0, :3], x[1, 9:12]]), state, reset=np.array([1, 0]))
    assert error(to_numpy(third), np.stack([expected[0, :3], expected[1, 9:12]])) < 1e-5


def test_bad_input_raises():
    x = normal(1, 4, 6)
    layer = make("softmax", causal=True)
    with pytest.raises(ValueError, match=r"decoding needs.* or a `max_length`.*Received: .*max_length=None"):
        layer.initial_state(1)
    with pytest.raises(ValueError, match=r"decoding needs .*max_length=9"):
        make("softmax", causal=True, position_bias=LearnedBias2D(2, 3, 3)).initial_state(1, 9)
    with pytest.raises(ValueError, match="`max_length` must be an integer of at least 1"):
        layer.initial_state(1, 0)
    _, state = layer.step(x, layer.initial_state(1, max_length=6))
    with pytest.raises(ValueError, match=r"`max_length` .* at least the number of positions.*max_length=6, and 4 read"):
        layer.step(x, state)
    layer.step(x, state, count=2)
    with pytest.raises(ValueError, match=r"`reset` must have shape \(batch,\) with `feature_map=\"softmax\"`"):
        layer.step(x[:, :2], state, reset=np.ones((1, 2), bool))
    with pytest.raises(ValueError, match=r"`state` must come from `initial_state"):
        layer.step(x, {})
    for other in (layer, make(position_bias="decay"), make(sliding_window=3, route="dense")):
        with pytest.raises(ValueError, match=r"need `position_bias=None`, `causal=False` and no sliding window"):
            other.cross_state(normal(1, 4, 7))
    layer = make()
    with pytest.raises(ValueError, match=r"`state` must come from `cross_state`.*Received: state of shapes None"):
        layer.cross_step(x, None)
    with pytest.raises(ValueError, match=r"`state` must come from `cross_state`.*\('batch', 2, 5, 5\)"):
        layer.cross_step(x, make(num_features=3).cross_state(normal(1, 4, 7)))
    with pytest.raises(ValueError, match=r"`value` must have width 7, .*Received: value.shape=\(1, 4, 6\)"):
        layer.cross_state(x)
    with pytest.raises(ValueError, match="the layer must be built"):
        KernelizedRPEAttention(2, 4, position_bias=None).cross_state(x)
