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

from krpe_tf.demo import load_messages
from krpe_tf.export import LiteRTModel
from krpe_tf.runs import load_run
from krpe_tf.training import Checkpoints

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
PRESET, VOCABULARY_SIZE, LENGTH, BATCH_SIZE, PRETRAIN_STEPS, FINE_TUNE_STEPS = "tiny", 400, 64, 8, 10, 30
CHECKPOINT_EVERY, WORDS, EXPORT_LENGTHS = 5, {WORDS}, (128,)
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


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr("krpe_tf.runs.train_run", lambda documents, run, **settings: trained.append(run))
    (cell,) = (each for each in nbformat.read(NOTEBOOKS["export_to_mobile"], 4).cells if "train_run(" in each.source)
    names = {"DATA": None, "RUN": tmp_path}
    exec(TINY["export_to_mobile"] + cell.source, names)
    assert trained == [tmp_path]
    (tmp_path / "model.keras").touch()
    exec(cell.source, names)
    assert trained == [tmp_path]


def test_all_training_on_a_tpu_survives_a_disconnect():
    code = "\n".join(cell.source for cell in nbformat.read(NOTEBOOKS["train_on_tpu"], 4).cells)
    calls = re.findall(r"\b(?:fit|fit_resumably)\((.*)\)", code)
    phases = [re.search(r'phase="(\w+)", \*\*training', call)[1] for call in calls]
    assert phases == ["pretraining", "fine_tuning"]


@pytest.mark.slow
def test_train_on_tpu(tmp_path):
    outputs = run_notebook("train_on_tpu", tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert printed(outputs, r"\['cpu:0', 'cpu:1'\]")
    match = printed(outputs, r"(\d+) documents, \d+ right; the file differs by (\S+) of")
    assert int(match[1]) > 50
    assert float(match[2]) < 1e-4
    # What was trained on JAX opens here, on whatever backend this is, in float32, and says what the file says.
    model, tokenizer, labels = load_run(tmp_path / "run")
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    assert {layer.compute_dtype for layer in model.encoder.layers} == {"float32"}
    assert len(labels) == 4
    texts = load_messages(WORDS)[0].texts[:5]
    ours = keras.ops.convert_to_numpy(model(tokenizer(texts)))
    theirs = LiteRTModel(tmp_path / "run" / "model.tflite")(texts)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(ours).max()
    histories = json.loads((tmp_path / "run" / "training.json").read_text())["histories"]
    for phase, steps in (("pretraining", 10), ("fine_tuning", 30)):
        assert histories[phase]["step"] == [*range(5, steps + 1, 5)]
        assert histories[phase]["loss"][-1] < histories[phase]["loss"][0]
    # Run again, it goes on from these.
    kept = [path.name.partition(".")[0] for path in Checkpoints(tmp_path / "run" / "checkpoints").paths]
    assert kept == ["000006-fine_tuning-20", "000007-fine_tuning-25", "000008-fine_tuning-30"]


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
        match = printed(outputs, rf"run/{file}: the label of Keras for (\d+) of (\d+); scores differ by (\S+) at most")
        assert int(match[2]) >= 40
        assert int(match[1]) >= 0.9 * int(match[2])
        assert float(match[3]) < tolerance
    model, tokenizer, _ = load_run(tmp_path / "run")
    texts = load_messages(WORDS)[0].texts[:5]
    ours = keras.ops.convert_to_numpy(model(tokenizer(texts)))
    assert np.abs(ours - LiteRTModel(tmp_path / "run" / "model.tflite")(texts)).max() < 1e-4
    for name in ("model.report.md", "model.vocab.txt", "model_int8.report.json"):
        assert (tmp_path / "run" / name).is_file()
