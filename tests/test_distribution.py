"""Training on several virtual devices and in several processes gives the losses of one device.

`distributed_training.py` trains, in processes of their own: a backend takes its devices when it starts.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from calls import QUICK_TO_COMPILE

from krpe_tf.training import encoder_layout, make_distribution

SCRIPT = Path(__file__).with_name("distributed_training.py")


def start(backend, run, output, *arguments, devices=None):
    environment = {**os.environ, **QUICK_TO_COMPILE, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if devices is not None:
        environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, SCRIPT, run, output, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def results_of(*processes):
    """What each process wrote, as (process, output file)."""
    messages = [process.communicate()[0] for process, _ in processes]
    for (process, _), message in zip(processes, messages, strict=True):
        assert process.returncode == 0, message
    return [json.loads(output.read_text(encoding="utf-8")) for _, output in processes]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distribution")


@pytest.fixture(scope="module")
def two_replicas(folder):
    output = folder / "mirrored 2.json"
    return results_of((start("tensorflow", "mirrored", output, "2"), output))[0]


@pytest.fixture(scope="module")
def four_replicas(folder):
    output = folder / "mirrored 4.json"
    return results_of((start("tensorflow", "mirrored", output, "4"), output))[0]


@pytest.fixture(scope="module")
def sharded(folder):
    output = folder / "sharded.json"
    return results_of((start("jax", "sharded", output, devices=8), output))[0]


@pytest.fixture(scope="module")
def processes(folder):
    outputs = [folder / f"process {index}.json" for index in range(2)]
    arguments = folder / "marker", f"127.0.0.1:{free_port()}", "2"
    started = [start("jax", "process", output, *arguments, str(i), devices=2) for i, output in enumerate(outputs)]
    return results_of(*zip(started, outputs, strict=True))


def check_equal(got, expected, tolerance=1e-5):
    assert got.keys() == expected.keys() == {"loss", "accuracy"}
    np.testing.assert_allclose(got["loss"], expected["loss"], rtol=tolerance)
    # A prediction may be a tie.
    np.testing.assert_allclose(got["accuracy"], expected["accuracy"], atol=1e-6 if tolerance < 1e-4 else 0.1)
    assert len(set(expected["loss"])) == len(expected["loss"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "masked_lm decay",
        "masked_lm bucketed",
        "masked_lm learned, shared",
        "classifier learned",
        "classifier bucketed, per layer",
        "classifier decay, mixed_float16",
    ],
)
def test_two_replicas_give_the_losses_of_one_device(two_replicas, case):
    assert two_replicas["devices"] == 2
    check_equal(two_replicas[case]["data"], two_replicas[case]["none"], 2e-3 if "mixed" in case else 1e-5)


@pytest.mark.slow
def test_four_replicas_of_different_numbers_of_rows(four_replicas):
    assert four_replicas["devices"] == 4
    got, expected = four_replicas["masked_lm uneven"]["data"], four_replicas["masked_lm uneven"]["none"]
    # Of the batches of 7 and 6 rows Keras reports a loss that weighs replicas by their rows; what they teach is right.
    np.testing.assert_allclose([got["loss"][i] for i in (0, 3)], [expected["loss"][i] for i in (0, 3)], rtol=1e-5)
    np.testing.assert_allclose(got["accuracy"], expected["accuracy"], atol=1e-6)


@pytest.mark.slow
def test_keras_takes_a_mean_of_means(two_replicas):
    keras_loss, one = two_replicas["masked_lm Keras' loss"]["loss"], two_replicas["masked_lm decay"]["none"]["loss"]
    assert abs(keras_loss[0] - one[0]) > 1e-3


@pytest.mark.slow
def test_the_gradient_of_the_global_batch_is_clipped(four_replicas):
    np.testing.assert_allclose(four_replicas["clipping ours"], four_replicas["clipping of the sum"], rtol=1e-5)
    assert np.abs(np.subtract(four_replicas["clipping keras"], four_replicas["clipping of the sum"])).max() > 1e-3


@pytest.mark.slow
def test_an_overflow_on_one_replica_skips_the_step(four_replicas):
    assert four_replicas["overflow ours"] == [0, 0, 4]
    assert not np.isfinite(four_replicas["overflow keras"]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "engine"),
    [("masked_lm decay", "data"), ("masked_lm decay", "model=2"), ("classifier bucketed, per layer", "model=4")],
)
def test_eight_devices_give_the_losses_of_one(sharded, case, engine):
    assert sharded["devices"] == 8
    check_equal(sharded[case][engine], sharded[case]["none"])


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(processes, sharded):
    assert [each["devices"] for each in processes] == [4, 4]
    assert [each["chief"] for each in processes] == [True, False]
    assert processes[0]["masked_lm decay"] == processes[1]["masked_lm decay"]
    check_equal(processes[0]["masked_lm decay"], sharded["masked_lm decay"]["none"])
    assert [each["marker found"] for each in processes] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distribution": "mirrored"}, r'"none", "data" or "model=K".*distribution=\'mirrored\''),
        ({"distribution": "model=0"}, r"`distribution` must be"),
        ({"distribution": "data", "coordinator": "host:1"}, r"together.*no num_processes, no process_index"),
        (
            {"distribution": "data", "coordinator": "host:1", "num_processes": 2, "process_index": 2},
            r"KERAS_BACKEND=jax|below `num_processes`",
        ),
    ],
)
def test_bad_distribution(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_distribution(**arguments)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="what TensorFlow cannot do")
@pytest.mark.parametrize(
    "arguments",
    [
        {"distribution": "model=2"},
        {"distribution": "data", "coordinator": "h:1", "num_processes": 2, "process_index": 0},
    ],
)
def test_tensorflow_says_what_to_use(arguments):
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        make_distribution(**arguments)


def test_one_device():
    distribution = make_distribution("none")
    assert (distribution.process_index, distribution.process_count) == (0, 1)
    assert (distribution.num_devices, distribution.num_replicas) == (1, 1)
    assert distribution.is_chief
    distribution.check_batch_size(batch_size=3)
    distribution.check_encoder(3, 12, 5)
    with pytest.raises(ValueError, match=r"`num_heads` must be an integer of at least 1. Received: num_heads='two'"):
        distribution.check_encoder("two", 12, 5)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's own")
def test_model_parallel_names_what_does_not_fit():
    with pytest.raises(ValueError, match="K of `distribution` must divide the 1 devices; XLA_FLAGS="):
        make_distribution("model=2")
    with pytest.raises(ValueError, match='axis "model"'):
        encoder_layout(keras.distribution.DeviceMesh((1,), ["batch"]))
