"""Classification of tokens: logits at every token, files, any length, and that it learns."""

import keras
import numpy as np
import pytest
from calls import call
from definition import error, float64, to_numpy
from test_encoder import batch, make

from krpe_tf import LearnedBias
from krpe_tf.models import TokenClassifier


def run(model, inputs):
    return to_numpy(call(model, inputs))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_logits_are_a_dense_layer_of_every_vector(policy):
    encoder = make(dtype=policy)
    model = TokenClassifier(encoder, 3)
    inputs = batch(9, padded=3)
    vectors = to_numpy(keras.ops.cast(call(encoder, inputs), "float32")).astype("float64")
    dense = model.get_layer("logits")
    dense.bias.assign([1.0, -2.0, 3.0])
    output = run(model, inputs)
    assert output.dtype == np.float32
    assert output.shape == (2, 9, 3)
    assert error(output, vectors @ float64(dense.kernel) + float64(dense.bias)) < 1e-5
    # Not compiled: as another program, the same numbers may be rounded otherwise.
    as_bool = {**inputs, "padding_mask": inputs["padding_mask"].astype(bool)}
    np.testing.assert_array_equal(to_numpy(model(as_bool)), to_numpy(model(inputs)))


def test_padding_and_batching_change_nothing_for_a_token():
    model = TokenClassifier(make(), 2)
    inputs = batch(30, padded=11)
    whole = run(model, inputs)
    assert error(run(model, {name: x[:, :19] for name, x in inputs.items()}), whole[:, :19]) < 1e-5
    assert error(run(model, {name: x[:1] for name, x in inputs.items()}), whole[:1], np.abs(whole).max()) < 1e-5


def test_any_length_runs():
    model = TokenClassifier(make(), 4)
    for n in (1, 16, 40, 200):
        assert tuple(call(model, batch(n)).shape) == (2, n, 4)


@pytest.mark.parametrize(
    "arguments", [{}, {"share_position_bias": False}, {"position_bias": LearnedBias(2, 4)}, {"dtype": "mixed_float16"}]
)
def test_keras_file_round_trip(tmp_path, arguments):
    model = TokenClassifier(make(**arguments), 3, dropout=0.2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is TokenClassifier
    assert (again.num_classes, again.dropout) == (3, 0.2)
    np.testing.assert_array_equal(run(again, batch(9, padded=2)), run(model, batch(9, padded=2)))


def test_config_round_trip():
    model = TokenClassifier(make(), 3, name="tagger")
    again = TokenClassifier.from_config(model.get_config())
    assert again.name == "tagger"
    assert [(w.path, w.shape) for w in again.weights] == [(w.path, w.shape) for w in model.weights]


@pytest.mark.parametrize(("dropout", "rate"), [(None, 0.25), (0.5, 0.5), (0.0, 0.0)])
def test_the_rate_is_the_encoders_unless_given(dropout, rate):
    model = TokenClassifier(make(dropout=0.25), 2, dropout=dropout)
    assert model.get_layer("classifier_dropout").rate == rate


@pytest.mark.slow
def test_it_learns_what_the_token_before_says():
    # The label is whether the token before is even: no token's own vector tells. Padding counts for nothing.
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 30, (256, 12)).astype("int32")
    mask = (np.arange(12) < rng.integers(6, 13, (256, 1))).astype("int32")
    labels = np.where(mask, np.roll(ids, 1, axis=1) % 2, 1)
    weights = mask * (np.arange(12) > 0)
    model = TokenClassifier(make(hidden_dim=16, dropout=0.0), 2)
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    inputs = {"token_ids": ids * mask, "padding_mask": mask}
    history = model.fit(inputs, labels, sample_weight=weights, epochs=30, batch_size=32, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    assert history["loss"][-1] < history["loss"][0] / 2


@pytest.mark.parametrize("num_classes", [0, 1, 2.5, None])
def test_bad_num_classes_raises(num_classes):
    with pytest.raises(ValueError, match=r"num_classes.*Received: num_classes="):
        TokenClassifier(make(), num_classes)


@pytest.mark.parametrize("dropout", [-0.1, 1.5])
def test_bad_dropout_raises(dropout):
    with pytest.raises(ValueError, match=r"dropout.*Received: dropout="):
        TokenClassifier(make(), 2, dropout=dropout)


@pytest.mark.parametrize("encoder", [None, "tiny", keras.layers.Dense(3)])
def test_bad_encoder_raises(encoder):
    with pytest.raises(ValueError, match=r"`encoder` must be an Encoder.*Received: encoder="):
        TokenClassifier(encoder, 2)
