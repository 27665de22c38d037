"""The task causal_lm: what its batches ask, bits per byte, a run that stops and resumes, from memory and from disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from batch_checks import same
from calls import QUICK_TO_COMPILE
from trained_run import documents

from krpe_tf.cli import main
from krpe_tf.data import build_corpus, load_corpus, open_source
from krpe_tf.models import Encoder
from krpe_tf.runs import RunSettings, choose_task, load_run, load_task, predict_run, train_run
from krpe_tf.tasks import CAUSAL_LM, MASKED_LM, TEXT_CLASSIFICATION
from krpe_tf.text import RESERVED_TOKENS, ByteTokenizer, PieceTokenizer, WordPieceTokenizer
from krpe_tf.training import BitsPerByte, Checkpoints

SIZES = {"preset": "tiny", "encoder": {"num_layers": 1}, "window_length": 24, "batch_size": 4, "vocabulary_size": 340}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """texts/, and prepared/ made of it."""
    path = tmp_path_factory.mktemp("causal_lm")
    (path / "texts").mkdir()
    for index, (text, _) in enumerate(documents(40)):
        text = text.replace(" the", "\n\n\tThe").replace("old", "Öld 🙂")
        (path / "texts" / f"{index}.txt").write_text(text, encoding="utf-8")
    command = ["prepare", str(path / "texts"), "--output", str(path / "prepared"), "--task", "causal_lm"]
    assert main([*command, "--vocabulary-size", "340", "--validation-fraction", "0.2"]) == 0
    return path


@pytest.fixture(scope="module")
def prepared(folder):
    return load_corpus(folder / "prepared")


@pytest.fixture(scope="module")
def trained(folder):
    """A run that nothing disturbed, and what training.json holds."""
    return folder / "run", train_run(folder / "prepared", folder / "run", steps=9, checkpoint_every=1, **SIZES)


def test_bits_per_byte_are_exact_however_targets_are_spread():
    random, token_bytes = np.random.default_rng(0), [0, 1, 3, 2, 7]
    metric, nats, count = BitsPerByte(token_bytes), 0.0, 0
    for rows in (1, 5, 2):
        logits = random.normal(0, 3, (rows, 4, 5)).astype("float32")
        labels, weights = random.integers(0, 5, (rows, 4)), (random.random((rows, 4)) < 0.6).astype("float32")
        metric.update_state(labels, logits, weights)
        exact = logits.astype("float64")
        shares = np.take_along_axis(exact, labels[..., None], -1)[..., 0] - np.log(np.exp(exact).sum(-1))
        nats, count = nats - (shares * weights).sum(), count + (np.take(token_bytes, labels) * weights).sum()
    assert float(metric.result()) == pytest.approx(nats / count / np.log(2), rel=1e-6)
    again = BitsPerByte.from_config(json.loads(json.dumps(metric.get_config())))
    np.testing.assert_array_equal(again.token_bytes, token_bytes)
    assert float(again.result()) == 0


def test_the_tokenizer_is_learned_that_the_task_wants(folder, prepared, caplog):
    assert type(prepared.tokenizer) is PieceTokenizer
    assert prepared.manifest["columns"] == ["text"]
    assert choose_task(None, prepared) is CAUSAL_LM
    source = open_source(folder / "texts", ("text",))
    assert choose_task(None, source) is MASKED_LM
    texts = [row["text"] for row in source]
    corpus = build_corpus(source, validation=0.2, tokenizer="bytes", encoding=CAUSAL_LM.encoding)
    assert type(corpus.tokenizer) is ByteTokenizer
    decoded = [corpus.tokenizer.decode(ids) for split in ("train", "validation") for ids in corpus[split]["token_ids"]]
    assert sorted(decoded) == sorted(texts)
    assert corpus.log_unknown() == prepared.log_unknown() == 0
    assert not [record for record in caplog.records if "spell" in record.getMessage()]
    assert (CAUSAL_LM.learns(RunSettings()), MASKED_LM.learns(RunSettings())) == ("sentencepiece", "wordpiece")


def test_memory_and_disk_give_the_same_batches(prepared):
    settings = RunSettings(**SIZES)
    stored = prepared["train"]["token_ids"]
    rows = [{"text": prepared.tokenizer.decode(stored[index])} for index in range(len(stored))]
    memory = build_corpus(rows, CAUSAL_LM.encoding, tokenizer=prepared.tokenizer)
    for each, other in ((memory, prepared), (prepared, load_corpus(prepared.path))):
        batches, others = (CAUSAL_LM.batches(corpus, "train", settings, 3, 2) for corpus in (each, other))
        for step in (0, 1, batches.steps_per_epoch + 1):
            assert same(batches[step], others[step])
    inputs, labels, weights = batches[0]
    # Packed without being asked.
    assert max(batches[step][0]["segment_ids"].max() for step in range(batches.steps_per_epoch)) > 1
    assert set(batches.signature[0]) == set(inputs)
    assert labels.shape == weights.shape == (4, 24)


@pytest.mark.slow
def test_the_score_is_the_bits_of_all_validation_bytes(trained, prepared):
    run, summary = trained
    model, tokenizer, labels = load_run(run)
    assert labels is None
    nats = count = 0
    for ids in (prepared["validation"]["token_ids"][index] for index in range(prepared.documents("validation"))):
        for start in range(0, len(ids) - 1, 24):
            nats -= model.score(ids[None, start : start + 25]).astype("float64").sum()
        count += len(tokenizer.decode(ids).encode())
    assert summary["scores"]["bits_per_byte"] == pytest.approx(nats / count / np.log(2), rel=1e-5)
    history = summary["histories"]["training"]
    assert history["val_step"] == [2, 4, 6, 8, 9]
    assert len(history["bits_per_byte"]) == len(history["step"]) == 9
    # All validation batches are fewer than `validation_steps`.
    assert history["val_bits_per_byte"][-1] == pytest.approx(summary["scores"]["bits_per_byte"], rel=1e-6)
    assert history["val_bits_per_byte"][-1] < history["val_bits_per_byte"][0]
    assert summary["max_length"] == 24
    assert load_task(run) is CAUSAL_LM
    with pytest.raises(ValueError, match=r"a task that answers, 'causal_lm' does not; take `generate`"):
        predict_run(run, ["a"])


@pytest.mark.slow
def test_a_run_that_stops_resumes_to_the_same_weights(folder, trained, monkeypatch):
    whole, summary = trained
    save, saved = Checkpoints.save, []

    def save_and_stop(self, *arguments):
        save(self, *arguments)
        saved.append(arguments[-1])
        if len(saved) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train_run(folder / "prepared", folder / "stopped", steps=9, checkpoint_every=1, **SIZES)
    again = train_run(folder / "prepared", folder / "stopped", steps=9, checkpoint_every=1, **SIZES)
    assert saved == [f"training-{step}" for step in range(1, 10)]
    assert again == summary
    for weight, other in zip(load_run(folder / "stopped")[0].weights, load_run(whole)[0].weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (weight, other)))


@pytest.mark.slow
def test_packed_rows_may_be_floating_as_keras_builds_a_distributed_model(prepared, trained):
    inputs, _, _ = CAUSAL_LM.batches(prepared, "train", RunSettings(**SIZES), 0, 1)[0]
    model = load_run(trained[0])[0]
    expected = model(inputs)
    found = model({name: keras.ops.cast(value, "float32") for name, value in inputs.items()})
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (found, expected)))


def test_what_does_not_fit_is_refused(folder, prepared, tmp_path, caplog):
    words = WordPieceTokenizer([*RESERVED_TOKENS, "a"])
    with pytest.raises(ValueError, match=r"needs a tokenizer that gives the text back: .*a WordPieceTokenizer"):
        train_run(open_source(folder / "texts", ("text",)), tmp_path / "run", task="causal_lm", tokenizer=words)
    corpus = build_corpus([{"text": "a"}], CAUSAL_LM.encoding, tokenizer=words)
    with pytest.raises(ValueError, match=r"or a corpus of `prepare --task causal_lm`. Received: a WordPieceTokenizer"):
        train_run(corpus, tmp_path / "run", task="causal_lm")
    with pytest.raises(ValueError, match="must have a mask token"):
        train_run(prepared, tmp_path / "masked", task="masked_lm")
    with pytest.raises(ValueError, match=r"`encoder` must leave `causal` on for the task"):
        train_run(prepared, tmp_path / "run", **{**SIZES, "encoder": {"causal": False}})
    for name, value in (("steps", 0), ("window_length", 1), ("packing", 3), ("tokenizer", "letters")):
        with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: {name}="):
            RunSettings(**{name: value})
    assert not (tmp_path / "masked" / "model.keras").exists()


def test_settings_of_another_task_are_named(caplog):
    from krpe_tf.runs.recipe import unused_settings

    assert unused_settings(CAUSAL_LM, ["epochs", "pretrain_steps", "steps", "preset"]) == ["epochs", "pretrain_steps"]
    assert unused_settings(TEXT_CLASSIFICATION, ["epochs", "pretrain_steps", "packing"]) == ["packing"]


@pytest.mark.slow
def test_jax_tokenizes_and_trains_without_tensorflow(folder):
    program = [sys.executable, str(Path(__file__).with_name("without_tensorflow.py"))]
    sizes = ["--preset", "tiny", "--encoder", "num_layers=1", "--window-length", "24", "--vocabulary-size", "340"]
    sizes += ["--steps", "2"]
    command = ["train", str(folder / "texts"), "--output", str(folder / "jax"), "--task", "causal_lm", *sizes]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", **QUICK_TO_COMPILE}
    subprocess.run([*program, *command], check=True, env=environment)
    scores = json.loads((folder / "jax" / "training.json").read_text())["scores"]
    assert 0 < scores["bits_per_byte"] < 8
    assert Encoder in {type(layer) for layer in load_run(folder / "jax")[0].layers}
