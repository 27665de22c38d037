"""The command line, called as a user calls it, on documents made here."""

import json

import numpy as np
import pytest

from krpe_tf.cli import main
from krpe_tf.runs import load_run, predict_run
from krpe_tf.training import class_probabilities

WORDS = {"sea": ["wave", "ship", "salt", "tide", "sail"], "hill": ["rock", "path", "goat", "snow", "peak"]}


def _documents(count):
    random = np.random.default_rng(0)
    for index in range(count):
        label = ["sea", "hill"][index % 2]
        yield " ".join(random.choice([*WORDS[label], "the", "and", "old"], size=random.integers(20, 60))), label


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run trained and exported by the command line from a CSV file."""
    folder = tmp_path_factory.mktemp("cli")
    lines = ["body,kind", *(f"{text},{label}" for text, label in _documents(60))]
    (folder / "documents.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    arguments = ["--preset", "tiny", "--vocabulary-size", "200", "--max-length", "64", "--pretrain-steps", "2"]
    columns = ["--text-column", "body", "--label-column", "kind"]
    output = ["--output", str(folder / "run"), "--epochs", "30"]
    assert main(["train", str(folder / "documents.csv"), *output, *columns, *arguments]) == 0
    return folder / "run"


@pytest.mark.slow
def test_train_export_predict(run, capsys):
    assert {path.name for path in run.iterdir()} >= {"model.keras", "tokenizer.json", "labels.json", "training.json"}
    assert json.loads((run / "labels.json").read_text()) == ["hill", "sea"]
    history = json.loads((run / "training.json").read_text())["histories"]
    assert history["fine_tuning"]["val_accuracy"][-1] == 1.0

    model, tokenizer, labels = load_run(run)
    text = "the old ship and the salt wave"
    from_keras = predict_run(run, [text])
    logits = model(tokenizer([text]))
    assert from_keras[0][labels[0]] == pytest.approx(class_probabilities(logits)[0][0])

    assert main(["export", str(run), "--lengths", "16", "64"]) == 0
    said = capsys.readouterr().out
    assert "ids_64: error" in said
    assert "ms with 2 threads" in said
    assert f"{run / 'model.report.md'} says more" in said
    assert {"model.tflite", "model.report.md", "saved_model"} <= {path.name for path in run.iterdir()}
    from_file = predict_run(run, [text])
    for label in labels:
        assert from_file[0][label] == pytest.approx(from_keras[0][label], abs=1e-4)

    capsys.readouterr()
    (run / "note.txt").write_text("snow on the peak and a goat", encoding="utf-8")
    assert main(["predict", str(run), text, "--file", str(run / "note.txt")]) == 0
    answers = capsys.readouterr().out.strip().splitlines()
    assert answers[1].endswith("<- " + str(run / "note.txt"))
    assert [answer.split()[0] for answer in answers] == ["sea", "hill"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "{run}", " "], "texts must not hold empty texts"),
        (["predict", "{run}", "--file", "{run}/missing.txt"], "--file must be a readable file"),
        (["predict", "{run}", "--file", "{run}/latin1.txt"], "--file must be valid UTF-8"),
        (["predict", "{run}", "wave " * 200], "64"),
        (["predict", "{run}/.."], "run must be a folder that `train` wrote"),
        (["export", "{run}", "--lengths", "0"], "lengths"),
    ],
)
def test_bad_input_to_a_run(run, capsys, arguments, message):
    if not (run / "model.tflite").exists():
        assert main(["export", str(run), "--lengths", "64", "--no-measure"]) == 0
    (run / "latin1.txt").write_bytes("Grüße".encode("latin-1"))
    arguments = [argument.format(run=run) for argument in arguments]
    arguments += ["text"] if arguments[1].endswith("..") else []
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Received" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [("text,kind\na,b\nc,d\n", "label_column must be one of ['text', 'kind']"), ("", "text_column must be one of []")],
)
def test_csv_without_the_named_column(tmp_path, capsys, content, message):
    (tmp_path / "documents.csv").write_text(content)
    assert main(["train", str(tmp_path / "documents.csv"), "--output", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("--epochs", "0", "epochs"),
        ("--validation-fraction", "2", "validation_fraction"),
        ("--max-length", "0", "max_length"),
        ("--preset", "huge", "preset"),
        ("--pretrain-steps", "-1", "pretrain_steps"),
    ],
)
def test_bad_settings_are_said_before_any_work(tmp_path, capsys, option, value, name):
    (tmp_path / "documents.csv").write_text("text,label\n" + "\n".join(f"{t},{k}" for t, k in _documents(8)))
    assert main(["train", str(tmp_path / "documents.csv"), "--output", str(tmp_path / "run"), option, value]) == 2
    assert f"Received: {name}=" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_few_documents_train_and_a_new_run_replaces_old_exports(tmp_path):
    (tmp_path / "documents.csv").write_text("text,label\n" + "\n".join(f"{t},{k}" for t, k in _documents(10)))
    run = tmp_path / "run"
    run.mkdir()
    (run / "saved_model").mkdir()
    (run / "model.tflite").write_text("of an earlier model")
    sizes = ["--preset", "tiny", "--vocabulary-size", "200", "--pretrain-steps", "5", "--epochs", "1"]
    assert main(["train", str(tmp_path / "documents.csv"), "--output", str(run), *sizes]) == 0
    assert not (run / "model.tflite").exists()
    assert not (run / "saved_model").exists()
    assert set(predict_run(run, ["a ship"])[0]) == {"sea", "hill"}


def test_unwritable_output_is_said_before_any_work(tmp_path, capsys):
    (tmp_path / "documents.csv").write_text("text,label\n" + "\n".join(f"{t},{k}" for t, k in _documents(8)))
    (tmp_path / "file").touch()
    assert main(["train", str(tmp_path / "documents.csv"), "--output", str(tmp_path / "file" / "run")]) == 2
    assert "`output` must be a writable folder" in capsys.readouterr().err
