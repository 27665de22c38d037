"""Masked-language modelling: logits, their positions, files, and that it learns."""

import math

import keras
import numpy as np
import pytest
from calls import call
from definition import error, float64, to_numpy
from test_encoder import batch, make

from krpe_tf.models import MaskedLM


def test_a_head_in_half_precision_has_one_in_float32():
    half = MaskedLM(make(), dtype="mixed_bfloat16")
    model = half.in_float32()
    assert (half.get_layer("transform").compute_dtype, model.get_layer("transform").compute_dtype) == (
        "bfloat16",
        "float32",
    )
    np.testing.assert_array_equal(to_numpy(model.weights[-1]), to_numpy(half.weights[-1]))
    assert model.in_float32() is model


def run(model, inputs):
    return to_numpy(call(model, inputs))


def test_logits_are_those_of_the_formula():
    encoder = make()
    model = MaskedLM(encoder)
    dense, norm = model.get_layer("transform"), model.get_layer("transform_norm")
    x = float64(call(encoder, batch(9))) @ float64(dense.kernel) + float64(dense.bias)
    x = x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    expected = (x * float64(norm.gamma) + float64(norm.beta)) @ float64(encoder.token_embedding.embeddings).T
    assert error(run(model, batch(9)), expected) < 1e-4


def test_the_embedding_is_tied():
    encoder = make()
    model = MaskedLM(encoder)
    assert len(model.trainable_weights) == len(encoder.trainable_weights) + 4
    assert model.output.shape == (None, None, 30)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_logits_at_positions_are_the_full_ones_at_these_positions(policy):
    encoder = make(dtype=policy)
    full, at_positions = MaskedLM(encoder), MaskedLM(encoder, at_positions=True)
    at_positions.set_weights(full.get_weights())
    positions = np.array([[0, 3, 8, 3], [7, 7, 1, 0]], "int32")
    expected = np.take_along_axis(run(full, batch(9)), positions[..., None], axis=1)
    actual = run(at_positions, {**batch(9), "mask_positions": positions})
    assert actual.dtype == expected.dtype == np.float32
    assert error(actual, expected) < 1e-5


@pytest.mark.parametrize("at_positions", [False, True])
@pytest.mark.parametrize("own_biases", [False, True])
def test_keras_file_round_trip(tmp_path, at_positions, own_biases):
    model = MaskedLM(make(share_position_bias=not own_biases), at_positions=at_positions)
    inputs = batch(9)
    if at_positions:
        inputs["mask_positions"] = np.array([[1, 2], [3, 4]], "int32")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is MaskedLM
    assert again.at_positions == at_positions
    assert len(again.weights) == len(model.weights)
    np.testing.assert_array_equal(run(again, inputs), run(model, inputs))
    np.testing.assert_array_equal(to_numpy(call(again.encoder, batch(9))), to_numpy(call(model.encoder, batch(9))))


def test_config_round_trip():
    model = MaskedLM(make(), at_positions=True, name="lm")
    again = MaskedLM.from_config(model.get_config())
    assert again.name == "lm"
    assert [(w.path, w.shape) for w in again.weights] == [(w.path, w.shape) for w in model.weights]


@pytest.mark.slow
def test_it_learns_and_runs_longer_than_it_was_trained():
    # A masked token (0) is the one before it plus one: only a model that knows the order can tell.
    rng = np.random.default_rng(0)
    ids = (rng.integers(1, 9, (256, 1)) + np.arange(16)) % 8 + 1
    positions = rng.integers(1, 16, (256, 2))
    targets = np.take_along_axis(ids, positions, axis=1)
    np.put_along_axis(ids, positions, 0, axis=1)
    model = MaskedLM(make(vocabulary_size=10, hidden_dim=16, dropout=0.0), at_positions=True)
    model.compile(
        optimizer=keras.optimizers.Adam(0.01), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    inputs = {"token_ids": ids.astype("int32"), "padding_mask": np.ones_like(ids, "int32"), "mask_positions": positions}
    history = model.fit(inputs, targets, epochs=30, batch_size=32, verbose=0).history["loss"]
    assert history[-1] < 0.5 < 2 < history[0]
    long = {"token_ids": np.arange(40)[None] % 8 + 1, "padding_mask": np.ones((1, 40)), "mask_positions": [[20, 39]]}
    logits = run(model, {name: np.asarray(x, "int32") for name, x in long.items()})
    assert logits.shape == (1, 2, 10)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("encoder", [None, "tiny", keras.layers.Dense(3)])
def test_bad_input_raises(encoder):
    with pytest.raises(ValueError, match=r"encoder.*Received: encoder="):
        MaskedLM(encoder)
