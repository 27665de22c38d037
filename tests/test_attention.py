"""The layer against its definition, against Keras' own attention, and against what Keras expects of a layer."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from calls import call
from definition import error, forward_backward, layer_output, randomize, to_numpy
from keras.src.testing import TestCase
from layer_checks import ROUNDING, run_layer_check

from krpe_tf import BucketedBias, DecayBias, KernelizedRPEAttention, LearnedBias

CONFIGURATIONS = {
    "default": {},
    "bucketed": {"position_bias": "bucketed"},
    "learned bias": {"position_bias": LearnedBias(2, 3)},
    "no position bias": {"position_bias": None},
    "softmax": {"feature_map": "softmax"},
    "softmax, not normalized": {"feature_map": "softmax", "normalize": False, "position_bias": None},
    "elu": {"feature_map": "elu"},
    "taylor": {"feature_map": "taylor"},
    "spherical": {"feature_map": "spherical"},
    "trigonometric": {"feature_map": "trigonometric", "num_features": 64},
    "positive": {"feature_map": "positive", "normalize": False, "num_features": 5},
    "causal": {"causal": True},
    "dense": {"route": "dense"},
    "fft": {"route": "fft"},
    "banded": {"route": "banded", "causal": True},
    "no use_bias": {"use_bias": False},
    "widths": {"value_dim": 3, "output_shape": 7, "num_features": 6},
    "dropout": {"dropout": 0.5, "seed": 3},
}
CHECKED = ("default", "bucketed", "learned bias", "softmax", "fft", "widths", "dropout")
EVERY_CONFIGURATION = pytest.mark.parametrize("name", CONFIGURATIONS)


def make(**arguments):
    return KernelizedRPEAttention(**{"num_heads": 2, "key_dim": 4, "seed": 1, **arguments})


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def weights_count(layer):
    return sum(int(np.prod(w.shape)) for w in layer.trainable_weights)


@pytest.mark.parametrize("causal", [False, True])
@EVERY_CONFIGURATION
def test_the_layer_computes_its_definition(name, causal):
    layer = make(**CONFIGURATIONS[name])
    query, value, key = normal(2, 11, 6), normal(2, 13, 5, seed=1), normal(2, 13, 4, seed=2)
    mask = np.arange(13)[None] < np.array([[13], [9]])
    layer.build(query.shape, value.shape, key.shape)
    if layer.position_bias is not None:
        randomize(layer.position_bias)
    for dense in (layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense):
        if dense.bias is not None:
            dense.bias.assign(normal(*dense.bias.shape) / 2)
    output = to_numpy(call(layer, query, value, key, attention_mask=mask, use_causal_mask=causal))
    expected, _ = layer_output(layer, query, value, key, key_mask=mask, causal=causal or layer.causal)
    assert error(output, expected) < (1e-4 if layer.route == "fft" else 1e-5)


@pytest.mark.parametrize(
    "name", ["default", "bucketed", "learned bias", "softmax", "fft", "banded", "widths", "dropout"]
)
def test_layer_check(name, tmp_path):
    arguments = {"num_heads": 2, "key_dim": 4, "seed": 1, **CONFIGURATIONS[name]}
    # Longer than the radius, so that every weight of the bias receives a gradient.
    inputs = {"query": normal(4, 19, 6), "value": normal(4, 19, 6, seed=1)}
    output_shape = (4, 19, arguments.get("output_shape", 6))
    run_layer_check(KernelizedRPEAttention, arguments, inputs, output_shape, tmp_path)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")  # Keras' test does
class KerasLayerTest(TestCase):
    """Keras' own test of a layer, as it tests `MultiHeadAttention`: with a dict of inputs it checks no training."""

    def test_configurations(self):
        for name, arguments in CONFIGURATIONS.items():
            with self.subTest(name):
                projections = 4 if arguments.get("use_bias") is False else 8
                if name == "learned bias":  # one that no other layer has: the config of a shared one says that it is
                    arguments = {"position_bias": LearnedBias(2, 3)}
                bias = {"bucketed": 1, "learned bias": 1, "no position bias": 0, "softmax, not normalized": 0}
                self.run_layer_test(
                    KernelizedRPEAttention,
                    init_kwargs={"num_heads": 2, "key_dim": 4, **arguments},
                    input_shape={"query_shape": (2, 8, 6), "value_shape": (2, 5, 6)},
                    expected_output_shape=(2, 8, arguments.get("output_shape", 6)),
                    expected_num_trainable_weights=projections + bias.get(name, 3),
                    expected_num_non_trainable_weights=1,
                    expected_num_seed_generators=1 if arguments.get("dropout") else 0,
                    expected_num_losses=0,
                    supports_masking=True,
                    run_training_check=False,
                )

    @pytest.mark.slow
    def test_training(self):
        for name in ("default", "bucketed", "softmax", "fft"):
            with self.subTest(name):
                self.run_layer_test(
                    SelfAttention,
                    init_kwargs={"num_heads": 2, "key_dim": 4, **CONFIGURATIONS[name]},
                    input_shape=(2, 8, 6),
                    expected_output_shape=(2, 8, 6),
                    supports_masking=True,
                )


@keras.saving.register_keras_serializable("krpe_tf_tests")
class SelfAttention(KernelizedRPEAttention):
    """Of one input, so that Keras' test also trains it."""

    def build(self, input_shape):
        super().build(input_shape, input_shape)

    def call(self, x, training=None):
        return super().call(x, x, training=training)

    def compute_output_spec(self, x, training=None):
        return super().compute_output_spec(x, x)


# --- Keras' own attention as the twin


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("causal", [False, True])
def test_the_softmax_twin_is_keras_multi_head_attention(causal, use_bias):
    # On JAX Keras' own layer takes only values as wide as keys (keras 3.15).
    value_dim = 4 if keras.backend.backend() == "jax" else 3
    arguments = {"num_heads": 2, "key_dim": 4, "value_dim": value_dim, "output_shape": 5, "use_bias": use_bias}
    reference = keras.layers.MultiHeadAttention(**arguments)
    twin = KernelizedRPEAttention(**arguments, feature_map="softmax", normalize=False, position_bias=None)
    query, value, key = normal(2, 9, 6), normal(2, 8, 6, seed=1), normal(2, 8, 6, seed=2)
    mask = np.arange(8)[None] < np.array([[8], [5]])
    reference(query, value, key), twin(query, value, key)
    assert [w.name for w in twin.trainable_weights] == [w.name for w in reference.trainable_weights]
    for ours, theirs in zip(twin.trainable_weights, reference.trainable_weights, strict=True):
        theirs.assign(normal(*theirs.shape))
        ours.assign(theirs)
    for key_mask in (None, mask):
        options = {"use_causal_mask": causal, "return_attention_scores": True}
        expected = reference(
            query, value, key, attention_mask=None if key_mask is None else key_mask[:, None], **options
        )
        for ours, theirs in zip(twin(query, value, key, attention_mask=key_mask, **options), expected, strict=True):
            assert error(to_numpy(ours), to_numpy(theirs)) < 1e-5


@pytest.mark.parametrize("feature_map", ["orthogonal", "elu"])
def test_a_softmax_model_converts_by_one_argument(feature_map):
    twin, layer = make(feature_map="softmax"), make(feature_map=feature_map)
    x = normal(2, 9, 6)
    twin.build(x.shape, x.shape), layer.build(x.shape, x.shape)
    assert [w.shape for w in twin.weights] == [w.shape for w in layer.weights]
    layer.set_weights(twin.get_weights())
    assert error(to_numpy(call(layer, x, x)), layer_output(layer, x)[0]) < 1e-5


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="it draws weights of which 1,024 features miss by 0.15")
def test_more_features_come_closer_to_the_softmax_twin():
    x, differences = normal(2, 30, 6), []
    for num_features in (4, 64, 1024):
        twin, layer = (make(feature_map=name, num_features=num_features) for name in ("softmax", "orthogonal"))
        twin.build(x.shape, x.shape), layer.build(x.shape, x.shape)
        layer.set_weights(twin.get_weights())
        differences.append(error(to_numpy(call(layer, x, x)), to_numpy(call(twin, x, x))))
    assert differences[2] < differences[1] < differences[0]
    assert differences[2] < 0.1


@pytest.mark.parametrize("feature_map", ["orthogonal", "elu", "softmax"])
def test_attention_scores(feature_map):
    layer = make(feature_map=feature_map)
    query, value = normal(2, 6, 6), normal(2, 9, 6, seed=1)
    mask = np.arange(9)[None] < np.array([[9], [4]])
    output, scores = call(layer, query, value, attention_mask=mask, return_attention_scores=True)
    np.testing.assert_allclose(to_numpy(scores).sum(-1), 1, rtol=1e-5)
    assert (to_numpy(scores)[1, :, :, 4:] == 0).all()
    expected, expected_scores = layer_output(layer, query, value, key_mask=mask)
    assert error(to_numpy(scores), expected_scores) < 1e-5
    assert error(to_numpy(output), expected) < 1e-5
    assert error(to_numpy(call(layer, query, value, attention_mask=mask)), to_numpy(output)) < 1e-5


def test_symbolic_scores():
    x, y = keras.Input((None, 6)), keras.Input((9, 6))
    output, scores = make()(x, y, return_attention_scores=True)
    assert output.shape == (None, None, 6)
    assert scores.shape == (None, 2, None, 9)
    model = keras.Model([x, y], [output, scores])
    output, scores = model([normal(2, 5, 6), normal(2, 9, 6)])
    assert tuple(scores.shape) == (2, 2, 5, 9)


def test_dropout_is_active_in_training_only():
    for feature_map in ("orthogonal", "softmax"):
        x = normal(2, 9, 6)
        layer, without = make(dropout=0.5, feature_map=feature_map), make(feature_map=feature_map)
        layer(x, x), without(x, x)
        for ours, theirs in zip(without.trainable_weights, layer.trainable_weights, strict=True):
            ours.assign(theirs)
        expected = to_numpy(without(x, x))
        np.testing.assert_array_equal(to_numpy(layer(x, x)), expected)
        np.testing.assert_array_equal(to_numpy(layer(x, x, training=False)), expected)
        first, second = (to_numpy(layer(x, x, training=True)) for _ in range(2))
        assert error(first, expected) > 0.01
        assert error(first, second) > 0.01


# --- Mixed precision, seeds, sizes


@pytest.mark.parametrize("policy", ROUNDING)
@pytest.mark.parametrize(
    ("feature_map", "normalize"),
    [("orthogonal", True), ("positive", False), ("taylor", True), ("elu", True), ("softmax", False)],
)
def test_mixed_precision_stays_within_its_rounding(policy, feature_map, normalize):
    layer, half = (
        make(feature_map=feature_map, normalize=normalize, causal=True, dtype=dtype) for dtype in ("float32", policy)
    )
    # Long enough that sums in half precision would show, and with a bias over a wide range.
    x = normal(1, 300, 6)
    layer.build(x.shape, x.shape), half.build(x.shape, x.shape)
    half.set_weights(layer.get_weights())
    output, (gradient,), gradients = forward_backward(lambda x: half(x, x), [x], None, half.trainable_weights)
    assert np.isfinite(output).all()
    assert error(output, to_numpy(call(layer, x, x))) < 8 * ROUNDING[policy]
    assert all(np.isfinite(g).all() for g in (gradient, *gradients))


def test_large_inputs_stay_finite_in_float16():
    for normalize in (True, False):
        layer = make(dtype="mixed_float16", normalize=normalize)
        x = 30 * normal(1, 40, 6)
        output, (gradient,), _ = forward_backward(lambda x, layer=layer: layer(x, x), [x])
        assert np.isfinite(output).all()
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("route", ["dense", "fft", "banded"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("feature_map", ["orthogonal", "trigonometric", "elu"])
def test_keys_of_norm_1e6_stay_finite(feature_map, normalize, route):
    layer, x = make(feature_map=feature_map, normalize=normalize, route=route), normal(1, 70, 6)
    x[:, ::3] *= np.float32(1e6)
    layer(x, x)
    mask = np.zeros((1, 70), bool)
    for options in ({}, {"attention_mask": mask}):
        output, (gradient,), gradients = forward_backward(
            lambda x, options=options: layer(x, x, **options), [x], None, layer.trainable_weights
        )
        assert np.isfinite(output).all()
        assert all(np.isfinite(g).all() for g in (gradient, *gradients))


def test_the_seed_decides_the_random_features():
    def projection(seed):
        layer = make(seed=seed)
        layer.build((1, 3, 6), (1, 3, 6))
        return to_numpy(layer.projection)

    np.testing.assert_array_equal(projection(5), projection(5))
    assert (projection(5) != projection(6)).any()
    assert (projection(None) != projection(None)).any()


def test_redraw_draws_new_random_features():
    layer, other, x = make(seed=5), make(seed=6), normal(2, 9, 6)
    before, after = layer(x, x), other(x, x)
    other.set_weights(layer.get_weights())
    np.testing.assert_array_equal(to_numpy(other(x, x)), to_numpy(before))  # features are weights: they load
    fresh = make(seed=6)
    fresh.build((1, 3, 6), (1, 3, 6))
    layer.redraw(6)
    np.testing.assert_array_equal(to_numpy(layer.projection), to_numpy(fresh.projection))
    assert layer.get_config()["seed"] == 6
    assert error(to_numpy(layer(x, x)), to_numpy(before)) > 1e-3
    assert error(to_numpy(after), to_numpy(before)) > 1e-3
    with pytest.raises(ValueError, match=r"`seed`.*Received: seed=-1"):
        layer.redraw(-1)
    with pytest.raises(ValueError, match=r"built.*Received: built=False"):
        make().redraw(1)


SCRIPT = """
import sys, keras, numpy as np
from krpe_tf import KernelizedRPEAttention
keras.utils.set_random_seed(3)
x = np.random.default_rng(0).standard_normal((2, 150, 6)).astype("float32")
for route in ("dense", "fft", "banded"):
    layer = KernelizedRPEAttention(2, 4, route=route)
    inputs = keras.Input((None, 6))
    model = keras.Model(inputs, layer(inputs, inputs))
    model.save(f"{route}.keras")
    np.save(f"{route}.npy", keras.ops.convert_to_numpy(model(x)))
"""


@pytest.fixture(scope="module")
def saved_twice(tmp_path_factory):
    """Two folders, each written by a process of its own, that hold a model and its output for each route."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    for folder in folders:
        subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, env=environment, cwd=folder)
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("route", ["dense", "fft", "banded"])
def test_two_processes_and_the_saved_file_agree_to_the_bit(saved_twice, route):
    first, second = (np.load(folder / f"{route}.npy") for folder in saved_twice)
    np.testing.assert_array_equal(first, second)
    x = np.random.default_rng(0).standard_normal((2, 150, 6)).astype("float32")
    model = keras.saving.load_model(saved_twice[0] / f"{route}.keras")
    if keras.backend.backend() == "tensorflow":  # on JAX the tests compile otherwise than the script, see conftest.py
        np.testing.assert_array_equal(to_numpy(model(x)), first)


@pytest.mark.parametrize("route", ["dense", "fft", "banded"])
@pytest.mark.parametrize("feature_map", ["orthogonal", "softmax"])
def test_a_prefix_is_seen_by_all(feature_map, route):
    layer = make(feature_map=feature_map, route="auto" if feature_map == "softmax" else route)
    x = normal(2, 30, 6)
    output = to_numpy(call(layer, x, x, use_causal_mask=True, prefix_length=12))
    causal, first = call(layer, x, x, use_causal_mask=True), call(layer, x[:, :12], x[:, :12])
    assert error(output[:, 12:], to_numpy(causal)[:, 12:]) < 1e-5
    assert error(output[:, :12], to_numpy(first)) < 1e-5
    with pytest.raises(ValueError, match=r"`prefix_length` needs `causal=True`.*Received: prefix_length=12"):
        layer(x, x, prefix_length=12)


@pytest.mark.parametrize("feature_map", ["orthogonal", "softmax"])
def test_padded_queries_attend_to_zeros(feature_map):
    layer, x = make(feature_map=feature_map, use_bias=False), normal(2, 9, 6)
    mask = np.arange(9)[None] < np.array([[9], [5]])
    output = to_numpy(call(layer, x, x, query_mask=mask))
    np.testing.assert_array_equal(output[~mask], 0)
    assert error(output[mask], to_numpy(call(layer, x, x))[mask]) < 1e-6
    _, scores = call(layer, x, x, query_mask=mask, return_attention_scores=True)
    np.testing.assert_array_equal(to_numpy(scores)[1, :, 5:], 0)


def test_number_of_weights():
    layer = make(num_heads=3, key_dim=4, value_dim=5, output_shape=7)
    layer.build((None, None, 6), (None, None, 8), (None, None, 9))
    projections = 6 * 12 + 12 + 9 * 12 + 12 + 8 * 15 + 15 + 15 * 7 + 7
    assert weights_count(layer) == projections + 3 * 31 + 2 * (2 * 3 * 2)
    assert [w.shape for w in layer.non_trainable_weights] == [(4, 32)]
    assert weights_count(make()) == 2 * 31 + 2 * (2 * 2 * 2)  # the bias alone is there before build


def test_projections_do_not_start_equal():
    layer = make(key_dim=4)
    layer.build((1, 3, 6), (1, 3, 6))
    kernels = [to_numpy(dense.kernel) for dense in (layer.query_dense, layer.key_dense, layer.value_dense)]
    assert (kernels[0] != kernels[1]).any()
    assert (kernels[0] != kernels[2]).any()


def test_a_bias_layer_may_be_given_and_shared():
    bias = DecayBias(2)
    first, second = make(position_bias=bias), make(position_bias=bias)
    assert first.position_bias is second.position_bias is bias
    assert isinstance(make(position_bias="bucketed").position_bias, BucketedBias)
    assert make(position_bias=None).position_bias is None
