"""`staged`: whole or not at all, whatever happens."""

from pathlib import Path

import pytest
from krpe_tf.export._files import staged


def contents(folder):
    return {path.name: path.read_text() for path in Path(folder).iterdir()}


def make(path, overwrite=False, beside=(), **files):
    with staged(path, overwrite, beside) as target:
        for name, text in files.items():
            target.with_name(name).write_text(text)


def test_files_beside_the_target_appear_with_it(tmp_path):
    files = {"m.tflite": "model", "m.report.json": "report", "m.vocab.txt": "words"}
    make(tmp_path / "m.tflite", beside=["m.report.json"], **files)
    assert contents(tmp_path) == files


def test_nothing_is_replaced_unless_asked(tmp_path):
    (tmp_path / "m.report.json").write_text("old")
    for beside in (["m.report.json"], []):
        with pytest.raises(ValueError, match=r"overwrite=True. Received: path='.*m\.report\.json'"):
            make(tmp_path / "m.tflite", beside=beside, **{"m.tflite": "new", "m.report.json": "new"})
    assert contents(tmp_path) == {"m.report.json": "old"}


def test_an_old_file_beside_goes_with_its_model(tmp_path):
    for name in ("m.tflite", "m.report.json", "m.vocab.txt", "other"):
        (tmp_path / name).write_text("old")
    files = {"m.tflite": "new", "m.vocab.txt": "new"}
    make(tmp_path / "m.tflite", overwrite=True, beside=["m.report.json", "m.vocab.txt"], **files)
    assert contents(tmp_path) == {**files, "other": "old"}


@pytest.mark.parametrize("files", [{}, {"m.report.json": "new"}])
def test_a_body_that_does_not_make_the_file_leaves_all_as_it_was(tmp_path, files):
    (tmp_path / "m.report.json").write_text("old")
    with pytest.raises(OSError, match=r"cannot be written \(No such file.*m\.tflite"):
        make(tmp_path / "m.tflite", overwrite=True, beside=["m.report.json"], **files)
    assert contents(tmp_path) == {"m.report.json": "old"}
