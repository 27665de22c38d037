"""Distillation: the loss, what a student takes from its teacher, and the whole path from the command line."""

import json
import logging

import keras
import numpy as np
import pytest
from definition import to_numpy
from trained_run import documents

from krpe_tf import DecayBias
from krpe_tf.cli import main
from krpe_tf.data import build_corpus, open_source
from krpe_tf.export import LiteRTModel, export_saved_model, export_tflite
from krpe_tf.models import Encoder, LayerVectors, TextClassifier, TextEmbedder
from krpe_tf.runs import RunSettings, load_run, predict_run, train_run
from krpe_tf.tasks import DISTILL
from krpe_tf.text import ByteTokenizer, WordPieceTokenizer, train_wordpiece
from krpe_tf.training import Distribution, GlobalVectorError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """texts/, and a teacher as BERT is: teacher.keras and its tokenizer.json."""
    path = tmp_path_factory.mktemp("distill")
    texts = [text for text, _ in documents(40)]
    (path / "texts").mkdir()
    for index, text in enumerate(texts):
        (path / "texts" / f"{index}.txt").write_text(text, encoding="utf-8")
    tokenizer = WordPieceTokenizer(train_wordpiece(texts, 100))
    tokenizer.save(path / "tokenizer.json")
    keras.utils.set_random_seed(1)
    kernel = {"feature_map": "softmax", "normalize": False, "position_bias": None}
    teacher = Encoder(
        tokenizer.vocabulary_size, 2, 2, 16, 32, **kernel, normalize_first=False, absolute_positions=16, seed=0
    )
    for place, weight in enumerate(teacher.weights):
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.2, seed=place))
    TextEmbedder(teacher).save(path / "teacher.keras")
    return path


def command(folder, output, *options):
    sizes = ["--max-length", "64", "--min-length", "64", "--batch-tokens", "256", "--epochs", "3"]
    others = ["--encoder", "num_features=16", "dropout=0.0", "--fine-tune-optimizer", "learning_rate=0.01"]
    given = ["--task", "distill", "--teacher", str(folder / "teacher.keras"), "--checkpoint-every", "2"]
    return ["train", str(folder / "texts"), "--output", str(output), *given, *sizes, *others, *options]


def test_the_loss_is_the_relative_error_of_tokens_and_of_rows():
    random = np.random.default_rng(0)
    y, x = random.normal(size=(2, 3, 2, 5, 4)).astype("float32")
    weights = (np.arange(5) < np.array([[5], [2], [0]])).astype("float32")
    tokens = (((x - y) ** 2).sum(-1) / (y**2).sum(-1)).mean(1)
    rows = [(x[i, j, :n].mean(0), y[i, j, :n].mean(0)) for i, n in ((0, 5), (1, 2)) for j in (0, 1)]
    expected = tokens[weights > 0].mean() + np.mean([((a - b) ** 2).sum() / (b**2).sum() for a, b in rows])
    assert float(GlobalVectorError()(y, x, weights)) == pytest.approx(expected, rel=1e-5)
    assert float(GlobalVectorError()(y, y)) == 0


def test_a_teacher_reads_rows_longer_than_its_positions(folder):
    teacher = keras.saving.load_model(folder / "teacher.keras").encoder
    ids = np.random.default_rng(0).integers(5, 20, (2, 40)).astype("int32")
    inputs = {"token_ids": ids, "padding_mask": (np.arange(40) < np.array([[40], [20]])).astype("int32")}
    layers = LayerVectors(teacher)
    found = layers.read(inputs)
    assert found.shape == (2, 2, 40, 16)
    for start, stop in ((1, 16), (16, 31), (31, 40)):
        window = np.concatenate([ids[:1, :1], ids[:1, start:stop]], axis=1)
        alone = {"token_ids": window, "padding_mask": np.ones_like(window)}
        expected = to_numpy(layers(alone))
        np.testing.assert_allclose(found[0, :, start:stop], expected[0, :, 1:], atol=1e-5)
        np.testing.assert_allclose(expected[:, -1], to_numpy(teacher(alone)), atol=1e-6)
        if start == 1:
            np.testing.assert_allclose(found[0, :, 0], expected[0, :, 0], atol=1e-5)


def test_targets_depend_on_the_step_alone_so_that_runs_resume(folder):
    settings = RunSettings(teacher=str(folder / "teacher.keras"), max_length=64, min_length=64, batch_tokens=256)
    made = []
    for steps in ((0, 3), (3, 0)):
        corpus = build_corpus(
            open_source(folder / "texts", ("text",)), DISTILL.encoding, tokenizer=DISTILL.learns(settings)
        )
        batches = DISTILL.batches(corpus, "train", settings, 0, 1)
        made.append({step: batches[step] for step in steps})
    for step in (0, 3):
        inputs, targets, weights = made[0][step]
        assert targets.shape == (4, 2, 64, 16)
        assert weights.shape == (4, 64)
        np.testing.assert_array_equal(targets, made[1][step][1])
        np.testing.assert_array_equal(inputs["token_ids"], made[1][step][0]["token_ids"])
    assert batches.rows(3, 0, 1)[1].shape == targets.shape
    batches = DISTILL.batches(corpus, "train", settings, 0, 2)
    halves = [batches.rows(0, process, 2)[1] for process in (0, 1)]
    np.testing.assert_allclose(np.concatenate(halves), batches[0][1], atol=1e-5)


def test_several_processes_are_refused_before_any_work(folder, tmp_path):
    source, two = open_source(folder / "texts", ("text",)), Distribution("data", None, 0, 2, 2, 2)
    with pytest.raises(ValueError, match=r"the task 'distill' trains in one process. Received: 2 processes"):
        train_run(source, tmp_path / "run", task="distill", teacher=str(folder / "teacher.keras"), distribution=two)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_train_export_and_predict(folder, caplog, capsys):
    caplog.set_level(logging.INFO)
    whole = folder / "whole"
    assert main(command(folder, whole)) == 0
    assert "weights of the teacher not taken: absolute_positions/table" in caplog.text
    summary = json.loads((whole / "training.json").read_text())
    losses = summary["histories"]["fine_tuning"]["val_loss"]
    assert losses[-1] < 0.95 * losses[0]
    trained, tokenizer, _ = load_run(whole)
    model = trained.encoder
    assert (model.feature_map, model.absolute_positions, model.num_features) == ("orthogonal", None, 16)
    assert model.normalize_first is False

    text = next(documents(1))[0]
    (from_keras,) = predict_run(whole, [text])
    np.testing.assert_allclose(from_keras, to_numpy(TextEmbedder(model)(tokenizer([text])))[0], atol=1e-5)
    assert main(["export", str(whole), "--lengths", "64", "--no-measure"]) == 0
    assert "exporting the encoder of this distill run: one vector per text" in caplog.text
    np.testing.assert_allclose(predict_run(whole, [text])[0], from_keras, atol=1e-4)
    assert LiteRTModel(whole / "model.tflite")([text]).shape == (1, 16)
    capsys.readouterr()
    assert main(["predict", str(whole), text]) == 0
    assert capsys.readouterr().out.startswith(f"{from_keras[0]:.3f}"[:-1])
    assert 0 < summary["scores"]["cosine"] <= 1


def test_what_is_no_teacher_is_refused(folder, tmp_path):
    source = open_source(folder / "texts", ("text",))
    for teacher in ("none", str(tmp_path), str(folder / "texts" / "0.txt")):
        with pytest.raises(ValueError, match=r"`teacher` must be a run folder, or a \.keras file .*: teacher="):
            train_run(source, tmp_path / "run", task="distill", teacher=teacher)
    corpus = build_corpus([{"text": "a"}], DISTILL.encoding, tokenizer=ByteTokenizer())
    with pytest.raises(ValueError, match=r"`data` must have the tokenizer of the teacher, .* Received: a corpus in"):
        train_run(corpus, tmp_path / "run", task="distill", teacher=str(folder / "teacher.keras"))
    with pytest.raises(
        ValueError, match=r"`encoder` must leave the teacher's `num_layers`, .* imitate \(None, 2, None"
    ):
        train_run(
            source, tmp_path / "run", task="distill", teacher=str(folder / "teacher.keras"), encoder={"num_layers": 1}
        )
    assert not (tmp_path / "run" / "model.keras").exists()


def test_a_classifier_is_a_teacher_too_and_keeps_what_it_has(folder, tmp_path):
    encoder = Encoder(50, 1, 2, 8, 16, num_features=4, seed=0)
    TextClassifier(encoder, 2).save(tmp_path / "model.keras")
    WordPieceTokenizer.load(folder / "tokenizer.json").save(tmp_path / "tokenizer.json")
    teacher, changes, _ = DISTILL.start(RunSettings(teacher=str(tmp_path)))
    student = Encoder.from_encoder(teacher, **changes)
    assert changes == {"feature_map": "orthogonal", "absolute_positions": None, "dropout": 0.0}
    for weight, other in zip(student.weights, encoder.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(weight), to_numpy(other))


@pytest.mark.slow
def test_absolute_positions_bound_what_is_exported(folder, tmp_path):
    teacher = keras.saving.load_model(folder / "teacher.keras").encoder
    model = TextEmbedder(teacher)
    export_tflite(model, tmp_path / "model.tflite", lengths=(16,), measure=False)
    ids = np.random.default_rng(0).integers(5, 20, (1, 16)).astype("int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    np.testing.assert_allclose(LiteRTModel(tmp_path / "model.tflite")(inputs), to_numpy(model(inputs)), atol=1e-4)
    for lengths in ((16, 17), (None,)):
        with pytest.raises(ValueError, match=r"exported for lengths up to these, 16; .* Received: .*(17|any length)"):
            export_tflite(model, tmp_path / "other.tflite", lengths=lengths)
    with pytest.raises(ValueError, match=r"from_encoder\(encoder, length=16\). Received: any length"):
        export_saved_model(model, tmp_path / "saved_model")
    export_saved_model(TextEmbedder(Encoder.from_encoder(teacher, length=16)), tmp_path / "saved_model", measure=False)


def test_a_bias_that_is_given_keeps_its_values():
    exact = Encoder(50, 1, 2, 8, 16, num_features=4, position_bias=None, seed=0)
    given = DecayBias(2, radius=4)
    given.near.assign(given.near + 1.0)
    expected = to_numpy(given.near).copy()
    np.testing.assert_array_equal(
        to_numpy(Encoder.from_encoder(exact, position_bias=given).position_biases[0].near), expected
    )
    made = Encoder.from_encoder(exact, position_bias="decay").position_biases[0]
    assert to_numpy(made.near).max() <= 0
