"""`python -m krpe_tf train`, killed and started again, gives what it gives undisturbed: every loss and every weight."""

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

import keras
import numpy as np
import pytest
from test_checkpoints import stop_inside_a_write
from test_main import _documents

from krpe_tf.cli import main
from krpe_tf.export import LiteRTModel
from krpe_tf.models import MaskedLM
from krpe_tf.runs import load_run
from krpe_tf.training import Checkpoints

# Small, but with dropout, several shapes of batches, and checkpoints between validations.
SETTINGS = {
    "preset": "tiny",
    "encoder": {"num_layers": 1},
    "vocabulary_size": 200,
    "max_length": 64,
    "pretrain_steps": 16,
    "pretrain_length": 32,
    "epochs": 6,
    "batch_tokens": 1024,
    "checkpoint_every": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with documents and a configuration file."""
    path = tmp_path_factory.mktemp("runs")
    lines = ["text,label", *(f"{text},{label}" for text, label in _documents(80))]
    (path / "documents.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (path / "config.json").write_text(json.dumps(SETTINGS))
    return path


@pytest.fixture(scope="module")
def whole(folder):
    """The run that nothing disturbed."""
    assert main(arguments(folder, "whole")) == 0
    return folder / "whole"


def arguments(folder, run, *more):
    config = ["--config", str(folder / "config.json")]
    return ["train", str(folder / "documents.csv"), "--output", str(folder / run), *config, *more]


def start(command, log):
    command = [sys.executable, "-m", "krpe_tf", *command]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    # A shell's background job ignores Ctrl-C, and so would its children.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, preexec_fn=heed)


def wait_for(child, run, phase, step, timeout=120):
    """Waits until the run has a checkpoint of this step or a later one."""
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
def test_killed_three_times_and_once_inside_a_write(folder, whole, caplog):
    draw = random.Random(7)
    run, log = folder / "killed", folder / "killed.log"
    kills = [
        ("pretraining", draw.randrange(2, 9, 2)),
        ("pretraining", 10),
        "inside a write",
        ("fine_tuning", draw.randrange(2, 6, 2)),
    ]
    for kill in kills:
        with open(log, "a") as output:
            child = start(arguments(folder, "killed"), output)
            try:
                if kill == "inside a write":
                    stop_inside_a_write(child, run / "checkpoints")
                else:
                    wait_for(child, run, *kill)
                    time.sleep(draw.uniform(0, 0.05))
            finally:
                child.kill()
                assert child.wait() == -signal.SIGKILL
        assert (run / "checkpoints" / "run.json").is_file()
        assert not (run / "model.keras").exists()
    caplog.set_level(logging.INFO)
    assert main(arguments(folder, "killed")) == 0
    assert "fine_tuning goes on after step" in caplog.text
    said = log.read_text()
    assert said.count("learning a vocabulary") == 1
    assert said.count("goes on after step") == 3
    assert not (run / "checkpoints").exists()
    assert_same_run(run, whole)


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on(folder):
    log = folder / "interrupted.log"
    with open(log, "w") as output:
        child = start(arguments(folder, "interrupted"), output)
        try:
            wait_for(child, folder / "interrupted", "pretraining", 4)
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == 130
        finally:
            child.kill()
    said = log.read_text()
    assert "Traceback" not in said
    assert "\nstopped; called the same way, `train` goes on from its newest checkpoint" in said


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

    for more, message in (
        (["--seed", "1"], "seed=1 (the run has 0)"),
        (["--pretrain-optimizer", "learning_rate=1e-4"], "pretrain_optimizer.learning_rate=0.0001 (the run has 0.002)"),
        (["--text-column", "label", "--label-column", "text"], "other data than the run has"),
    ):
        assert main(arguments(folder, "full", *more)) == 2
        said = capsys.readouterr().err
        assert "start over with restart (--restart)" in said
        assert message in said
    assert main(arguments(folder, "full", "--keep-checkpoints", "1")) == 0
    expected = json.loads((whole / "training.json").read_text())
    expected["settings"]["keep_checkpoints"] = 1
    assert json.loads((run / "training.json").read_text()) == expected


@pytest.mark.slow
def test_prepared_texts_train_both_phases(folder, capsys):
    prepared, run = folder / "prepared", folder / "from_shards"
    sizes = ["--vocabulary-size", "200", "--validation-fraction", "0.2", "--num-shards", "2"]
    assert main(["prepare", str(folder / "documents.csv"), "--output", str(prepared), *sizes]) == 0
    config = ["--config", str(folder / "config.json"), "--pretrain-steps", "2", "--epochs", "2"]
    assert main(["train", str(prepared), "--output", str(run), *config]) == 0
    histories = json.loads((run / "training.json").read_text())["histories"]
    assert histories["pretraining"]["val_step"] == [1, 2]
    assert len(histories["fine_tuning"]["val_step"]) == 2
    capsys.readouterr()
    assert main(["predict", str(run), "the old ship"]) == 0
    assert "sea" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_without_labels_diverges_goes_on_and_is_exported(folder, capsys, caplog):
    (folder / "texts").mkdir()
    for index, (text, _) in enumerate(_documents(24)):
        (folder / "texts" / f"{index}.txt").write_text(text)
    prepared, run = folder / "unlabelled", folder / "masked_lm"
    # A validation would stop the run a step earlier, before its weights are saved.
    sizes = ["--vocabulary-size", "200", "--validation-fraction", "0", "--num-shards", "2"]
    assert main(["prepare", str(folder / "texts"), "--output", str(prepared), *sizes]) == 0
    config = ["--config", str(folder / "config.json"), "--checkpoint-every", "1", "--pretrain-steps"]
    command = ["train", str(prepared), "--output", str(run), *config]
    assert main([*command, "0"]) == 2
    assert "pretrain_steps must be at least 1 for texts without labels" in capsys.readouterr().err
    (run / "labels.json").write_text("of an earlier run")

    wild = [*command, "4", "--pretrain-optimizer", "learning_rate=1e25", "clip_norm=1e25"]
    mild = [*command, "4", "--pretrain-optimizer", "learning_rate=0.002"]
    assert main(wild) == 2
    said = "loss and weights must stay finite, training has stopped. Received: loss=nan in pretraining at step 3"
    assert said in capsys.readouterr().err
    # The rate is zero at the first step; the second one makes weights that are huge, but finite.
    paths = Checkpoints(run / "checkpoints").paths
    assert [path.name.split(".")[0] for path in paths] == ["000001-pretraining-1", "000002-pretraining-2"]
    for more in (wild, [*wild, "--seed", "3"]):
        assert main(more) == 2
        refused = capsys.readouterr().err
        assert said in refused
        assert "Lower learning_rate or clip_norm" in refused
        assert "remove its file to go on from the one before it" in refused
        assert "--restart" in refused
    assert main([*mild, "--seed", "3"]) == 2
    assert "seed=3 (the run has 0)" in capsys.readouterr().err
    assert Checkpoints(run / "checkpoints").paths == paths
    paths[-1].unlink()  # No rate mends those weights.
    assert main(mild) == 0
    history = json.loads((run / "training.json").read_text())["histories"]["pretraining"]
    assert history["step"] == [1, 2, 3, 4]
    assert np.isfinite(history["loss"]).all()

    assert {path.name for path in run.iterdir()} == {"model.keras", "tokenizer.json", "training.json", "logs"}
    model, _, labels = load_run(run)
    assert isinstance(model, MaskedLM)
    assert labels is None
    capsys.readouterr()
    assert main(["predict", str(run), "the old ship"]) == 2
    assert "run must be of labelled texts" in capsys.readouterr().err
    caplog.set_level(logging.INFO)
    assert main(["export", str(run), "--lengths", "16", "--no-measure"]) == 0
    assert "what is exported is the encoder, one vector a token" in caplog.text
    inputs = {name: np.ones((1, 16), "int32") for name in ("token_ids", "padding_mask")}
    vectors = LiteRTModel(run / "model.tflite")(inputs)
    np.testing.assert_allclose(vectors, keras.ops.convert_to_numpy(model.encoder(inputs)), atol=1e-5)


def test_two_processes_do_not_train_in_one_folder(folder, capsys):
    from krpe_tf.files import locked

    (folder / "locked").mkdir()
    with locked(folder / "locked"):
        assert main(arguments(folder, "locked")) == 2
    assert "`output` must be a folder that no other process trains in" in capsys.readouterr().err


def test_restart_drops_what_is_there(folder, tmp_path):
    from krpe_tf.runs import RunSettings, RunState

    first = RunState(tmp_path, RunSettings(), "data")
    first.checkpoints.save({"x": np.ones(3)}, {}, "run")
    assert RunState(tmp_path, RunSettings(), "data").resumed
    with pytest.raises(ValueError, match=r"Received: seed=1 \(the run has 0\), other data than the run has"):
        RunState(tmp_path, RunSettings(seed=1), "other data")
    again = RunState(tmp_path, RunSettings(seed=1), "other data", restart=True)
    assert not again.resumed
    assert again.checkpoints.restore() is None
    # A run without a checkpoint has nothing to lose.
    assert not RunState(tmp_path, RunSettings(seed=2), "data").resumed
    # What is left of a folder that a kill removed half is no run to go on with.
    RunState(tmp_path, RunSettings(), "data").checkpoints.save({"x": np.ones(3)}, {}, "run")
    (tmp_path / "checkpoints" / "run.json").unlink()
    assert RunState(tmp_path, RunSettings(), "data").checkpoints.restore() is None


def test_every_process_must_have_the_settings_and_data_of_the_chief(tmp_path):
    from krpe_tf.runs import RunSettings, RunState

    RunState(tmp_path, RunSettings(), "data")
    RunState(tmp_path, RunSettings(), "data", chief=False)
    with pytest.raises(ValueError, match=r"process 0. Received: seed=1 \(process 0 has 0\), other data than process 0"):
        RunState(tmp_path, RunSettings(seed=1), "other data", chief=False)


def test_only_the_optimizer_that_diverged_mends_a_run(tmp_path):
    from krpe_tf.runs import RunSettings, RunState
    from krpe_tf.training import DivergedError

    state = RunState(tmp_path, RunSettings(), "data")
    state.checkpoints.save({"x": np.ones(3)}, {}, "run")
    state.diverged(DivergedError("fine_tuning", 3, "loss=nan"))
    lower = {"learning_rate": 1e-4}
    with pytest.raises(ValueError, match="that phase's optimizer"):
        RunState(tmp_path, RunSettings(pretrain_optimizer=lower), "data")
    assert RunState(tmp_path, RunSettings(fine_tune_optimizer=lower), "data").resumed


def test_a_damaged_run_json_is_named(tmp_path):
    from krpe_tf.runs import RunSettings, RunState

    RunState(tmp_path, RunSettings(), "data").checkpoints.save({"x": np.ones(3)}, {}, "run")
    (tmp_path / "checkpoints" / "run.json").write_text("")
    with pytest.raises(ValueError, match=r"has a damaged run.json .*--restart.*Received: .*run\.json"):
        RunState(tmp_path, RunSettings(), "data")
    assert not RunState(tmp_path, RunSettings(), "data", restart=True).resumed


def test_data_of_another_kind_is_refused(tmp_path):
    from krpe_tf.runs import train_run

    with pytest.raises(ValueError, match=r"data must be LabelledTexts or PreparedTexts. Received: list"):
        train_run(["a text"], tmp_path / "run")
    assert not list(tmp_path.iterdir())
