"""The command line, called as a user calls it, on documents made here."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from calls import QUICK_TO_COMPILE
from trained_run import write_csv

from krpe_tf.cli import main
from krpe_tf.runs import load_run, load_task, predict_run, show_answers
from krpe_tf.tasks import MASKED_LM, TEXT_CLASSIFICATION
from krpe_tf.text import ByteTokenizer
from krpe_tf.training import class_probabilities


@pytest.fixture
def not_exported(run_folder, tmp_path):
    """The run of `run_folder` as it was before its export."""
    of_the_export = ("model.tflite", "model.report.*", "model.vocab.txt", "model.tokenizer_config.json", "saved_model")
    return shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns(*of_the_export))


@pytest.mark.slow
def test_train_export_predict(run_folder, not_exported, tmp_path, capsys):
    written = {"model.keras", "tokenizer.json", "task.json", "labels.json", "training.json", "logs"}
    assert {path.name for path in not_exported.iterdir()} == written
    assert json.loads((run_folder / "labels.json").read_text()) == ["hill", "sea"]
    assert json.loads((run_folder / "task.json").read_text()) == {"task": "text_classification"}
    history = json.loads((run_folder / "training.json").read_text())["histories"]
    assert history["fine_tuning"]["val_accuracy"][-1] == 1.0

    model, tokenizer, labels = load_run(not_exported)
    text = "the old ship and the salt wave"
    from_keras = predict_run(not_exported, [text])
    logits = model(tokenizer([text]))
    assert from_keras[0][labels[0]] == pytest.approx(class_probabilities(logits)[0][0])

    said = (run_folder.parent / "export.txt").read_text()
    assert "ids_64: error" in said
    assert "ms with 2 threads" in said
    assert f"details: {run_folder / 'model.report.md'}" in said
    exported = {"model.tflite", "model.report.md", "model.report.json", "saved_model"}
    assert exported <= {path.name for path in run_folder.iterdir()}
    from_file = predict_run(run_folder, [text])
    for label in labels:
        assert from_file[0][label] == pytest.approx(from_keras[0][label], abs=1e-4)

    (tmp_path / "note.txt").write_text("snow on the peak and a goat", encoding="utf-8")
    assert main(["predict", str(run_folder), text, "--file", str(tmp_path / "note.txt")]) == 0
    answers = capsys.readouterr().out.strip().splitlines()
    assert answers[0] == f"{show_answers(run_folder, from_file)[0]}  <- {text}"
    assert answers[1].endswith("<- " + str(tmp_path / "note.txt"))
    assert [answer.split()[0] for answer in answers] == ["sea", "hill"]


@pytest.mark.slow
def test_bytes_are_classified(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    data, run = write_csv(tmp_path / "documents.csv", 24), tmp_path / "run"
    command = ["train", str(data), "--output", str(run), "--preset", "tiny", "--tokenizer", "bytes"]
    assert main([*command, "--pretrain-steps", "1"]) == 2
    message = "`tokenizer` must be wordpiece for the task 'masked_lm', or `pretrain_steps` be 0. Received: "
    assert message + "tokenizer='bytes'" in capsys.readouterr().err
    sizes = ["--pretrain-steps", "0", "--epochs", "1", "--max-length", "64", "--min-length", "64"]
    small = ["--encoder", "num_layers=1", "num_heads=1", "hidden_dim=8", "intermediate_dim=8"]
    assert main([*command, *sizes, "--pooling", "first", *small]) == 0
    model, tokenizer, _ = load_run(run)
    assert type(tokenizer) is ByteTokenizer
    assert model.pooling == "first"
    before = predict_run(run, ["Ahoy", "a  goat"])
    assert main(["export", str(run), "--lengths", "16", "--no-measure"]) == 0
    assert "the files take token ids: a ByteTokenizer runs outside of them" in caplog.messages
    for answer, expected in zip(predict_run(run, ["Ahoy", "a  goat"]), before, strict=True):
        assert answer == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "{run}", " "], "`texts` must not hold empty texts"),
        (["predict", "{run}", "--file", "{run}/missing.txt"], "`--file` must be a readable file"),
        (["predict", "{run}", "--file", "{tmp}/latin1.txt"], "`--file` must be valid UTF-8"),
        (["predict", "{run}", "wave " * 200], "64"),
        (["predict", "{tmp}", "text"], "`run` must be a folder that `train` wrote"),
        (["export", "{run}", "--lengths", "0"], "lengths"),
    ],
)
def test_bad_input_to_a_run(run_folder, tmp_path, capsys, arguments, message):
    (tmp_path / "latin1.txt").write_bytes("Grüße".encode("latin-1"))
    assert main([argument.format(run=run_folder, tmp=tmp_path) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Received" in error


@pytest.mark.slow
def test_a_run_folder_says_its_task(not_exported):
    assert load_task(not_exported) is TEXT_CLASSIFICATION
    labels = (not_exported / "labels.json").read_text()
    (not_exported / "labels.json").unlink()
    for use in (load_run, lambda run: predict_run(run, ["a ship"])):
        with pytest.raises(ValueError, match=r"`run` must be a folder that `train` wrote, it lacks labels\.json"):
            use(not_exported)
    (not_exported / "labels.json").write_text("[")
    with pytest.raises(ValueError, match=r"`run` must be .*, but labels\.json cannot be read .*Received: run="):
        predict_run(not_exported, ["a ship"])
    (not_exported / "labels.json").write_text(labels)
    # krpe_tf 0.1 wrote no task.json: with labels it was classification, without them masked LM.
    (not_exported / "task.json").unlink()
    assert load_task(not_exported) is TEXT_CLASSIFICATION
    (not_exported / "labels.json").unlink()
    assert load_task(not_exported) is MASKED_LM
    with pytest.raises(ValueError, match=r"`run` must be of a task that answers, 'masked_lm' does not"):
        predict_run(not_exported, ["a ship"])
    with pytest.raises(ValueError, match=r"`run` must hold a MaskedLM for .*Received: a TextClassifier in"):
        load_run(not_exported)
    (not_exported / "task.json").write_text('{"task": "juggling"}')
    with pytest.raises(ValueError, match=r"`run` must be of a task among masked_lm, .*Received: .*task.json"):
        load_task(not_exported)


def test_a_length_that_is_no_number_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path), "--lengths", "512", "long"])
    assert "--lengths: must be numbers of tokens, or \"any\". Received: 'long'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [("text,kind\na,b\nc,d\n", "label_column must be one of ['text', 'kind']"), ("", "text_column must be one of []")],
)
def test_csv_without_the_named_column(tmp_path, capsys, content, message):
    (tmp_path / "documents.csv").write_text(content)
    assert main(["train", str(tmp_path / "documents.csv"), "--output", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err.replace("`", "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("--epochs", "0", "epochs"),
        ("--validation-fraction", "2", "validation_fraction"),
        ("--max-length", "0", "max_length"),
        ("--preset", "huge", "preset"),
        ("--pretrain-steps", "-1", "pretrain_steps"),
        ("--task", "juggling", "task"),
    ],
)
def test_bad_settings_are_said_before_any_work(tmp_path, capsys, option, value, name):
    data = write_csv(tmp_path / "documents.csv", 8)
    assert main(["train", str(data), "--output", str(tmp_path / "run"), option, value]) == 2
    assert f"Received: {name}=" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_few_documents_train_and_a_new_run_replaces_old_exports(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    data, run = write_csv(tmp_path / "documents.csv", 10), tmp_path / "run"
    run.mkdir()
    (run / "saved_model").mkdir()
    (run / "model.tflite").write_text("of an earlier model")
    sizes = ["--preset", "tiny", "--vocabulary-size", "200", "--pretrain-steps", "5", "--epochs", "1"]
    assert main(["train", str(data), "--output", str(run), *sizes]) == 0
    assert not (run / "model.tflite").exists()
    assert not (run / "saved_model").exists()
    assert set(predict_run(run, ["a ship"])[0]) == {"sea", "hill"}
    said = [record.getMessage() for record in caplog.records]
    labels = said.index(f"{data}: 2 labels, and how many documents have each: 'hill' 5, 'sea' 5")
    assert labels < next(place for place, line in enumerate(said) if line.startswith("learning a vocabulary"))


def test_unwritable_output_is_said_before_any_work(tmp_path, capsys):
    data = write_csv(tmp_path / "documents.csv", 8)
    (tmp_path / "file").touch()
    assert main(["train", str(data), "--output", str(tmp_path / "file" / "run")]) == 2
    assert "`output` must be a writable folder" in capsys.readouterr().err


LOAD = """
import sys
import keras, krpe_tf
ours = lambda: {name for name in keras.saving.get_custom_objects() if name.startswith("krpe_tf>")}
registered = ours()
assert keras.backend.backend() == "tensorflow" or "tensorflow" not in sys.modules
for path in sys.argv[1:]:
    model = keras.saving.load_model(path)
    print(path, *(type(each).__name__ for each in (model, getattr(model, "optimizer", None))))
import importlib, pkgutil
for module in pkgutil.walk_packages(krpe_tf.__path__, "krpe_tf."):
    if not module.name.startswith("krpe_tf.garden") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert ours() == registered, ours() - registered
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_saved_models_load_in_a_process_that_imports_nothing_else(run_folder, tmp_path, backend):
    """Also that no module of ours registers a class with Keras that `import krpe_tf` does not."""
    saved = [run_folder / "model.keras", *sorted((Path(__file__).parent / "saved_by_0_1").glob("*.keras"))]
    command = [sys.executable, "-P", "-W", "ignore", "-c", LOAD, *map(str, saved)]
    environment = {**os.environ, **QUICK_TO_COMPILE, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = dict(zip((path.stem for path in saved), done.stdout.splitlines(), strict=True))
    assert loaded["model"].endswith("TextClassifier GlobalAdamW")
    assert loaded["float16"].endswith("GlobalLossScaleOptimizer")
