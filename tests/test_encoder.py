"""The encoder: sizes, config, files, any length, padding, training."""

import json

import keras
import numpy as np
import pytest
from calls import call
from definition import error, to_numpy
from layer_checks import ROUNDING

from krpe_tf import DecayBias, LearnedBias
from krpe_tf.models import Encoder
from krpe_tf.models.presets import PRESETS

CONFIGURATIONS = {
    "default": {},
    "a bias a layer": {"share_position_bias": False},
    "custom bias": {"position_bias": LearnedBias(2, 7)},
    "custom bias a layer": {"position_bias": DecayBias(2, radius=3), "share_position_bias": False},
    "bucketed": {"position_bias": "bucketed", "num_features": 5},
    "no position bias": {"position_bias": None, "normalize": False},
    "softmax": {"feature_map": "softmax", "causal": True},
    "banded": {"route": "banded", "causal": True, "dropout": 0.0},
    "half precision": {"dtype": "mixed_bfloat16"},
    "gate": {"use_gate": True},
    "RMS norm": {"norm": "rms", "norm_epsilon": 1e-3, "use_bias": False},
    "gated activation": {"activation": "relu", "use_gated_activation": True, "key_dim": 3, "value_dim": 5},
}
EVERY_CONFIGURATION = pytest.mark.parametrize("name", CONFIGURATIONS)


def make(**arguments):
    sizes = {
        "vocabulary_size": 30,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 8,
        "intermediate_dim": 12,
        "num_features": 4,
        "seed": 1,
    }
    return Encoder(**{**sizes, **arguments})


def batch(n, batch=2, padded=0, vocabulary=30):
    ids = np.random.default_rng(0).integers(0, vocabulary, (batch, n)).astype("int32")
    return {"token_ids": ids, "padding_mask": np.broadcast_to(np.arange(n) < n - padded, (batch, n)).astype("int32")}


def run(model, inputs):
    return to_numpy(keras.ops.cast(call(model, inputs), "float32"))


def move_biases(encoder):
    """Off their start, so that saving them matters."""
    for index, bias in enumerate(filter(None, encoder.position_biases)):
        for weight in bias.weights:
            weight.assign(to_numpy(weight) + 0.1 * (index + 1))


@pytest.mark.parametrize(("preset", "parameters"), [("tiny", 50_254), ("small", 10_521_244)])
def test_sizes_of_the_presets(preset, parameters):
    assert Encoder.from_preset(preset).count_params() == parameters  # random features among them


@pytest.mark.slow
def test_size_of_base():
    assert Encoder.from_preset("base").count_params() == 108_546_516


def test_presets_take_other_arguments():
    encoder = Encoder.from_preset("tiny", vocabulary_size=7, num_layers=1)
    assert (encoder.vocabulary_size, encoder.num_layers, encoder.hidden_dim) == (7, 1, 32)
    assert PRESETS["tiny"]["vocabulary_size"] == 1024


@EVERY_CONFIGURATION
def test_config_round_trip(name):
    encoder = make(**CONFIGURATIONS[name])
    config = encoder.get_config()
    json.dumps(config)
    again = Encoder.from_config(config)
    assert [(w.path, w.shape, w.dtype) for w in again.weights] == [(w.path, w.shape, w.dtype) for w in encoder.weights]
    again.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(run(again, batch(9)), run(encoder, batch(9)))
    for argument, value in CONFIGURATIONS[name].items():
        if isinstance(value, (str, int, float)) and argument != "dtype":
            assert getattr(again, argument) == config[argument] == value


@EVERY_CONFIGURATION
def test_keras_file_round_trip(name, tmp_path):
    encoder = make(**CONFIGURATIONS[name])
    move_biases(encoder)
    encoder.save(tmp_path / "encoder.keras")
    again = keras.saving.load_model(tmp_path / "encoder.keras")
    assert type(again) is Encoder
    np.testing.assert_array_equal(run(again, batch(9, padded=2)), run(encoder, batch(9, padded=2)))
    assert len(again.weights) == len(encoder.weights)
    assert len({id(bias) for bias in again.position_biases}) == len({id(bias) for bias in encoder.position_biases})
    assert again.get_config()["dtype"] == encoder.get_config()["dtype"]


def test_a_functional_model_over_its_output_loads_again(tmp_path):
    encoder = Encoder.from_preset("tiny", seed=0)
    model = keras.Model(encoder.input, keras.layers.Dense(3)(encoder.output))
    model.save(tmp_path / "model.keras")
    inputs = {"token_ids": np.arange(7)[None], "padding_mask": np.ones((1, 7), "int32")}
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert error(to_numpy(call(again, inputs)), to_numpy(call(model, inputs))) == 0


def test_one_bias_is_shared_and_on_request_each_layer_has_its_own():
    shared, own = make(), make(share_position_bias=False)
    assert shared.position_biases[0] is shared.position_biases[1]
    assert own.position_biases[0] is not own.position_biases[1]
    assert len(own.trainable_weights) == len(shared.trainable_weights) + 3
    bias = LearnedBias(2, 7)
    assert make(position_bias=bias).position_biases == [bias, bias]
    own = make(position_bias=bias, share_position_bias=False)
    assert len(own.trainable_weights) == len(shared.trainable_weights) - 3 + 2  # that of `bias` is not among them
    own = own.position_biases
    assert [(type(b), b.max_distance) for b in own] == [(LearnedBias, 7)] * 2
    assert own[0] is not own[1]


def test_layers_draw_random_features_of_their_own():
    encoder = make()
    projections = [to_numpy(encoder.get_layer(f"layer_{i}_attention").projection) for i in range(2)]
    assert (projections[0] != projections[1]).any()
    again = [to_numpy(make().get_layer(f"layer_{i}_attention").projection) for i in range(2)]
    np.testing.assert_array_equal(projections, again)


def test_any_length_runs():
    encoder = make()
    for n in (1, 5, 16, 130):
        assert call(encoder, batch(n)).shape == (2, n, 8)
    assert encoder.output.shape == (None, None, 8)
    assert make(length=6).output.shape == (None, 6, 8)


@EVERY_CONFIGURATION
def test_padding_changes_nothing(name):
    encoder = make(**CONFIGURATIONS[name])
    tolerance = ROUNDING.get(CONFIGURATIONS[name].get("dtype"), 1e-6) * 10
    inputs = batch(20, padded=7)
    padded = run(encoder, inputs)
    assert np.isfinite(padded).all()
    assert error(padded[:, :13], run(encoder, {key: x[:, :13] for key, x in inputs.items()})) < tolerance
    inputs["token_ids"][:, 13:] = 0
    np.testing.assert_array_equal(run(encoder, inputs)[:, :13], padded[:, :13])
    inputs["padding_mask"] = inputs["padding_mask"].astype(bool)
    np.testing.assert_array_equal(run(encoder, inputs)[:, :13], padded[:, :13])


def test_all_padding_is_finite():
    assert np.isfinite(run(make(), batch(6, padded=6))).all()


def test_causal_encoders_see_nothing_of_the_future():
    encoder = make(causal=True)
    inputs = batch(12)
    before = run(encoder, inputs)
    inputs["token_ids"][:, 8:] = 3
    after = run(encoder, inputs)
    np.testing.assert_array_equal(after[:, :8], before[:, :8])
    assert (after[:, 8:] != before[:, 8:]).any()


def test_order_enters_through_the_bias_alone():
    inputs, order = batch(9), np.random.default_rng(0).permutation(9)
    shuffled = {**inputs, "token_ids": inputs["token_ids"][:, order]}
    blind, sighted = make(position_bias=None), make()
    assert error(run(blind, shuffled), run(blind, inputs)[:, order]) < 1e-5
    assert error(run(sighted, shuffled), run(sighted, inputs)[:, order]) > 1e-4


def test_the_softmax_twin_takes_over_the_weights():
    encoder, twin = make(), make(feature_map="softmax")
    twin.set_weights(encoder.get_weights())
    assert error(run(encoder, batch(9)), run(twin, batch(9))) < 0.5


def test_every_dropout_of_a_seed_drops_other_places():
    layers = [layer for layer in make(dropout=0.5, seed=3).layers if isinstance(layer, keras.layers.Dropout)]
    x = np.ones((4, 9, 8), "float32")
    kept = {to_numpy(layer(x, training=True)).tobytes() for layer in layers}
    assert len(kept) == len(layers) > 2


def test_dropout_is_active_in_training_only():
    encoder, inputs = make(dropout=0.5), batch(9)
    np.testing.assert_array_equal(run(encoder, inputs), run(encoder, inputs))
    first, second = (to_numpy(encoder(inputs, training=True)) for _ in range(2))
    assert error(first, second) > 0.1


@pytest.mark.parametrize("policy", ROUNDING)
def test_mixed_precision(policy):
    encoder, half = make(dropout=0.0), make(dropout=0.0, dtype=policy)
    assert {w.dtype for w in half.trainable_weights} == {"float32"}
    half.set_weights(encoder.get_weights())
    assert error(run(half, batch(40)), run(encoder, batch(40))) < 20 * ROUNDING[policy]


def test_the_global_policy_is_taken_up():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = make()
    finally:
        keras.config.set_dtype_policy("float32")
    assert encoder.get_layer("layer_0_attention").compute_dtype == "bfloat16"
    again = Encoder.from_config(encoder.get_config())
    assert again.get_layer("layer_0_attention").compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": 3}, "num_heads"),
        ({"hidden_dim": 0}, "hidden_dim"),
        ({"intermediate_dim": 0}, "intermediate_dim"),
        ({"num_features": 0}, "num_features"),
        ({"feature_map": "relu"}, "feature_map"),
        ({"position_bias": "t5"}, "position_bias"),
        ({"position_bias": DecayBias(3)}, "position_bias"),
        ({"route": "fastest"}, "route"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.5}, "dropout"),
        ({"length": 0}, "length"),
    ],
)
def test_bad_arguments_raise(change, argument):
    with pytest.raises(ValueError, match=rf"{argument}.*Received: "):
        make(**change)


def test_an_unknown_preset_raises():
    with pytest.raises(ValueError, match=r"`preset` must be one of.*Received: preset='huge'"):
        Encoder.from_preset("huge")


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")  # Keras goes on after a failure
@pytest.mark.parametrize("layer", ["layer_0_attention", "token_embedding", "layer_1_feed_forward_in", "final_norm"])
def test_weights_that_are_not_finite_are_refused(layer, tmp_path):
    encoder = make()
    weight = encoder.get_layer(layer).trainable_weights[0]
    weight.assign(np.full(weight.shape, np.nan))
    encoder.save(tmp_path / "encoder.keras")
    with pytest.raises(ValueError, match=r"(?s)finite.*Received: "):
        keras.saving.load_model(tmp_path / "encoder.keras")


def test_an_encoder_made_from_another_has_weights_and_arrays_of_its_own():
    encoder = Encoder(50, 1, 2, 8, 16, num_features=4, seed=0)
    made = Encoder.from_encoder(encoder, dropout=0.0)
    assert made.dropout == 0
    for ours, theirs in zip(made.weights, encoder.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
        assert ours.value is not theirs.value  # JAX frees the arrays of what it trains.
