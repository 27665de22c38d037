"""Embeddings of documents: the mean over what the mask shows, files, any length."""

import keras
import numpy as np
import pytest
from definition import error, to_numpy
from test_encoder import batch, make

from krpe_tf.models import TextClassifier, TextEmbedder


def run(model, inputs):
    return to_numpy(model(inputs, training=False))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_mean_over_unmasked_positions(policy):
    encoder = make(dtype=policy)
    inputs = batch(9)
    inputs["padding_mask"] = np.array([[1] * 9, [1, 0, 1, 1, 0, 0, 0, 0, 0]], "int32")
    vectors = to_numpy(keras.ops.cast(encoder(inputs, training=False), "float32")).astype("float64")
    output = run(TextEmbedder(encoder), inputs)
    assert output.dtype == np.float32
    assert error(output, np.stack([vectors[0].mean(0), vectors[1, [0, 2, 3]].mean(0)])) < 1e-5


def test_a_document_of_padding_alone_is_zero():
    assert not run(TextEmbedder(make()), batch(6, padded=6)).any()


def test_padding_changes_nothing_and_any_length_runs():
    model = TextEmbedder(make())
    inputs = batch(30, padded=11)
    assert error(run(model, {name: x[:, :19] for name, x in inputs.items()}), run(model, inputs)) < 1e-5
    for n in (1, 200):
        assert tuple(model(batch(n)).shape) == (2, make().hidden_dim)


def test_it_has_the_weights_of_the_encoder_and_shares_them():
    encoder = make()
    model, classifier = TextEmbedder(encoder), TextClassifier(encoder, 3)
    assert len(model.weights) == len(encoder.weights) == len(classifier.weights) - 2
    dense = classifier.get_layer("logits")
    assert error(run(model, batch(9)) @ to_numpy(dense.kernel) + to_numpy(dense.bias), run(classifier, batch(9))) < 1e-5


def test_keras_file_round_trip(tmp_path):
    model = TextEmbedder(make(), name="embedder")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert (type(again), again.name) == (TextEmbedder, "embedder")
    np.testing.assert_array_equal(run(again, batch(9, padded=2)), run(model, batch(9, padded=2)))


@pytest.mark.parametrize("encoder", [None, "tiny", keras.layers.Dense(3)])
def test_bad_encoder_raises(encoder):
    with pytest.raises(ValueError, match=r"encoder.*Received: encoder="):
        TextEmbedder(encoder)
