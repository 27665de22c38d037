"""Checkpoints are there whole or not at all, whatever happens to the process, the disk or the file."""

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest

from krpe_tf.training import Checkpoints
from krpe_tf.training.checkpoints import TEMPORARY

# A process that saves checkpoints of 8 MB until it is stopped, in each its number everywhere.
SAVES = """
import sys
import numpy as np
from krpe_tf.training import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=2)
for number in range(1, 10_000):
    checkpoints.save({"a": np.full(1_000_000, number), "b": np.full(1_000_000, float(number))}, {"step": number}, "run")
"""


def arrays(number=1):
    return {"a/0": np.full((2, 3), number, "float32"), "a/1": np.arange(number), "b/0": np.array([1, 2], "uint32")}


def save(checkpoints, *numbers):
    return [checkpoints.save(arrays(number), {"step": number}, f"run-{number}") for number in numbers]


def assert_whole(saved, number):
    assert saved.state == {"step": number}
    assert list(saved.arrays) == list(arrays(number))
    for name, expected in arrays(number).items():
        assert saved.arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(saved.arrays[name], expected)


def test_saved_is_restored_and_the_newest_few_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new", keep=2)
    assert checkpoints.restore() is None
    written = save(checkpoints, 1, 2, 12)
    assert checkpoints.paths == written[1:]
    assert_whole(Checkpoints(tmp_path / "new").restore(), 12)
    # Counting goes on where another process stopped.
    save(Checkpoints(tmp_path / "new", keep=2), 13)
    assert_whole(checkpoints.restore(), 13)
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_half_precision_that_numpy_lacks_keeps_its_bits(tmp_path):
    value = np.array([1.5, -3e38, 1e-40], ml_dtypes.bfloat16)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"x": value}, {}, "run")
    restored = checkpoints.restore().arrays["x"]
    assert restored.dtype == value.dtype
    np.testing.assert_array_equal(restored.view("uint16"), value.view("uint16"))


def damage_by_cutting(path):
    os.truncate(path, path.stat().st_size - 1)


def damage_by_emptying(path):
    os.truncate(path, 0)


def damage_one_bit(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 8
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [damage_by_cutting, damage_by_emptying])
def test_a_damaged_newest_checkpoint_falls_back_and_says_so(tmp_path, caplog, damage):
    checkpoints = Checkpoints(tmp_path)
    *_, newest = save(checkpoints, 1, 2, 3)
    damage(newest)
    with caplog.at_level(logging.WARNING):
        assert_whole(checkpoints.restore(), 2)
    assert f"{newest} is damaged (its checksum differs); falling back to the checkpoint before it" in caplog.text
    # What is damaged does not count among those that are kept.
    save(checkpoints, 4)
    assert [int(path.name[:6]) for path in checkpoints.paths] == [1, 2, 4]
    assert_whole(checkpoints.restore(), 4)


def test_any_flipped_bit_is_noticed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    _, newest = save(checkpoints, 1, 2)
    content = newest.read_bytes()
    for place in range(0, len(content), 7):
        damage_one_bit(newest, place)
        assert_whole(Checkpoints(tmp_path).restore(), 1)
        newest.write_bytes(content)
    assert_whole(checkpoints.restore(), 2)


def test_a_missing_newest_checkpoint_is_no_matter(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, 2)[-1].unlink()
    assert_whole(checkpoints.restore(), 1)


def test_where_all_are_damaged_nothing_starts_over_silently(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for path in save(checkpoints, 1, 2):
        damage_one_bit(path, 100)
    with pytest.raises(
        ValueError, match=r"`directory` must hold an undamaged checkpoint.*--restart.*Received: .* 2 damaged"
    ):
        checkpoints.restore()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_never_saved(tmp_path, value):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    for dtype in ("float32", ml_dtypes.bfloat16):
        bad = {**arrays(2), "a/0": np.array([1, value, value], dtype)}
        with pytest.raises(ValueError, match=r"`arrays` must be finite\. Received: a/0, 2 are not"):
            checkpoints.save(bad, {"step": 2}, "run")
    assert_whole(checkpoints.restore(), 1)


def test_only_the_chief_writes(tmp_path):
    chief, other = Checkpoints(tmp_path), Checkpoints(tmp_path, chief=False)
    (tmp_path / TEMPORARY).touch()
    assert save(other, 1) == [None]
    assert [path.name for path in tmp_path.iterdir()] == [TEMPORARY]
    save(chief, 2)
    assert_whole(other.restore(), 2)


def test_a_kill_inside_a_write_leaves_the_checkpoints_before_it(tmp_path):
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVES, str(tmp_path)], env=os.environ | {"KERAS_BACKEND": "jax"}
        )
        try:
            stop_inside_a_write(child, tmp_path)
        finally:
            child.kill()
            child.wait()
        assert (tmp_path / TEMPORARY).stat().st_size
        saved = Checkpoints(tmp_path).restore()
        assert set(saved.arrays["a"]) == set(saved.arrays["b"]) == {saved.state["step"]}


def stop_inside_a_write(child, folder, timeout=120):
    """Stops a process between the first byte of a temporary checkpoint and its renaming, once it has saved another."""
    before = set(os.listdir(folder)) if folder.is_dir() else set()
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and child.poll() is None:
        names = os.listdir(folder) if folder.is_dir() else []
        if TEMPORARY in names and any(name.endswith(".npz") and name not in before for name in names):
            child.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
            if (folder / TEMPORARY).exists() and (folder / TEMPORARY).stat().st_size:
                return
            child.send_signal(signal.SIGCONT)
    raise AssertionError(f"no write was met in {timeout} s, exit code {child.poll()}")


def test_a_full_disk_is_said_and_the_earlier_checkpoints_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"checkpoint run-2 cannot be written .*; the earlier ones stay") as raised:
            checkpoints.save({"a": np.zeros(100_000)}, {"step": 2}, "run-2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG
    assert raised.value.filename == str(tmp_path)
    assert [path.name[:6] for path in tmp_path.iterdir()] == ["000001"]
    assert_whole(checkpoints.restore(), 1)
    save(checkpoints, 3)
    assert_whole(checkpoints.restore(), 3)


@pytest.mark.parametrize("label", ["fine tuning", "a/b", ""])
def test_a_label_that_is_no_part_of_a_name_is_refused(tmp_path, label):
    with pytest.raises(ValueError, match=r'`label` must be letters, digits, "_" and "-"'):
        Checkpoints(tmp_path).save(arrays(), {}, label)
    assert not list(tmp_path.iterdir())


def test_looking_into_a_folder_leaves_a_write_alone(tmp_path):
    (tmp_path / TEMPORARY).touch()
    assert Checkpoints(tmp_path).restore() is None
    assert (tmp_path / TEMPORARY).exists()


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match=r"`keep` must be an integer of at least 1\. Received: keep=0"):
        Checkpoints(tmp_path, keep=0)


def test_the_state_may_hold_what_json_holds(tmp_path):
    state = {"history": {"loss": [0.1 + 0.2, 1e-300]}, "best": None, "text": "Grüße"}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({}, state, "run")
    assert checkpoints.restore().state == json.loads(json.dumps(state)) == state
