"""Position biases: each is what its definition says, from the first call on."""

import json

import keras
import numpy as np
import pytest
from definition import bias_gradients as expected_gradients
from definition import error, float64, forward_backward, log_weights, randomize, t5_bucket, to_numpy
from hypothesis import given
from hypothesis import strategies as st

from krpe_tf import BucketedBias, DecayBias, LearnedBias
from krpe_tf.position_bias import PositionBias, make_position_bias

CONFIGURATIONS = {
    "decay": (DecayBias, {"num_heads": 3}),
    "one term": (DecayBias, {"num_heads": 2, "radius": 4, "num_terms": 1}),
    "many terms": (DecayBias, {"num_heads": 1, "radius": 2, "num_terms": 5}),
    "alibi": (DecayBias, {"num_heads": 8, "radius": 1, "num_terms": 1}),
    "bucketed": (BucketedBias, {"num_heads": 3}),
    "few buckets": (BucketedBias, {"num_heads": 2, "num_buckets": 4, "max_distance": 2}),
    "long buckets": (BucketedBias, {"num_heads": 2, "num_buckets": 64, "max_distance": 1000}),
    "learned": (LearnedBias, {"num_heads": 3, "max_distance": 7}),
    "one offset": (LearnedBias, {"num_heads": 2, "max_distance": 1}),
}
EVERY_BIAS = pytest.mark.parametrize("name", CONFIGURATIONS)
OFFSETS = np.arange(-1200, 1201)


def make(name):
    bias_class, arguments = CONFIGURATIONS[name]
    return bias_class(**arguments)


def slopes(heads):
    return 2.0 ** (-8 * np.arange(1, heads + 1) / heads)


def values(bias, offsets):
    return to_numpy(bias.log_weights(np.asarray(offsets, "int32")))


@EVERY_BIAS
def test_log_weights_are_those_of_the_definition(name):
    bias = make(name)
    assert bias.built  # and usable at once
    for _ in range(2):
        actual = values(bias, OFFSETS)
        assert actual.dtype == np.float32
        assert error(actual, log_weights(bias, OFFSETS)) < 1e-6
        randomize(bias)


@EVERY_BIAS
def test_log_weights_are_those_of_near_table_and_tails(name):
    bias = randomize(make(name))
    near = float64(bias.near_table())
    log_amplitudes, rates = (float64(x) for x in bias.tails())
    radius, heads = bias.radius, bias.num_heads
    assert near.shape == (heads, 2 * radius - 1)
    assert log_amplitudes.shape == rates.shape == (2, heads, rates.shape[-1])
    assert (rates >= 0).all()
    actual = values(bias, OFFSETS)
    for index, t in enumerate(OFFSETS):
        if abs(t) < radius:
            expected = near[:, t + radius - 1]
        else:
            side = int(t > 0)
            terms = np.exp(log_amplitudes[side] - rates[side] * (abs(t) - radius))
            with np.errstate(divide="ignore"):
                expected = np.log(terms.sum(-1))
        reached = expected > -600  # below, exp underflows even in float64
        np.testing.assert_allclose(actual[reached, index], expected[reached], rtol=1e-5, atol=1e-5)


@EVERY_BIAS
def test_gradients_are_those_of_the_definition(name):
    bias = randomize(make(name))
    offsets = np.arange(-300, 301)
    cotangent = np.random.default_rng(0).standard_normal((bias.num_heads, 601)).astype("float32")
    _, _, gradients = forward_backward(lambda: bias.log_weights(offsets), [], cotangent, bias.weights)
    right = expected_gradients(bias, offsets, cotangent.astype("float64"))
    scale = max(np.abs(x).max() for x in right.values())
    for weight, gradient in zip(bias.weights, gradients, strict=True):
        assert error(gradient, right[weight.name], scale) < 1e-5


@given(shape=st.lists(st.integers(1, 4), max_size=3), name=st.sampled_from(list(CONFIGURATIONS)))
def test_offsets_may_have_any_shape(shape, name):
    bias = make(name)
    offsets = np.random.default_rng(0).integers(-200, 200, size=shape)
    actual = values(bias, offsets)
    assert actual.shape == (bias.num_heads, *shape)
    assert tuple(bias.compute_output_shape(tuple(shape))) == actual.shape
    assert error(actual, log_weights(bias, offsets)) < 1e-6
    np.testing.assert_array_equal(to_numpy(bias(offsets)), actual)


@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8])
def test_every_bias_starts_from_slopes_with_a_peak_at_a_neighbour_of_each_head(heads):
    s = slopes(heads)[:, None]
    t = np.arange(-300, 301)
    peaks = np.zeros((heads, len(t)))
    for head, neighbour in enumerate([-1, 1, -2, 2, -3, 3, -4, 4][:heads]):
        peaks[head, 300 + neighbour] = 6
    learned = values(LearnedBias(heads, 20), t)
    np.testing.assert_allclose(learned, peaks - s * np.minimum(np.abs(t), 20), rtol=1e-6)
    alibi = values(DecayBias(heads, radius=1, num_terms=1), t)
    np.testing.assert_allclose(alibi, -s * np.abs(t), rtol=1e-5)
    band = slice(300 - 16, 300 + 17)
    near = values(DecayBias(heads), t[band])
    np.testing.assert_allclose(near, peaks[:, band] - s * np.abs(t[band]), rtol=1e-5, atol=1e-6)
    buckets = t5_bucket(t)
    smallest = np.array([np.abs(t)[buckets == bucket].min() for bucket in buckets])
    np.testing.assert_allclose(values(BucketedBias(heads), t), peaks - s * smallest, rtol=1e-6)


def test_what_holds_all_far_keys_has_no_peak():
    for bias in (LearnedBias(4, 1), DecayBias(4, radius=1), BucketedBias(4, num_buckets=4, max_distance=2)):
        assert (values(bias, np.arange(-9, 10)) <= 1e-6).all()


def test_terms_do_not_start_equal():
    bias = DecayBias(2, radius=16, num_terms=3)
    log_amplitudes, rates = (float64(x) for x in bias.tails())
    np.testing.assert_allclose(
        log_amplitudes, np.broadcast_to(-slopes(2)[:, None] * 16 - np.log(3), (2, 2, 3)), rtol=1e-6
    )
    expected = slopes(2)[:, None] * np.exp([-0.5, 0, 0.5])
    np.testing.assert_allclose(rates, np.broadcast_to(expected, (2, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("heads", [1, 3, 8])
def test_alibi_is_one_term_and_no_band(heads):
    t = np.arange(-100, 101)
    np.testing.assert_allclose(
        values(DecayBias(heads, radius=1, num_terms=1), t), -slopes(heads)[:, None] * np.abs(t), rtol=1e-5
    )


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 11), (4, 2), (64, 1000), (32, 100), (6, 50)])
def test_buckets_are_those_of_t5(num_buckets, max_distance):
    bias = BucketedBias(1, num_buckets, max_distance)
    bias.table.assign(np.arange(num_buckets, dtype="float32")[None])
    t = np.arange(-2 * max_distance - 5, 2 * max_distance + 6)
    np.testing.assert_array_equal(values(bias, t)[0], t5_bucket(t, num_buckets, max_distance))


@pytest.mark.parametrize("bias", [LearnedBias(2, 20), BucketedBias(2, 8, 20)], ids=["learned", "bucketed"])
def test_constant_past_max_distance(bias):
    randomize(bias)
    for sign in (-1, 1):
        beyond = values(bias, sign * np.array([20, 21, 100, 100_000]))
        assert (beyond == beyond[:, :1]).all()
    assert (values(bias, [-20]) != values(bias, [20])).all()


def test_a_learned_table_of_n_minus_1_is_the_papers():
    n = 12
    bias = LearnedBias(2, n - 1)
    assert bias.table.shape == (2, 2 * n - 1)
    table = np.random.default_rng(0).standard_normal((2, 2 * n - 1)).astype("float32")
    bias.table.assign(table)
    np.testing.assert_array_equal(values(bias, np.arange(-(n - 1), n)), table)


@EVERY_BIAS
def test_weights_stay_float32_under_any_policy(name):
    bias_class, arguments = CONFIGURATIONS[name]
    expected = values(make(name), OFFSETS)
    for policy in ("mixed_float16", "mixed_bfloat16", "float16"):
        bias = bias_class(**arguments, dtype=policy)
        assert {keras.backend.standardize_dtype(weight.dtype) for weight in bias.weights} == {"float32"}
        output = to_numpy(bias(OFFSETS.astype("int32")))
        np.testing.assert_array_equal(output, expected)


@EVERY_BIAS
def test_config_round_trip(name):
    bias_class, arguments = CONFIGURATIONS[name]
    bias = bias_class(**arguments, name="the_bias")
    config = bias.get_config()
    assert json.loads(json.dumps(config)) == config
    assert arguments.items() <= config.items()
    again = bias_class.from_config(config)
    assert again.get_config() == config
    assert [w.shape for w in again.weights] == [w.shape for w in bias.weights]
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(bias))
    assert type(again) is bias_class
    np.testing.assert_array_equal(values(again, OFFSETS), values(bias, OFFSETS))


@EVERY_BIAS
def test_weights_are_trainable_and_finite_at_their_start(name):
    bias = make(name)
    assert len(bias.trainable_weights) == len(bias.weights) > 0
    assert np.isfinite(np.concatenate([to_numpy(w).ravel() for w in bias.weights])).all()


def test_make_position_bias():
    assert make_position_bias(None, 3) is None
    assert isinstance(make_position_bias("decay", 3), DecayBias)
    assert isinstance(make_position_bias("bucketed", 3), BucketedBias)
    bias = LearnedBias(3, 5)
    assert make_position_bias(bias, 3) is bias
    for wrong in ("t5", 3, object(), LearnedBias(2, 5), LearnedBias):
        with pytest.raises(ValueError, match=r"`position_bias`.*Received: position_bias"):
            make_position_bias(wrong, 3)


@pytest.mark.parametrize(
    ("bias_class", "arguments", "argument"),
    [
        (DecayBias, {"num_heads": 0}, "num_heads"),
        (DecayBias, {"num_heads": 1, "radius": 0}, "radius"),
        (DecayBias, {"num_heads": 1, "num_terms": 0}, "num_terms"),
        (DecayBias, {"num_heads": 1, "radius": 1.5}, "radius"),
        (LearnedBias, {"num_heads": -1, "max_distance": 3}, "num_heads"),
        (LearnedBias, {"num_heads": 1, "max_distance": 0}, "max_distance"),
        (BucketedBias, {"num_heads": 0}, "num_heads"),
        (BucketedBias, {"num_heads": 1, "num_buckets": 2}, "num_buckets"),
        (BucketedBias, {"num_heads": 1, "num_buckets": 7}, "num_buckets"),
        (BucketedBias, {"num_heads": 1, "num_buckets": 32, "max_distance": 8}, "max_distance"),
        (BucketedBias, {"num_heads": 1, "max_distance": "far"}, "max_distance"),
        (PositionBias, {"num_heads": 1, "radius": 0}, "radius"),
    ],
)
def test_bad_input_raises(bias_class, arguments, argument):
    with pytest.raises(ValueError, match=f"`{argument}`.*Received: {argument}="):
        bias_class(**arguments)
