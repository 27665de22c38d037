"""The encoder and decoder: steps are teacher forcing, in memory that neither length changes; padding; files."""

import functools
import itertools
import json
import re

import keras
import numpy as np
import pytest
from calls import call, compile_step
from definition import error, forward_backward, randomize, to_numpy
from layer_checks import ROUNDING
from test_interface import SHARDED, mesh

from krpe_tf import DecayBias, LearnedBias
from krpe_tf.models import Array, EncoderDecoder, interface_of

SIZES = {
    "vocabulary_size": 30,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "num_features": 4,
    "seed": 1,
}
PLACES = ("encoder_feature_map", "decoder_feature_map", "cross_feature_map")
MAPS = {
    " ".join(maps): dict(zip(PLACES, maps, strict=True))
    for maps in itertools.product(("orthogonal", "softmax"), repeat=3)
}
CONFIGURATIONS = {
    **MAPS,
    "two vocabularies": {"source_vocabulary_size": 50, "decoder_num_features": 6},
    "PRF": {
        **dict.fromkeys(("encoder_position_bias", "decoder_position_bias")),
        "normalize": False,
        "absolute_positions": 40,
    },
    "all else": {
        "encoder_position_bias": LearnedBias(2, 7),
        "decoder_position_bias": DecayBias(2, radius=3),
        "share_position_bias": False,
        "cross_normalize": False,
        "use_gate": True,
        "activation": "relu",
        "use_gated_activation": True,
        "norm": "rms",
        "norm_epsilon": 1e-3,
        "use_bias": False,
        "key_dim": 3,
        "value_dim": 5,
        "dropout": 0.0,
        "route": "banded",
    },
}


def make(**arguments):
    return EncoderDecoder(**{**SIZES, **arguments})


@functools.cache
def moved(name):
    """A model of a configuration, off its start; not to be changed."""
    model, random = make(**CONFIGURATIONS[name]), np.random.default_rng(0)
    for bias in filter(None, model.position_biases):
        randomize(bias)
    for weight in model.trainable_weights:
        if "bias/" not in weight.path:
            weight.assign(to_numpy(weight) + 0.2 * random.standard_normal(weight.shape).astype("float32"))
    return model


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def ids(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 30, shape).astype("int32")


def batch(s=11, n=9, source_padding=4, padding=3):
    """Two pairs, of which the second is shorter on both sides."""
    source_mask, mask = np.ones((2, s), "int32"), np.ones((2, n), "int32")
    source_mask[1, s - source_padding :], mask[1, n - padding :] = 0, 0
    return {
        "source_ids": ids(2, s),
        "source_mask": source_mask,
        "token_ids": ids(2, n, seed=1),
        "padding_mask": mask,
    }


def run(model, inputs):
    return to_numpy(call(model, inputs))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_steps_are_teacher_forcing(name):
    model, inputs = moved(name), batch()
    expected, targets = run(model, inputs), inputs["token_ids"]
    state = model.initial_state(inputs["source_ids"], inputs["source_mask"], max_length=9)
    step = compile_step(model.step) if keras.backend.backend() == "jax" else model.step
    first, state = step(targets[:, :4], state, count=np.array([4, 3]))
    assert error(to_numpy(first)[0], expected[0, :4]) < 1e-5
    assert error(to_numpy(first)[1, :3], expected[1, :3]) < 1e-5
    for index in range(3):
        token = np.stack([targets[0, 4 + index :][:1], targets[1, 3 + index :][:1]])
        logits, state = step(token, state)
        assert error(to_numpy(logits)[:, 0], np.stack([expected[0, 4 + index], expected[1, 3 + index]])) < 1e-5


@pytest.mark.parametrize("name", ["orthogonal orthogonal orthogonal", "softmax softmax softmax", "PRF"])
def test_padding_changes_nothing(name):
    model, inputs = moved(name), batch()
    expected = run(model, inputs)
    assert expected.dtype == np.float32
    alone = {key: x[1:, : 7 if key.startswith("source") else 6] for key, x in inputs.items()}
    assert error(run(model, alone), expected[1:, :6]) < 1e-5
    changed = {**inputs, "source_ids": np.where(inputs["source_mask"], inputs["source_ids"], 3)}
    changed["token_ids"] = np.where(inputs["padding_mask"], inputs["token_ids"], 3)
    changed.update({key: inputs[key].astype(bool) for key in ("source_mask", "padding_mask")})
    found = run(model, changed)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1, :6], expected[1, :6])
    if model.absolute_positions is None:
        left = {**inputs, **{key: np.roll(inputs[key], 4, axis=1) for key in ("source_ids", "source_mask")}}
        assert error(run(model, left)[1, :6], expected[1, :6]) < 1e-5


def test_a_target_sees_its_past_and_the_whole_source():
    model, inputs = moved("orthogonal orthogonal orthogonal"), batch()
    expected = run(model, inputs)
    later = {**inputs, "token_ids": np.where(np.arange(9) < 5, inputs["token_ids"], 3)}
    found = run(model, later)
    assert error(found[:, :5], expected[:, :5]) < 1e-6
    assert error(found[:, 5:], expected[:, 5:]) > 1e-3
    for place in (0, 10):
        other = {**inputs, "source_ids": np.where(np.arange(11) == place, 3, inputs["source_ids"])}
        assert error(run(model, other)[:1], expected[:1]) > 1e-3


def test_cross_attention_knows_no_order():
    blind, inputs = make(encoder_position_bias=None), batch(source_padding=0)
    for model, differs in ((blind, False), (moved("orthogonal orthogonal orthogonal"), True)):
        turned = {**inputs, "source_ids": inputs["source_ids"][:, ::-1]}
        assert (error(run(model, turned), run(model, inputs)) > 1e-5) == differs


def test_padding_reaches_no_gradient_and_all_weights_learn():
    model, inputs = moved("two vocabularies"), batch()
    cotangent = normal(2, 9, 30) * inputs["padding_mask"][..., None]
    changed = {**inputs, "source_ids": np.where(inputs["source_mask"], inputs["source_ids"], 49)}
    changed["token_ids"] = np.where(inputs["padding_mask"], inputs["token_ids"], 3)
    found = [
        forward_backward(lambda x=x: model(x), [], cotangent, model.trainable_weights)[2] for x in (inputs, changed)
    ]
    for weight, gradient, other in zip(model.trainable_weights, *found, strict=True):
        assert np.isfinite(gradient).all(), weight.path
        # What is shorter than the near band does not feel the tails.
        assert (gradient != 0).any() == (weight.name not in ("log_amplitude", "log_rate")), weight.path
        assert error(other, gradient) < 1e-5, weight.path


def test_a_state_does_not_grow_and_reads_8192_tokens():
    model = moved("orthogonal orthogonal orthogonal")
    inputs = {key: x[:1] for key, x in batch(8192, 3).items()}
    state = model.initial_state(inputs["source_ids"], inputs["source_mask"])
    shapes = {name: tuple(x.shape) for name, x in state.items()}
    small = model.initial_state(ids(1, 2))
    assert shapes == {name: tuple(x.shape) for name, x in small.items()}
    assert shapes == {
        name: shape
        for i in range(2)
        for name, shape in {
            f"decoder_{i}_keys": (1, 2, 16, 4),
            f"decoder_{i}_values": (1, 2, 16, 5),
            f"decoder_{i}_sums": (1, 2, 8, 5),
            f"decoder_{i}_cross_sums": (1, 2, 4, 5),
        }.items()
    }
    logits, after = model.step(inputs["token_ids"], state)
    assert error(to_numpy(logits), run(model, inputs)) < 1e-5
    assert all(tuple(after[name].shape) == shape for name, shape in shapes.items())
    assert all(after[name] is x for name, x in state.items() if "cross" in name)


def test_a_source_of_nothing_adds_nothing():
    model, inputs = moved("two vocabularies"), batch(source_padding=11)
    expected = run(model, inputs)
    assert np.isfinite(expected).all()
    state = model.initial_state(ids(1, 5), np.zeros((1, 5), int))
    logits, _ = model.step(inputs["token_ids"][1:, :6], state)
    assert error(to_numpy(logits), expected[1:, :6]) < 1e-5


@pytest.mark.parametrize("name", ["softmax orthogonal softmax", "two vocabularies", "PRF", "all else"])
def test_config_and_file_round_trip(name, tmp_path):
    model, inputs = moved(name), batch()
    config = model.get_config()
    json.dumps(config)
    again = EncoderDecoder.from_config(config)
    assert [(w.path, w.shape) for w in again.weights] == [(w.path, w.shape) for w in model.weights]
    assert len({w.path for w in model.weights}) == len(model.weights)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is EncoderDecoder
    np.testing.assert_array_equal(run(loaded, inputs), run(model, inputs))
    for argument, value in CONFIGURATIONS[name].items():
        if isinstance(value, (str, int, float)):
            assert getattr(loaded, argument) == config[argument] == value
    biases = len({id(bias) for bias in loaded.position_biases})
    assert biases == len({id(bias) for bias in model.position_biases})


def test_weights_are_the_same_whatever_the_maps_and_vocabularies_are_shared_or_not():
    paths = [[(w.path, w.shape) for w in moved(name).weights] for name in MAPS]
    assert all(each == paths[0] for each in paths)
    assert moved("softmax softmax softmax").source_embedding is moved("softmax softmax softmax").token_embedding
    two = {w.path: tuple(w.shape) for w in moved("two vocabularies").weights}
    assert two["source_embedding/embeddings"] == (50, 8)
    assert two["encoder_0_attention/projection"] == (4, 4)
    assert two["decoder_1_cross_attention/projection"] == two["decoder_0_attention/projection"] == (4, 6)
    model = moved("orthogonal orthogonal orthogonal")
    drawn = [to_numpy(w) for w in model.weights if w.path.endswith("projection")]
    assert len({x.tobytes() for x in drawn}) == 5, "attention layers share random features"
    assert {id(bias) for bias in model.position_biases[1:]} == {id(model.position_biases[2])}
    assert model.position_biases[0] is not model.position_biases[1]
    np.testing.assert_array_equal(drawn[0], to_numpy(make().get_layer("encoder_0_attention").projection))


def test_dropout_and_mixed_precision():
    model, inputs = make(dropout=0.5), batch()
    plain = run(model, inputs)
    assert error(to_numpy(model(inputs, training=True)), plain) > 0.05
    half = make(dtype="mixed_bfloat16")
    assert {w.dtype for w in half.trainable_weights} == {"float32"}
    half.set_weights(model.get_weights())
    found = half(inputs)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert error(to_numpy(found), plain) < 20 * ROUNDING["mixed_bfloat16"]
    state = half.initial_state(inputs["source_ids"])
    assert {keras.backend.standardize_dtype(x.dtype) for x in state.values()} == {"float32"}
    again = half.in_float32()
    assert type(again) is EncoderDecoder
    assert error(run(again, inputs), plain) < 1e-6


def test_the_interface_names_both_lengths_and_the_state():
    model = moved("orthogonal softmax softmax")
    interface = interface_of(model)
    assert [str(each) for each in interface.inputs] == [
        "source_ids (batch, source_length)",
        "source_mask (batch, source_length)",
        "token_ids (batch, length)",
        "padding_mask (batch, length)",
    ]
    assert [(each.dtype, each.axes) for each in interface.outputs] == [("float32", ("batch", "length", 30))]
    assert Array("decoder_0_cross_values", "float32", ("batch", 2, "source_length", 5)) in interface.state
    for name in ("orthogonal softmax softmax", "PRF"):
        state = moved(name).initial_state(ids(3, 6), max_length=9)
        shapes = {x.name: x.shape(batch=3, source_length=6, max_length=9) for x in moved(name).interface.state}
        assert shapes == {key: tuple(x.shape) for key, x in state.items()}
        dtypes = {x.name: x.dtype for x in moved(name).interface.state}
        assert dtypes == {key: keras.backend.standardize_dtype(x.dtype) for key, x in state.items()}
    assert make(source_length=5, length=6).interface.inputs[0].axes == ("batch", 5)
    assert make(source_length=5, length=6).output.shape == (None, 6, 30)


def test_heads_and_feed_forward_blocks_are_sharded():
    model = moved("two vocabularies")
    layout = model.get_layout_map(mesh("batch", "model"))
    for weight in model.weights:
        path = weight.path.replace("source_", "token_")
        expected = [axes for pattern, axes in SHARDED.items() if re.search(rf"(^|[_/]){pattern}$", path)]
        found = layout[weight.path]
        assert (found and tuple(found.axes)) == (expected[0] if expected else None), weight.path


def test_bad_input_raises():
    model, inputs = moved("two vocabularies"), batch()
    checked = keras.backend.backend() != "torch"
    if checked:  # PyTorch refuses by itself.
        with pytest.raises(ValueError, match=r"`source_ids` must lie in the vocabulary, from 0 to 49.*to 50"):
            model({**inputs, "source_ids": inputs["source_ids"] * 0 + 50})
        with pytest.raises(ValueError, match=r"`token_ids` must lie in the vocabulary, from 0 to 29"):
            model({**inputs, "token_ids": inputs["token_ids"] - 30})
        with pytest.raises(ValueError, match=r"`source_ids` must lie in the vocabulary"):
            model.initial_state([[50]])
    with pytest.raises(ValueError, match=r"takes no `segment_ids`.*Received: inputs source_ids"):
        model({**inputs, "segment_ids": inputs["padding_mask"]})
    with pytest.raises(ValueError, match=r"`source_mask` must be bool or integer, or hold zeros and ones"):
        model.initial_state(ids(1, 3), np.array([[0, -1e9, 0]]))
    with pytest.raises(ValueError, match=r"`source_mask` must have the shape of `source_ids`, \(1, 3\)"):
        model.initial_state(ids(1, 3), np.ones((1, 4), int))
    with pytest.raises(ValueError, match=r"`source_ids` must be integers of shape \(batch, s\).*Received: float32"):
        model.initial_state(np.ones((1, 3), "float32"))
    with pytest.raises(ValueError, match=r"`source_ids` must be .* with one position at least.*shape \(1, 0\)"):
        model.initial_state(np.zeros((1, 0), int))
    with pytest.raises(ValueError, match=r"or a `max_length`"):
        moved("softmax softmax softmax").initial_state(ids(1, 3))
    state = model.initial_state(ids(1, 3))
    with pytest.raises(ValueError, match=r"`state` must come from"):
        model.step(ids(2, 1), state)
    with pytest.raises(ValueError, match=r"`state` must come from `cross_state`"):
        model.step(ids(1, 1), {name: x for name, x in state.items() if "cross" not in name})
    with pytest.raises(ValueError, match=r"`state` must come from `initial_state`, or from a step"):
        model.step(ids(1, 1), None)
    with pytest.raises(ValueError, match=r"`state` must come from `initial_state`.*Received: state=\['decoder_0_cross"):
        moved("PRF").step(ids(1, 1), state)
    exact = moved("softmax softmax softmax")
    with pytest.raises(ValueError, match=r"`max_length` of the state must be at least"):
        exact.step(ids(1, 4), exact.initial_state(ids(1, 3), max_length=3))
    prf = moved("PRF")
    with pytest.raises(ValueError, match=r"at most 40 tokens. Received: 41 tokens behind 0"):
        prf.step(ids(1, 41), prf.initial_state(ids(1, 3)))
    with pytest.raises(ValueError, match=r"`source_ids` must have at most 40 tokens a row. Received: 41 tokens"):
        prf.encode(ids(1, 41))


def test_padding_behind_the_last_place_is_no_token():
    model, tokens = moved("PRF"), ids(2, 40)
    padded, count = np.pad(tokens, [(0, 0), (0, 24)]), np.array([40, 3])
    logits, state = model.step(padded, model.initial_state(ids(2, 3)), count=count)
    alone, _ = model.step(tokens, model.initial_state(ids(2, 3)))
    np.testing.assert_allclose(to_numpy(logits)[0, :40], to_numpy(alone)[0], atol=1e-5)
    np.testing.assert_array_equal(to_numpy(state["places"]), count)
    with pytest.raises(ValueError, match=r"at most 40 tokens. Received: 1 tokens behind 40"):
        model.step(ids(2, 4), state, count=np.array([1, 4]))


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size"),
        ({"source_vocabulary_size": 0}, "source_vocabulary_size"),
        ({"num_encoder_layers": 0}, "num_encoder_layers"),
        ({"num_decoder_layers": 0}, "num_decoder_layers"),
        ({"num_heads": 3}, "num_heads"),
        ({"decoder_num_features": 0}, "num_features"),
        ({"cross_feature_map": "relu"}, "feature_map"),
        (dict.fromkeys(("encoder_position_bias", "decoder_position_bias"), DecayBias(2)), "decoder_position_bias"),
    ],
)
def test_bad_arguments_raise(change, argument):
    with pytest.raises(ValueError, match=rf"{argument}.*Received: "):
        make(**change)
