"""The folder of an unfinished run: what is resumed, what is refused, and what is dropped and when."""

import json
import logging

import numpy as np
import pytest

from krpe_tf.data import LABELLED_TEXTS, TEXTS, LabelledTexts, deal_documents, load_labelled_texts, open_source
from krpe_tf.models import Encoder
from krpe_tf.runs import RunSettings, RunState, train_run
from krpe_tf.runs.train import _identity
from krpe_tf.tasks import MASKED_LM, TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer
from krpe_tf.training import Budget, Distribution

BUDGET = Budget(4, phase="run")
# What a checkpoint of it says of itself.
OF_RUN = {"phase": "run", "steps": 4, "interval": 4}
NOT_CHIEF = Distribution("data", None, 1, 2, 1, 1)


def state(output, seed=0, data="data", task=TEXT_CLASSIFICATION, **arguments):
    made = RunState(output, task, RunSettings(seed=seed), data, **arguments)
    made.begin(WordPieceTokenizer(RESERVED_TOKENS), {"run": BUDGET})
    return made


def test_restart_drops_what_is_there(tmp_path):
    state(tmp_path).checkpoints.save({"x": np.ones(3)}, {}, "run")
    assert state(tmp_path).resumed
    with pytest.raises(ValueError, match=r"Received: seed=1 \(the run has 0\), other data than the run has"):
        state(tmp_path, 1, "other data")
    with pytest.raises(ValueError, match=r"Received: other task than the run has"):
        state(tmp_path, task=MASKED_LM)
    again = state(tmp_path, 1, "other data", restart=True)
    assert not again.resumed
    assert again.checkpoints.restore() is None
    # A run without a checkpoint has nothing to lose.
    assert not state(tmp_path, 2).resumed
    # What is left of a folder that a kill removed half is not an unfinished run.
    state(tmp_path).checkpoints.save({"x": np.ones(3)}, {}, "run")
    (tmp_path / "checkpoints" / "run.json").unlink()
    assert state(tmp_path).checkpoints.restore() is None


def test_a_restart_drops_nothing_before_the_data_are_found_right(tmp_path):
    first = state(tmp_path)
    assert (first.resumed, first.tokenizer) == (False, None)
    path = first.checkpoints.save({"x": np.ones(3)}, {}, "run")
    with pytest.raises(ValueError, match="two labels or more"):
        train_run(LabelledTexts(["a ship", "a wave"], ["sea", "sea"]), tmp_path, restart=True, pretrain_steps=0)
    assert path.is_file()
    assert state(tmp_path).tokenizer.vocabulary == [*RESERVED_TOKENS]
    with pytest.raises(ValueError, match=r"`restart` must be True, False or a checkpoint.*Received: restart=12"):
        state(tmp_path, restart=12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_encoder": lambda: Encoder.from_preset("tiny", num_layers=1)}, "weight"),
        ({"encoder": lambda: {"hidden_dim": 33}}, "hidden_dim"),
        ({"encoder": lambda: {"feature_map": "nonsense"}}, "`feature_map` must be"),
    ],
)
def test_a_restart_drops_nothing_before_the_model_could_be_made(tmp_path, arguments, message):
    path = state(tmp_path).checkpoints.save({"x": np.ones(3)}, {}, "run")
    data = LabelledTexts([f"a ship {number}" for number in range(8)], ["sea", "hill"] * 4)
    sizes = {"preset": "tiny", "vocabulary_size": 64, "pretrain_steps": 0}
    made = {name: make() for name, make in arguments.items()}
    with pytest.raises(ValueError, match=message):
        train_run(data, tmp_path, restart=True, **sizes, **made)
    assert path.is_file()
    assert state(tmp_path).resumed


def test_a_missing_package_is_said_before_a_restart_drops_a_run(tmp_path, monkeypatch):
    path = state(tmp_path, task=TOKEN_CLASSIFICATION).checkpoints.save({"x": np.ones(3)}, {}, "run")
    (tmp_path / "a.conll").write_text("".join(f"ada{number} B-PER\nwent O\n\n" for number in range(8)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="without the package seqeval"):
        train_run(
            tmp_path / "a.conll", tmp_path, task="token_classification", restart=True, pretrain_steps=0, preset="tiny"
        )
    assert path.is_file()


def identity(data, validation=None, encoding=LABELLED_TEXTS):
    documents = deal_documents(data, encoding, 0.2 if validation is None else validation)
    return [*_identity(data, validation, documents, None, ())]


def test_equal_texts_make_another_run_than_the_one_of_a_version_that_split_them():
    """One without equal texts resumes: its data have the fingerprint that 0.1 gave them."""
    data = LabelledTexts(["x", "y", "z"], ["a", "b", "b"])
    assert identity(data) == ["x", "y", "z", "a", "b", "b"]
    data = LabelledTexts(["x", "x ", "y", "z"], ["a", "b", "b", "b"])
    assert identity(data) == ["x", "x ", "y", "z", "a", "b", "b", "b", "equal texts together"]
    assert "equal texts together" not in identity(data, data)


def test_a_file_makes_another_run_than_the_texts_in_it(tmp_path):
    """0.1 read a file into labelled texts: its unfinished runs of a file, split otherwise, are refused."""
    path = tmp_path / "a.csv"
    path.write_text("text,label\nx,a\ny,b\nz,b\n")
    for validation in (None, LabelledTexts(["v"], ["a"])):
        same = identity(open_source(path, ("text", "label")), validation)
        assert same == identity(open_source(path, ("text", "label")), validation)
        assert (same == identity(load_labelled_texts(path), validation)) == (validation is not None)


def test_changed_settings_resume_from_a_checkpoint_that_is_named(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    checkpoints = state(tmp_path).checkpoints
    paths = [checkpoints.save({"x": np.full(3, number)}, OF_RUN, f"run-{number}") for number in (1, 2)]
    with pytest.raises(ValueError, match="changed settings need --restart"):
        state(tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"other data need --restart.*Received: other data"):
        state(tmp_path, data="other data", restart=paths[0].name)
    resumed = state(tmp_path, seed=1, restart=paths[0])
    assert resumed.resumed
    assert f"resuming from {paths[0].name} with seed=1 (the run has 0)" in caplog.text
    assert resumed.checkpoints.restore().arrays["x"].tolist() == [1, 1, 1]
    assert set(paths) < set(resumed.checkpoints.paths)
    assert state(tmp_path, seed=1).resumed
    paths[1].write_bytes(b"")
    with pytest.raises(ValueError, match=r"a checkpoint must be one of .*its checksum differs"):
        state(tmp_path, seed=1, restart=str(paths[1]))
    with pytest.raises(ValueError, match="`restart` must be a checkpoint of an unfinished run"):
        state(tmp_path / "elsewhere", restart="000001-run-1.npz")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"steps": 5}, r"which had steps=5. Received: steps=4"),
        ({"interval": 2}, r"which had interval=2. Received: interval=4"),
        ({"phase": "pretraining"}, r"must be of a phase of the run: run. Received: 000001-"),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_new_settings_changes_nothing(tmp_path, found, message):
    checkpoints = state(tmp_path).checkpoints
    path = checkpoints.save({"x": np.ones(3)}, {**OF_RUN, **found}, "run-1")
    checkpoints.save({"x": np.ones(3)}, OF_RUN, "run-2")
    before = (tmp_path / "checkpoints" / "run.json").read_text(), checkpoints.paths
    with pytest.raises(ValueError, match=message):
        state(tmp_path, seed=1, restart=path)
    assert ((tmp_path / "checkpoints" / "run.json").read_text(), checkpoints.paths) == before
    assert state(tmp_path).resumed


def test_a_row_that_moves_to_the_validation_makes_another_run(tmp_path):
    found = set()
    for count in (1, 2):
        parts = []
        for name, texts in (("train", "abc"[:count]), ("validation", "abc"[count:])):
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
            parts.append(open_source(path, ("text",)))
        found.add(tuple(identity(*parts, TEXTS)))
    assert len(found) == 2


def test_every_process_must_have_the_settings_and_data_of_the_chief(tmp_path):
    state(tmp_path)
    state(tmp_path, distribution=NOT_CHIEF)
    with pytest.raises(ValueError, match=r"process 0. Received: seed=1 \(process 0 has 0\), other data than process 0"):
        state(tmp_path, 1, "other data", distribution=NOT_CHIEF)


def test_a_damaged_run_json_is_named(tmp_path):
    state(tmp_path).checkpoints.save({"x": np.ones(3)}, {}, "run")
    for content in ("", "[]", "{}"):
        (tmp_path / "checkpoints" / "run.json").write_text(content)
        with pytest.raises(ValueError, match=r"has a damaged run.json .*--restart.*Received: .*run\.json"):
            state(tmp_path)
    assert not state(tmp_path, restart=True).resumed


def test_an_unfinished_run_of_0_1_is_resumed(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = state(tmp_path)
    first.checkpoints.save({"x": np.ones(3)}, {}, "run")
    path = tmp_path / "checkpoints" / "run.json"
    content = json.loads(path.read_text())
    del content["task"]  # As 0.1 wrote it.
    path.write_text(json.dumps(content))
    assert state(tmp_path).resumed
    assert "resuming a run of krpe_tf 0.1; from here on its batches are drawn as 0.2 draws them" in caplog.text


def test_data_of_another_kind_is_refused(tmp_path):
    for data, message in (
        ({"text": "a text"}, r"`data` must be a path, LabelledTexts, .*Received: dict"),
        (["a text"], r"`data` must be one path\. .*Received: data='a text'"),
    ):
        with pytest.raises(ValueError, match=message):
            train_run(data, tmp_path / "run")
    assert not list(tmp_path.iterdir())
