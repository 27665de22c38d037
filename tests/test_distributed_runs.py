"""`python -m krpe_tf train` on several devices and processes: killed, resumed, and equal to a run on one device.

On JAX they train on a prepared corpus, where importing TensorFlow fails.
"""

import json
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from calls import XLA_FLAGS, shared_programs
from test_distribution import SCRIPT, free_port

from krpe_tf.cli import main

SETTINGS = {
    "preset": "tiny",
    "encoder": {"dropout": 0.0, "num_layers": 1},
    "vocabulary_size": 60,
    "max_length": 32,
    "pretrain_steps": 8,
    "pretrain_length": 16,
    "pretrain_batch_size": 8,
    "epochs": 2,
    "batch_tokens": 256,
    "checkpoint_every": 2,
}


WITHOUT_TENSORFLOW = Path(__file__).with_name("without_tensorflow.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds texts.csv, what `prepare` makes of it, and config.json."""
    folder = tmp_path_factory.mktemp("runs")
    rng = random.Random(0)
    words = {
        "tea": ["leaf", "pot", "steep", "cup", "kettle", "brew"],
        "sea": ["wave", "salt", "ship", "tide", "storm", "sail"],
    }
    rows = [f"{' '.join(rng.choices(words[label], k=rng.randint(10, 25)))},{label}" for label in ["tea", "sea"] * 20]
    (folder / "texts.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    sizes = ["--vocabulary-size", "60", "--validation-fraction", "0.2"]
    assert main(["prepare", str(folder / "texts.csv"), "--output", str(folder / "prepared"), *sizes]) == 0
    return folder


def start(backend, output, *options, program=("-m", "krpe_tf"), data="prepared", devices=1):
    if backend == "jax" and data == "prepared":
        program = (WITHOUT_TENSORFLOW,)
    data, config = output.parent / data, output.parent / "config.json"
    flags = f"{XLA_FLAGS} --xla_force_host_platform_device_count={devices}"
    jax = {**shared_programs(output.parent / "programs"), "XLA_FLAGS": flags}
    return subprocess.Popen(
        [sys.executable, *program, "train", data, "--output", output, "--config", config, *options],
        env={**os.environ, **jax, "JAX_PLATFORMS": "cpu", "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    """What each process has printed."""
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(printed)
    return printed


def kill_after_a_checkpoint(output: Path, *processes):
    while not list(output.glob("checkpoints/*.npz")):
        if any(process.poll() is not None for process in processes):
            finish(*processes)
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.communicate()
    assert not (output / "model.keras").exists()


def start_both(output, **options):
    """Two processes that share a run."""
    address = f"127.0.0.1:{free_port()}"
    both = "--distribution", "data", "--coordinator", address, "--processes", "2", "--process"
    return [start("jax", output, *both, str(index), **options) for index in range(2)]


PHASES = ("pretraining", "fine_tuning")


def check_equal(output: Path, reference: Path):
    got, expected = (json.loads((run / "training.json").read_text(encoding="utf-8")) for run in (output, reference))
    assert got["histories"].keys() == expected["histories"].keys() == set(PHASES)
    for phase in PHASES:
        assert got["histories"][phase].keys() == expected["histories"][phase].keys()
        for name, values in expected["histories"][phase].items():
            np.testing.assert_allclose(got["histories"][phase][name], values, rtol=1e-4, atol=1e-6, err_msg=name)
    names = {path.name for path in output.iterdir()} - {"logs"}
    assert names == {"model.keras", "tokenizer.json", "task.json", "labels.json", "training.json"}
    assert (output / "logs").exists() == (reference / "logs").exists()


@pytest.fixture(scope="module")
def one(folder):
    """The run of one process on one device, on JAX."""
    finish(start("jax", folder / "one"))
    return folder / "one"


@pytest.mark.slow
def test_two_processes_resume_and_give_the_run_of_one(folder, one):
    kill_after_a_checkpoint(folder / "two", *start_both(folder / "two"))
    chief, other = finish(*start_both(folder / "two"))
    assert "resuming pretraining at step" in chief or "resuming fine_tuning at step" in chief
    for said in ("2 labels, and how many documents have each: 'sea' 20, 'tea' 20", "fine_tuning: ", "model.keras"):
        assert said in chief
        assert said not in other
    check_equal(folder / "two", one)


@pytest.mark.slow
def test_a_model_sharded_over_two_devices_gives_the_run_of_one(folder, one):
    finish(start("jax", folder / "sharded", "--distribution", "model=2", devices=2))
    check_equal(folder / "sharded", one)


@pytest.mark.slow
def test_two_processes_share_the_vocabulary_that_one_learned_and_give_the_run_of_one(folder):
    finish(start("jax", folder / "learned by one", data="texts.csv"))
    chief, other = finish(*start_both(folder / "learned by two", data="texts.csv"))
    for said in ("'sea' 20, 'tea' 20", "learning a vocabulary", "model.keras"):
        assert said in chief
        assert said not in other
    check_equal(folder / "learned by two", folder / "learned by one")


@pytest.mark.slow
def test_a_run_on_two_replicas_is_resumed_on_one(folder, caplog):
    output = folder / "mirrored"
    # One host has one CPU device: the script makes two of it.
    kill_after_a_checkpoint(
        output, start("tensorflow", output, "--distribution", "data", program=(SCRIPT, "command_line", os.devnull))
    )
    caplog.set_level(logging.INFO)
    config = ["--config", str(folder / "config.json")]
    for run in (output, folder / "plain"):
        assert main(["train", str(folder / "prepared"), "--output", str(run), *config]) == 0
    assert "resuming pretraining at step" in caplog.text or "resuming fine_tuning at step" in caplog.text
    check_equal(output, folder / "plain")
