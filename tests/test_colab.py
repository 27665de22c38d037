"""The notebooks run top to bottom, tiny, each in a kernel and an empty folder of its own, and do what they say."""

import json
import os
import re
from pathlib import Path

import keras
import nbclient
import nbformat
import numpy as np
import pytest
from calls import QUICK_TO_COMPILE

from krpe_tf.demo import load_messages
from krpe_tf.demo.messages import Messages
from krpe_tf.export import LiteRTModel
from krpe_tf.runs import load_run

ROOT = Path(__file__).parent.parent
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "colab").glob("*.ipynb"))}
WORDS = 40
# In the place of a notebook's own settings.
TINY = {
    "build_a_model": f"""
VOCABULARY_SIZE, WIDTH, LAYERS, HEADS, FEATURES = 400, 16, 2, 2, 8
MAX_LENGTH, BATCH_TOKENS, EPOCHS, WORDS = 64, 2048, 2, {WORDS}
""",
    "export_to_mobile": f"""
PRESET, VOCABULARY_SIZE, MAX_LENGTH, PRETRAIN_STEPS, EPOCHS, WORDS = "tiny", 400, 128, 5, 1, {WORDS}
LENGTHS = (128,)
""",
    "train_on_tpu": f"""
PRESET, VOCABULARY_SIZE, LENGTH, BATCH_SIZE, PRETRAIN_STEPS, EPOCHS = "tiny", 400, 64, 8, 10, 2
CHECKPOINT_EVERY, WORDS, EXPORT_LENGTHS, EXPORT_OPTIONS = 5, {WORDS}, (128,), ("--no-measure",)
""",
}


def run_notebook(name: str, folder: Path, **environment) -> dict[int, str]:
    """What each code cell printed, by its place among the cells; the notebook as it stands, but for its settings."""
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    (settings,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells[settings].source += TINY[name]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "MPLBACKEND": "agg", **environment}
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute(
        env=environment
    )
    return {
        index: "".join(output.get("text", "") for output in cell.outputs)
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
    }


def printed(outputs: dict[int, str], pattern: str) -> re.Match:
    """The first match in what the notebook printed."""
    match = re.search(pattern, "\n".join(outputs.values()))
    assert match, outputs
    return match


def test_there_is_a_notebook_a_task():
    assert NOTEBOOKS.keys() == TINY.keys()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_stripped_and_valid(name):
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
    # It installs the package, with an extra that there is, and defines no library code.
    (extra,) = re.findall(r'%pip install --quiet "\./krpe_tf\[(\w+)\]"', code[0].source)
    assert f'"{extra}": ' in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert not any(re.search(r"^class ", cell.source, re.MULTILINE) for cell in code)


@pytest.mark.parametrize("name", ["export_to_mobile", "train_on_tpu"])
def test_all_training_resumes_after_a_disconnect_and_a_finished_run_is_not_trained_again(name, tmp_path, monkeypatch):
    cells = [cell.source for cell in nbformat.read(NOTEBOOKS[name], 4).cells]
    assert re.findall(r"\b(train_run|\w*fit\w*|train_on_batch)\(", "\n".join(cells)) == ["train_run"]
    trained = []
    monkeypatch.setattr("krpe_tf.runs.train_run", lambda data, run, **settings: trained.append((run, settings)))
    (cell,) = (each for each in cells if "train_run(" in each)
    names = {"DATA": None, "RUN": tmp_path, "messages": Messages(None, None, None), "distribution": None}
    exec(TINY[name] + cell, names)
    ((run, settings),) = trained
    assert run == tmp_path
    assert not settings.get("restart")
    (tmp_path / "model.keras").touch()
    exec(cell, names)
    assert len(trained) == 1
    if name == "train_on_tpu":
        assert settings["checkpoint_every"] == 5
        # One shape a phase: a program each.
        assert settings["min_length"] == settings["max_length"] == settings["pretrain_length"] == 64
        assert settings["batch_tokens"] == 8 * 64


@pytest.mark.slow
def test_train_on_tpu(tmp_path):
    flags = f"{QUICK_TO_COMPILE['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    outputs = run_notebook("train_on_tpu", tmp_path, **{**QUICK_TO_COMPILE, "XLA_FLAGS": flags})
    assert printed(outputs, r"\['cpu:0', 'cpu:1'\]")
    match = printed(outputs, r"(\d+) documents, \d+ right; the file differs by (\S+) of")
    assert int(match[1]) > 50
    assert float(match[2]) < 1e-4
    # What was trained on JAX opens here, on whatever backend this is, in float32, and agrees with the file.
    model, tokenizer, labels = load_run(tmp_path / "run")
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    assert {layer.compute_dtype for layer in model.encoder.layers} == {"float32"}
    assert len(labels) == 4
    texts = load_messages(WORDS)[0].texts[:5]
    ours = keras.ops.convert_to_numpy(model(tokenizer(texts)))
    theirs = LiteRTModel(tmp_path / "run" / "model.tflite")(texts)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(ours).max()
    training = json.loads((tmp_path / "run" / "training.json").read_text())
    assert training["settings"]["encoder"] == {"dtype": "mixed_bfloat16"}
    pretraining, fine_tuning = (training["histories"][phase] for phase in ("pretraining", "fine_tuning"))
    assert pretraining["step"] == pretraining["val_step"] == [2, 4, 6, 8, 10]
    *between, end = fine_tuning["step"]
    assert between == [*range(5, end, 5)]
    assert len(fine_tuning["val_step"]) == 2
    for history in (pretraining, fine_tuning):
        assert history["loss"][-1] < history["loss"][0]
        assert np.isfinite(history["val_loss"]).all()


@pytest.mark.slow
def test_build_a_model(tmp_path):
    outputs = run_notebook("build_a_model", tmp_path)
    match = printed(outputs, r"up to (\d+) tokens, trained on up to 64: accuracy ([\d.]+)")
    assert int(match[1]) > 64
    assert float(printed(outputs, r"loaded again, it differs by (\S+)")[1]) < 1e-6
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.count_params() == int(printed(outputs, r"([\d,]+) parameters")[1].replace(",", ""))


@pytest.mark.slow
def test_export_to_mobile(tmp_path):
    outputs = run_notebook("export_to_mobile", tmp_path)
    for file, tolerance in (("model.tflite", 1e-4), ("model_int8.tflite", 1e-1)):
        match = printed(outputs, rf"run/{file}: agrees with Keras on (\d+) of (\d+); scores differ by at most (\S+)")
        assert int(match[2]) >= 40
        assert int(match[1]) >= 0.9 * int(match[2])
        assert float(match[3]) < tolerance
    model, tokenizer, _ = load_run(tmp_path / "run")
    texts = load_messages(WORDS)[0].texts[:5]
    ours = keras.ops.convert_to_numpy(model(tokenizer(texts)))
    assert np.abs(ours - LiteRTModel(tmp_path / "run" / "model.tflite")(texts)).max() < 1e-4
    for name in ("model.report.md", "model.vocab.txt", "model_int8.report.json"):
        assert (tmp_path / "run" / name).is_file()
