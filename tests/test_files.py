"""Exports land whole or not at all, whatever ends them."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import pytest
from export_models import export_tflite, make_classifier, make_encoder, make_tokenizer, run_python

from krpe_tf.export import export_saved_model
from krpe_tf.files import SUFFIX, make_directory, staged, write_json

EXPORT = """
import sys
sys.path.insert(0, sys.argv[1])
from export_models import export_tflite, make_classifier, make_encoder, make_tokenizer
other = [make_encoder() for _ in range(int(sys.argv[3]))]  # Names and seeds that are used up must not matter.
export_tflite(make_classifier(), sys.argv[2], (16, None))
for path in sys.argv[4:]:
    export_tflite(make_classifier(), path, (16, None), quantization="int8_static", tokenizer=make_tokenizer())
print("true")
"""


def leftovers(folder):
    return [path for path in folder.iterdir() if path.name.endswith(SUFFIX)]


def contents(folder):
    return {path.name: path.read_text() for path in Path(folder).iterdir()}


def make(path, overwrite=False, beside=(), **files):
    with staged(path, overwrite, beside) as target:
        for name, text in files.items():
            target.with_name(name).write_text(text)


def test_files_beside_the_target_appear_with_it(tmp_path):
    files = {"m.tflite": "model", "m.report.json": "report", "m.vocab.txt": "words"}
    make(tmp_path / "m.tflite", beside=["report.json"], **files)
    assert contents(tmp_path) == files


def test_nothing_is_replaced_unless_asked(tmp_path):
    (tmp_path / "m.report.json").write_text("old")
    for beside in (["report.json"], []):
        with pytest.raises(ValueError, match=r"overwrite=True. Received: path='.*m\.report\.json'"):
            make(tmp_path / "m.tflite", beside=beside, **{"m.tflite": "new", "m.report.json": "new"})
    assert contents(tmp_path) == {"m.report.json": "old"}


def test_an_old_file_beside_goes_with_its_model(tmp_path):
    for name in ("m.tflite", "m.report.json", "m.vocab.txt", "other"):
        (tmp_path / name).write_text("old")
    files = {"m.tflite": "new", "m.vocab.txt": "new"}
    make(tmp_path / "m.tflite", overwrite=True, beside=["report.json", "vocab.txt"], **files)
    assert contents(tmp_path) == {**files, "other": "old"}


def test_a_folder_with_other_things_beside_a_saved_model_is_kept(tmp_path):
    (tmp_path / "saved").mkdir()
    for name in ("saved_model.pb", "thesis.txt"):
        (tmp_path / "saved" / name).write_text("old")
    with pytest.raises(ValueError, match="not a folder with other things in it"):
        make(tmp_path / "saved", overwrite=True, saved="new")
    assert contents(tmp_path / "saved") == {"saved_model.pb": "old", "thesis.txt": "old"}


def test_a_rename_that_fails_brings_everything_back(tmp_path, monkeypatch):
    old = {"m.tflite": "old", "m.report.json": "old", "m.vocab.txt": "old"}
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    replace = Path.replace

    def refused(self, target):
        if Path(target).name == "m.tflite":
            raise OSError(5, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(OSError, match=r"cannot be written \(Input/output error"):
        make(tmp_path / "m.tflite", True, ["report.json", "vocab.txt"], **{"m.tflite": "new", "m.report.json": "new"})
    assert contents(tmp_path) == old


def test_what_a_process_killed_between_two_renames_left_is_put_back(tmp_path):
    for name in ("m.tflite", "m.report.json"):
        (tmp_path / name).write_text("old")
    script = """
import os, sys
from pathlib import Path
from krpe_tf.files import companion, staged
replace = Path.replace
def killed(self, target):
    if Path(target).name == "m.tflite":
        print("true", flush=True)
        os._exit(0)
    return replace(self, target)
Path.replace = killed
with staged(sys.argv[1], True, ["report.json"]) as target:
    target.write_text("new")
    companion(target, "report.json").write_text("new")
"""
    assert run_python(script, str(tmp_path / "m.tflite")) is True
    assert (tmp_path / "m.report.json").read_text() == "new"
    with pytest.raises(ValueError, match="overwrite=True"):
        make(tmp_path / "m.tflite")
    assert contents(tmp_path) == {"m.tflite": "old", "m.report.json": "old"}


@pytest.mark.parametrize("files", [{}, {"m.report.json": "new"}])
def test_a_body_that_does_not_make_the_file_leaves_all_as_it_was(tmp_path, files):
    (tmp_path / "m.report.json").write_text("old")
    with pytest.raises(OSError, match=r"cannot be written \(No such file.*m\.tflite"):
        make(tmp_path / "m.tflite", overwrite=True, beside=["report.json"], **files)
    assert contents(tmp_path) == {"m.report.json": "old"}


def test_a_body_that_raises_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half():
        with staged(path, overwrite=True) as target:
            target.write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_dead_process_left_is_removed_and_what_a_live_one_makes_is_not(tmp_path):
    script = """
import os, sys
from krpe_tf.files import staged
with staged(sys.argv[1], overwrite=False) as target:
    target.write_text("half")
    print("true", flush=True)
    os._exit(0)
"""
    assert run_python(script, str(tmp_path / "file")) is True
    assert len(leftovers(tmp_path)) == 1
    foreign = [tmp_path / ".file.notes", tmp_path / f".other.x{SUFFIX}"]
    for each in foreign:
        each.mkdir()
    with staged(tmp_path / "file", overwrite=True) as first:
        with staged(tmp_path / "file", overwrite=True) as second:
            second.write_text("second")
            folders = {each.parent.parent for each in (first, second)}
            assert first.parent.is_dir()
            assert set(tmp_path.iterdir()) == {*folders, *foreign}
        first.write_text("first")
    assert (tmp_path / "file").read_text() == "first"
    assert set(tmp_path.iterdir()) == {tmp_path / "file", *foreign}


@pytest.mark.slow
def test_a_killed_export_leaves_no_file_and_the_next_one_cleans_up(tmp_path):
    path = tmp_path / "model.tflite"
    command = [sys.executable, "-P", "-c", EXPORT, os.path.dirname(__file__), str(path), "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not leftovers(tmp_path):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(leftovers(tmp_path)) == 1
    assert not path.exists()
    export_tflite(make_classifier(), path, (16,))
    assert path.is_file()
    assert not leftovers(tmp_path)


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes_in_any_process(tmp_path, monkeypatch):
    """In a fresh one, with another seed of hashes, as in this one, which has made other models before."""
    monkeypatch.setenv("PYTHONHASHSEED", "2")
    theirs = tmp_path / "theirs.tflite", tmp_path / "theirs_int8_text.tflite"
    assert run_python(EXPORT, os.path.dirname(__file__), str(theirs[0]), "2", str(theirs[1])) is True
    ours = tmp_path / "ours.tflite", tmp_path / "ours_int8_text.tflite"
    export_tflite(make_classifier(), ours[0], (16, None))
    export_tflite(make_classifier(), ours[1], (16, None), quantization="int8_static", tokenizer=make_tokenizer())
    digests = [[hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] for paths in (ours, theirs)]
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[0][1]


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("export", [export_tflite, export_saved_model])
def test_a_full_disk(small_disk, export):
    model = make_classifier(hidden_dim=64, intermediate_dim=256)
    with pytest.raises(OSError, match=r"the output cannot be written \(.*[Nn]o space left") as caught:
        export(model, small_disk / "model")
    assert caught.value.filename == str(small_disk / "model")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("export", [export_tflite, export_saved_model])
def test_a_read_only_file_system(small_disk, export):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ValueError, match=r"can be written \(Read-only file system\)\. Received: path="):
        export(make_classifier(), small_disk / "model")


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Lambda(lambda x: x + 1, name="inner"),
        keras.layers.Dense(3, activation=lambda x: x + 1, name="inner"),
        keras.layers.TimeDistributed(keras.layers.Dense(3, activation=lambda x: x + 1, name="inner")),
    ],
)
@pytest.mark.parametrize("export", [export_tflite, export_saved_model])
def test_a_lambda_is_refused(tmp_path, export, layer):
    encoder = make_encoder()
    model = keras.Model(encoder.inputs, layer(encoder.output))
    with pytest.raises(ValueError, match=r"no Python lambda.*Received: a model with a lambda in inner"):
        export(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_a_lambda_does_not_load(tmp_path):
    from krpe_tf.runs import load_run

    encoder = make_encoder()
    keras.Model(encoder.inputs, keras.layers.Lambda(lambda x: x + 1)(encoder.output)).save(tmp_path / "model.keras")
    for name in ("tokenizer.json", "labels.json", "training.json"):
        (tmp_path / name).write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"unsafe|safe_mode"):
        load_run(tmp_path)


def test_processes_that_make_one_folder_do_not_disturb_each_other(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(make_directory, [tmp_path / "run"] * 400)) == {tmp_path / "run"}
    assert list((tmp_path / "run").iterdir()) == []


def test_a_full_disk_is_said_of_the_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*training\.json'"):
        write_json(tmp_path / "training.json", {})
    assert list(tmp_path.iterdir()) == []
