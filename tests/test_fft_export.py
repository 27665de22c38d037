import json

import keras
import numpy as np
import pytest
from export_models import export_tflite, make_classifier, make_encoder, make_ids, relative_error, run_python
from test_litert import PLAIN

from krpe_tf import KernelizedRPEAttention, LearnedBias, LearnedBias2D, toeplitz_attention
from krpe_tf.toeplitz import fft, override

LENGTHS = (1, 33, 100)


def noisy_table(num_heads, max_distance):
    """A table that nothing compresses."""
    bias = LearnedBias(num_heads, max_distance)
    bias.table.assign(bias.table + keras.random.normal(bias.table.shape, seed=1))
    return bias


@pytest.mark.parametrize("length", [2, 4, 64])
def test_the_inverse_by_a_forward_transform(length):
    x = np.random.default_rng(0).normal(size=(2, 3, length)).astype("float32")
    with override(forward_transforms=True):
        real, imaginary = fft._rfft(x, length)
        back = fft._irfft((real, imaginary), length)
    expected = np.fft.rfft(x.astype("float64"))
    np.testing.assert_allclose(np.asarray(real) + 1j * np.asarray(imaginary), expected, atol=1e-5)
    np.testing.assert_allclose(np.asarray(back), x, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n_q", "n_k"), [(1, 1), (37, 37), (50, 3), (3, 50)])
def test_the_route_is_the_same_with_forward_transforms(n_q, n_k, causal):
    rng = np.random.default_rng(0)
    query, key = (rng.uniform(0.1, 1, (2, 3, n, 4)).astype("float32") for n in (n_q, n_k))
    value, mask = rng.normal(size=(2, 3, n_k, 5)).astype("float32"), np.arange(n_k) < [[n_k], [n_k // 2 + 1]]
    arrays = query, key, value, noisy_table(3, 9)
    expected = toeplitz_attention(*arrays, causal=causal, key_mask=mask, route="dense")
    with override(forward_transforms=True):
        result = toeplitz_attention(*arrays, causal=causal, key_mask=mask, route="fft")
    assert np.abs(np.asarray(result) - np.asarray(expected)).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_a_file_of_builtins_that_runs_alone(causal, tmp_path):
    model = make_classifier(position_bias=noisy_table(2, 99), route="fft", causal=causal)
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, LENGTHS, measure=not causal)
    if not causal:
        runs = [(each.signature, each.length, each.threads) for each in report.measurements]
        assert [(each.signature, each.length, each.threads) for each in report.dense_measurements] == runs
        assert path.with_name("model.report.md").read_text().count("| `ids_100` | 100 | 2 |") == 2
    assert report.ops["RFFT2D"] > 0
    assert report.custom_ops == {}
    assert report.highest_rank <= 4
    assert max(report.max_error.values()) < 1e-5
    for length, count in ((33, 33), (100, 60)):
        inputs = make_ids(1, length, [count])
        expected = model({name: value[:, :count] for name, value in inputs.items()})
        sent = json.dumps({name: value.tolist() for name, value in inputs.items()})
        assert relative_error(np.array(run_python(PLAIN, str(path), f"ids_{length}", sent)), expected) < 1e-5


@pytest.mark.slow
def test_features_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(fft, "TRANSFORM_BUDGET", 2**15)
    model = make_encoder(position_bias=noisy_table(2, 99), route="fft", num_layers=1)
    report = export_tflite(model, tmp_path / "model.tflite", (100,))
    assert report.ops["WHILE"] > 2
    assert max(report.max_error.values()) < 1e-5


@pytest.mark.slow
def test_a_file_for_a_grid(tmp_path):
    inputs = {name: keras.Input((13,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    x = keras.layers.Embedding(128, 16)(inputs["token_ids"])
    bias = LearnedBias2D(2, 3, 4, class_token=True)
    bias.table.assign(keras.random.normal(bias.table.shape, seed=1))
    attention = KernelizedRPEAttention(2, 8, num_features=8, position_bias=bias, route="fft", seed=1)
    model = keras.Model(inputs, attention(x, x, attention_mask=inputs["padding_mask"]))
    report = export_tflite(model, tmp_path / "model.tflite", (13,))
    assert report.ops["RFFT2D"] > 0
    assert max(report.max_error.values()) < 1e-5


def test_unknown_lengths_are_refused():
    with override(forward_transforms=True), pytest.raises(ValueError, match=r'only for known lengths; take "banded"'):
        fft._transform_length(None, 4)


@pytest.mark.slow
def test_a_dense_file_past_one_block(tmp_path):
    model = make_encoder(position_bias=noisy_table(2, 599), route="dense", num_layers=1)
    report = export_tflite(model, tmp_path / "model.tflite", (600,))
    assert report.highest_rank <= 4
    assert max(report.max_error.values()) < 1e-5
