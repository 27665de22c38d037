"""`python -m krpe_tf train`, killed and started again, gives what it gives undisturbed: every loss and every weight.

The chain of kills runs on JAX, on a prepared corpus, where importing TensorFlow fails; one kill runs on TensorFlow.
"""

import dataclasses
import json
import logging
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from calls import shared_programs
from test_checkpoints import stop_inside_a_write
from trained_run import documents, write_csv

from krpe_tf.cli import main
from krpe_tf.data import LabelledTexts
from krpe_tf.export import LiteRTModel
from krpe_tf.files import locked
from krpe_tf.models import Encoder, MaskedLM
from krpe_tf.runs import load_run, load_task, train_run
from krpe_tf.tasks import TASKS, TEXT_CLASSIFICATION
from krpe_tf.training import Checkpoints

# Small, but with dropout, documents that share rows, several shapes of batches, and checkpoints between validations.
SETTINGS = {
    "preset": "tiny",
    "encoder": {"num_layers": 1},
    "vocabulary_size": 200,
    "max_length": 64,
    "pretrain_steps": 16,
    "pretrain_length": 32,
    "pretrain_packing": True,
    "epochs": 6,
    "batch_tokens": 1024,
    "checkpoint_every": 2,
}

WITHOUT_TENSORFLOW = Path(__file__).with_name("without_tensorflow.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with documents, what `prepare` makes of them, and a configuration file."""
    path = tmp_path_factory.mktemp("runs")
    write_csv(path / "documents.csv", 80)
    sizes = ["--vocabulary-size", "200", "--validation-fraction", "0.2"]
    assert main(["prepare", str(path / "documents.csv"), "--output", str(path / "prepared"), *sizes]) == 0
    (path / "config.json").write_text(json.dumps(SETTINGS))
    return path


@pytest.fixture(scope="module")
def whole_on_jax(folder):
    """The run on JAX, without TensorFlow, that nothing disturbed."""
    with open(folder / "whole_on_jax.log", "w") as log:
        assert start_on_jax(folder, "whole_on_jax", log).wait() == 0
    return folder / "whole_on_jax"


@pytest.fixture(scope="module")
def whole(folder):
    """The run on this backend that nothing disturbed."""
    assert main(arguments(folder, "whole")) == 0
    return folder / "whole"


def arguments(folder, run, *more, data="documents.csv"):
    config = ["--config", str(folder / "config.json")]
    return ["train", str(folder / data), "--output", str(folder / run), *config, *more]


def start(command, log, program=("-m", "krpe_tf"), **environment):
    # A shell's background job ignores Ctrl-C, and so would its children.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    command = [sys.executable, *program, *command]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, preexec_fn=heed)


def start_on_jax(folder, run, log):
    environment = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", **shared_programs(folder / "programs")}
    return start(arguments(folder, run, data="prepared"), log, [str(WITHOUT_TENSORFLOW)], **environment)


def wait_for(child, run, phase, step, timeout=120):
    """Wait until the run has a checkpoint of this step or a later one."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and child.poll() is None:
        for path in Checkpoints(run / "checkpoints", chief=False).paths:
            _, saved_phase, saved_step = path.name.split(".")[0].split("-")
            if saved_phase == phase and int(saved_step) >= step:
                return
        time.sleep(0.002)
    raise AssertionError(f"no checkpoint of {phase} step {step}, exit code {child.poll()}")


def assert_same_run(run, whole):
    found, expected = (json.loads((path / "training.json").read_text()) for path in (run, whole))
    assert found == expected
    (model, tokenizer, labels), (other, other_tokenizer, other_labels) = load_run(run), load_run(whole)
    assert tokenizer.vocabulary == other_tokenizer.vocabulary
    assert labels == other_labels
    for weight, other_weight in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(each) for each in (weight, other_weight)))


@pytest.mark.slow
def test_killed_three_times_interrupted_and_once_killed_inside_a_write(folder, whole_on_jax, capsys):
    draw = random.Random(7)
    run, log = folder / "killed", folder / "killed.log"
    kills = [
        ("pretraining", draw.randrange(2, 9, 2), signal.SIGKILL),
        ("pretraining", 10, signal.SIGINT),
        ("inside a write", None, signal.SIGKILL),
        ("fine_tuning", draw.randrange(2, 6, 2), signal.SIGKILL),
    ]
    for phase, step, kill in kills:
        with open(log, "a") as output:
            child = start_on_jax(folder, "killed", output)
            try:
                if phase == "inside a write":
                    stop_inside_a_write(child, run / "checkpoints")
                else:
                    wait_for(child, run, phase, step)
                    time.sleep(draw.uniform(0, 0.05))
                child.send_signal(kill)
                assert child.wait(60) == (130 if kill == signal.SIGINT else -signal.SIGKILL)
            finally:
                child.kill()
        assert (run / "checkpoints" / "run.json").is_file()
        assert not (run / "model.keras").exists()
    said = log.read_text()
    assert "Traceback" not in said
    assert said.count("stopped; run the same command to resume") == 1
    with open(log, "a") as output:
        assert start_on_jax(folder, "killed", output).wait() == 0
    said = log.read_text()
    assert len(re.findall(r"resuming pretraining at step \d+ from 00", said)) >= 2
    assert len(re.findall(r"resuming fine_tuning at step \d+ from 00", said)) >= 1
    assert said.count("resuming") == 4
    assert not (run / "checkpoints").exists()
    assert_same_run(run, whole_on_jax)

    assert said.count("TensorFlow is not installed: no logs for TensorBoard") == 5
    names = {"model.keras", "tokenizer.json", "task.json", "labels.json", "training.json"}
    assert {path.name for path in run.iterdir()} == names
    histories = json.loads((run / "training.json").read_text())["histories"]
    assert histories["pretraining"]["val_step"] == [4, 8, 12, 16]
    assert 1 <= len(histories["fine_tuning"]["val_step"]) <= 6
    # What was trained without TensorFlow predicts with it.
    assert main(["predict", str(run), "the old ship"]) == 0
    assert "sea" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_once_on_tensorflow(folder, whole, caplog):
    run, log = folder / "killed_once", folder / "killed_once.log"
    with open(log, "w") as output:
        child = start(arguments(folder, "killed_once"), output)
        try:
            wait_for(child, run, "fine_tuning", 2)
        finally:
            child.kill()
            assert child.wait() == -signal.SIGKILL
    caplog.set_level(logging.INFO)
    assert main(arguments(folder, "killed_once")) == 0
    assert "resuming fine_tuning at step" in caplog.text
    assert log.read_text().count("learning a vocabulary") == 1
    assert "learning a vocabulary" not in caplog.text
    assert not (run / "checkpoints").exists()
    assert_same_run(run, whole)


@pytest.mark.slow
def test_a_full_disk_other_settings_and_a_restart(folder, whole, capsys):
    run = folder / "full"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        while not Checkpoints(run / "checkpoints", chief=False).paths:
            time.sleep(0.001)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    filling = threading.Thread(target=fill)
    filling.start()
    try:
        assert main(arguments(folder, "full")) == 1
    finally:
        filling.join()
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert re.search(r"the checkpoint \w+-\d+ cannot be written \(File too large\); the earlier ones stay", said)
    assert str(run / "checkpoints") in said
    assert Checkpoints(run / "checkpoints").restore().state["step"] > 0

    write_csv(folder / "fewer.csv", 78)
    for data, more, message in (
        ("documents.csv", ["--seed", "1"], "Received: seed=1 (the run has 0)\n"),
        (
            "documents.csv",
            ["--pretrain-optimizer", "learning_rate=1e-4"],
            "Received: pretrain_optimizer.learning_rate=0.0001 (the run has 0.002)\n",
        ),
        ("fewer.csv", [], "Received: other data than the run has\n"),
    ):
        assert main(arguments(folder, "full", *more, data=data)) == 2
        said = capsys.readouterr().err
        assert "changed settings need --restart, which drops it, or --from CHECKPOINT" in said
        assert message in said
    assert main(arguments(folder, "full", "--keep-checkpoints", "1")) == 0
    expected = json.loads((whole / "training.json").read_text())
    expected["settings"]["keep_checkpoints"] = 1
    assert json.loads((run / "training.json").read_text()) == expected


@pytest.mark.slow
def test_a_run_without_labels_diverges_resumes_and_is_exported(folder, capsys, caplog):
    (folder / "texts").mkdir()
    for index, (text, _) in enumerate(documents(24)):
        (folder / "texts" / f"{index}.txt").write_text(text)
    prepared, run = folder / "unlabelled", folder / "masked_lm"
    # A validation would stop the run a step earlier, before its weights are saved.
    sizes = ["--vocabulary-size", "200", "--validation-fraction", "0"]
    assert main(["prepare", str(folder / "texts"), "--output", str(prepared), *sizes]) == 0
    command = arguments(folder, "masked_lm", "--checkpoint-every", "1", "--pretrain-steps", data="unlabelled")
    assert main([*command, "0"]) == 2
    assert "`pretrain_steps` must be at least 1 for the task 'masked_lm'" in capsys.readouterr().err
    run.mkdir()
    (run / "labels.json").write_text("of an earlier run")

    caplog.set_level(logging.INFO)
    wild = [*command, "4", "--pretrain-optimizer", "learning_rate=1e25", "clip_norm=1e25"]
    mild = [*command, "4", "--pretrain-optimizer", "learning_rate=0.002"]
    said = (
        "loss and weights must stay finite; training has stopped. Received: loss=nan of phase 'pretraining' at step 3"
    )
    hint = "lower `learning_rate` or `clip_norm` of `pretrain_optimizer`, and resume with --from CHECKPOINT"
    for _ in range(2):  # The same settings lead there again.
        assert main(wild) == 2
        assert said in capsys.readouterr().err
        # The rate is zero at the first step; the second one makes weights that are huge, but finite.
        paths = Checkpoints(run / "checkpoints").paths
        assert [path.name.split(".")[0] for path in paths] == ["000001-pretraining-1", "000002-pretraining-2"]
        assert f"{hint} (the newest is {paths[-1].name}) or start over with --restart" in caplog.text
        caplog.clear()
    for other in (mild, [*wild, "--seed", "3"]):
        assert main(other) == 2
        assert "changed settings need --restart" in capsys.readouterr().err
    assert main([*mild, "--from", "000009-pretraining-9.npz"]) == 2
    assert f"a checkpoint must be one of {paths[0].name}, {paths[1].name}. Received" in capsys.readouterr().err
    assert Checkpoints(run / "checkpoints").paths == paths
    # No rate mends the weights of the newest.
    assert main([*mild, "--from", str(paths[0])]) == 0
    assert f"resuming from {paths[0].name} with pretrain_optimizer.clip_norm=None (the run has 1e+25)" in caplog.text
    assert "resuming pretraining at step 1 from 000003-pretraining-1" in caplog.text
    history = json.loads((run / "training.json").read_text())["histories"]["pretraining"]
    assert history["step"] == [1, 2, 3, 4]
    assert np.isfinite(history["loss"]).all()

    assert {path.name for path in run.iterdir()} == {
        "model.keras",
        "tokenizer.json",
        "task.json",
        "training.json",
        "logs",
    }
    model, _, labels = load_run(run)
    assert isinstance(model, MaskedLM)
    assert labels is None
    capsys.readouterr()
    assert main(["predict", str(run), "the old ship"]) == 2
    assert "`run` must be of a task that answers, 'masked_lm' does not" in capsys.readouterr().err
    # As 0.1 saved a run in mixed precision.
    half = MaskedLM(Encoder.from_config({**model.encoder.get_config(), "dtype": "mixed_bfloat16"}))
    half.set_weights(model.get_weights())
    half.save(run / "model.keras")
    assert main(["export", str(run), "--lengths", "16", "--no-measure"]) == 0
    assert "exporting the encoder of this masked_lm run: one vector per token" in caplog.text
    assert "the model computes in bfloat16, float32; the file gets its weights and computes in float32" in caplog.text
    inputs = {name: np.ones((1, 16), "int32") for name in ("token_ids", "padding_mask")}
    vectors = LiteRTModel(run / "model.tflite")(inputs)
    np.testing.assert_allclose(vectors, keras.ops.convert_to_numpy(model.encoder(inputs)), atol=1e-5)


def score(model, batches, corpus, settings):
    """The documents that are validated by, and the share of them that is right."""
    inputs, labels, weights = batches[0]
    right = np.argmax(model.predict(inputs, verbose=0), -1) == labels
    return {"documents": float(weights.sum()), "right": float(np.average(right, weights=weights))}


@pytest.mark.slow
def test_a_run_of_another_task_starts_from_what_it_is_given(folder, whole, monkeypatch, caplog):
    """An encoder, a tokenizer and a validation set; and the task's own scores are kept and said."""
    monkeypatch.setitem(TASKS, "scored", dataclasses.replace(TEXT_CLASSIFICATION, name="scored", scores=score))
    caplog.set_level(logging.INFO)
    given, tokenizer, _ = load_run(whole)
    train, validation = (LabelledTexts(*map(list, zip(*part, strict=True))) for part in _halves())
    sizes = {"preset": "tiny", "encoder": {"num_layers": 1, "feature_map": "softmax"}, "max_length": 32}
    run = folder / "twin"
    arguments = {"validation": validation, "tokenizer": tokenizer, "initial_encoder": given.encoder, "task": "scored"}
    # With a rate that moves nothing, what comes out is what went in.
    still = {"learning_rate": 1e-12, "weight_decay": 0.0}
    summary = train_run(train, run, pretrain_steps=0, epochs=1, fine_tune_optimizer=still, **sizes, **arguments)
    assert list(summary["histories"]) == ["fine_tuning"]
    assert summary["max_length"] == 32
    right = summary["histories"]["fine_tuning"]["val_accuracy"][-1]
    assert summary["scores"] == {"documents": 8, "right": pytest.approx(right)}
    assert f"the whole validation set: documents 8.0000, right {right:.4f}" in caplog.text
    assert json.loads((run / "training.json").read_text()) == summary
    assert load_task(run).name == "scored"
    twin, same_tokenizer, _ = load_run(run)
    assert same_tokenizer.vocabulary == tokenizer.vocabulary
    assert twin.encoder.feature_map == "softmax"
    for mine, theirs in zip(twin.encoder.get_weights(), given.encoder.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    other = Encoder.from_preset("tiny", num_layers=2, vocabulary_size=tokenizer.vocabulary_size)
    with pytest.raises(ValueError, match="weight"):
        train_run(train, folder / "other", **{**arguments, "initial_encoder": other}, **sizes)


def _halves():
    pairs = list(documents(24))
    return pairs[:16], pairs[16:]


def test_two_processes_do_not_train_in_one_folder(folder, capsys):
    (folder / "locked").mkdir()
    with locked(folder / "locked"):
        assert main(arguments(folder, "locked")) == 2
    assert "`output` must be a folder that no other process trains in" in capsys.readouterr().err
