"""`python -m krpe_tf train` on several devices and processes: killed, resumed, and equal to a run on one device."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_distribution import SCRIPT, free_port

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds texts.csv and config.json."""
    folder = tmp_path_factory.mktemp("runs")
    rng = random.Random(0)
    words = {
        "tea": ["leaf", "pot", "steep", "cup", "kettle", "brew"],
        "sea": ["wave", "salt", "ship", "tide", "storm", "sail"],
    }
    rows = [f"{' '.join(rng.choices(words[label], k=rng.randint(10, 25)))},{label}" for label in ["tea", "sea"] * 20]
    (folder / "texts.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    return folder


def start(backend, output, *options, program=("-m", "krpe_tf"), data="texts.csv", devices=1):
    data, config = output.parent / data, output.parent / "config.json"
    # As in conftest.py, LLVM's optimizations cost more than they save here.
    jax = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen(
        [sys.executable, *program, "train", data, "--output", output, "--config", config, *options],
        env={**os.environ, **jax, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
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


def check_equal(output: Path, reference: Path, phases=("pretraining", "fine_tuning")):
    got, expected = (json.loads((run / "training.json").read_text(encoding="utf-8")) for run in (output, reference))
    assert got["histories"].keys() == expected["histories"].keys() == set(phases)
    for phase in phases:
        assert got["histories"][phase].keys() == expected["histories"][phase].keys()
        for name, values in expected["histories"][phase].items():
            np.testing.assert_allclose(got["histories"][phase][name], values, rtol=1e-4, atol=1e-6, err_msg=name)
    names = {path.name for path in output.iterdir()} - {"labels.json"}
    assert names == {"model.keras", "tokenizer.json", "training.json", "logs"}


@pytest.fixture(scope="module")
def one(folder):
    """The run of one process on one device, on JAX."""
    finish(start("jax", folder / "one"))
    return folder / "one"


@pytest.mark.slow
def test_two_processes_resume_and_give_the_run_of_one(folder, one):
    kill_after_a_checkpoint(folder / "two", *start_both(folder / "two"))
    chief, other = finish(*start_both(folder / "two"))
    assert "goes on after step" in chief
    assert "model.keras" in chief
    assert "model.keras" not in other
    check_equal(folder / "two", one)


@pytest.mark.slow
def test_a_model_cut_over_two_devices_gives_the_run_of_one(folder, one):
    finish(start("jax", folder / "cut", "--distribution", "model=2", devices=2))
    check_equal(folder / "cut", one)


@pytest.mark.slow
def test_two_processes_read_their_own_shards_and_give_the_run_of_one(folder):
    command = [sys.executable, "-m", "krpe_tf", "prepare", folder / "texts.csv", "--output", folder / "shards"]
    options = ["--unlabelled", "--num-shards", "2", "--vocabulary-size", "60"]
    subprocess.run(
        [*command, *options], env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, check=True, capture_output=True
    )
    finish(start("jax", folder / "shards one", data="shards"))
    chief, other = finish(*start_both(folder / "shards two", data="shards"))
    assert "model.keras" in chief
    assert "model.keras" not in other
    check_equal(folder / "shards two", folder / "shards one", phases=["pretraining"])


@pytest.mark.slow
def test_a_run_on_two_replicas_goes_on_on_one(folder):
    output = folder / "mirrored"
    # One host has one CPU device: the script makes two of it.
    kill_after_a_checkpoint(
        output, start("tensorflow", output, "--distribution", "data", program=(SCRIPT, "command_line", os.devnull))
    )
    (printed,) = finish(start("tensorflow", output))
    assert "goes on after step" in printed
    finish(start("tensorflow", folder / "plain"))
    check_equal(output, folder / "plain")
