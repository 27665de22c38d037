"""Which task a run is of, and which phases it has."""

import re

import keras
import numpy as np
import pytest

from krpe_tf.data import TEXTS, Corpus, LabelledTexts, Ragged, open_source
from krpe_tf.models import Encoder, EncoderDecoder, MaskedLM, TextClassifier, TokenClassifier
from krpe_tf.runs import RunSettings, choose_task, make_recipe, train_run
from krpe_tf.tasks import MASKED_LM, TASKS, TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION, Settings, layout_map
from krpe_tf.text import ByteTokenizer
from krpe_tf.training import encoder_layout


def corpus(columns):
    return Corpus(None, None, columns, {"train": {"token_ids": Ragged.join([np.arange(3)])}, "validation": {}})


def test_pretraining_comes_first_where_it_has_steps():
    assert make_recipe(TEXT_CLASSIFICATION, RunSettings()) == (MASKED_LM, TEXT_CLASSIFICATION)
    assert make_recipe(TEXT_CLASSIFICATION, RunSettings(pretrain_steps=0)) == (TEXT_CLASSIFICATION,)
    assert make_recipe(MASKED_LM, RunSettings()) == (MASKED_LM,)
    with pytest.raises(ValueError, match=r"`pretrain_steps` must be at least 1 for the task 'masked_lm'"):
        make_recipe(MASKED_LM, RunSettings(pretrain_steps=0))


def test_a_model_that_writes_is_causal():
    with pytest.raises(ValueError, match=r"`encoder` must leave `causal` on .*Received: encoder={'causal': False}"):
        make_recipe(TASKS["causal_lm"], RunSettings(encoder={"causal": False}))


def test_each_phase_takes_the_tokenizer():
    bytes_alone = RunSettings(tokenizer="bytes", pretrain_steps=0)
    assert make_recipe(TEXT_CLASSIFICATION, bytes_alone) == (TEXT_CLASSIFICATION,)
    assert make_recipe(TEXT_CLASSIFICATION, RunSettings(pretrain_steps=0), ByteTokenizer()) == (TEXT_CLASSIFICATION,)
    hint = ", or `pretrain_steps` be 0"
    for task, settings, tokenizer, message in (
        (TEXT_CLASSIFICATION, {"tokenizer": "bytes"}, None, f"must be wordpiece for the task 'masked_lm'{hint}"),
        (TEXT_CLASSIFICATION, {}, ByteTokenizer(), f"must have a mask token for the task 'masked_lm'{hint}"),
        (MASKED_LM, {"tokenizer": "bytes"}, None, "must be wordpiece for the task 'masked_lm'. Received"),
        (
            TASKS["causal_lm"],
            {"tokenizer": "wordpiece"},
            None,
            "must be sentencepiece or bytes for the task 'causal_lm'",
        ),
    ):
        with pytest.raises(ValueError, match=f"`tokenizer` {message}"):
            make_recipe(task, RunSettings(**settings), tokenizer)


def test_a_task_is_chosen_by_name_or_by_what_a_corpus_holds():
    assert choose_task(None) is TEXT_CLASSIFICATION
    assert choose_task(None, LabelledTexts(["a"], ["b"])) is TEXT_CLASSIFICATION
    assert choose_task("masked_lm") is MASKED_LM
    assert choose_task(None, corpus(("text",))) is MASKED_LM
    assert choose_task(None, corpus(("text", "label"))) is TEXT_CLASSIFICATION
    assert choose_task("masked_lm", corpus(("text", "label"))) is MASKED_LM
    with pytest.raises(ValueError, match=r"`data` must have columns text, label for the task 'text_classification'"):
        choose_task("text_classification", corpus(("text",)))
    with pytest.raises(ValueError, match=r"`task` must be one of 'masked_lm', .*Received: task='juggling'"):
        choose_task("juggling")


def test_texts_and_sources_must_have_the_columns_of_the_task(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n")
    texts, words = open_source(path, ("label", "text")), open_source(path, ("tokens", "labels"))
    assert choose_task(None, texts) is TEXT_CLASSIFICATION
    assert choose_task(None, words) is TOKEN_CLASSIFICATION
    assert choose_task(None, open_source(path, ("text",))) is MASKED_LM
    assert choose_task("masked_lm", LabelledTexts(["a"], ["b"])) is MASKED_LM
    with pytest.raises(ValueError, match=r"`data` must have columns text for the task 'masked_lm'.*tokens, labels"):
        choose_task("masked_lm", words)
    with pytest.raises(
        ValueError, match=r"`data` must have columns tokens, labels for .*Received: columns text, label"
    ):
        choose_task("token_classification", LabelledTexts(["a"], ["b"]))
    for validation, message in (
        (words, r"`validation` must have columns text, label"),
        (str(path), r"`validation` must be LabelledTexts, .*Received: str"),
    ):
        with pytest.raises(ValueError, match=message):
            train_run(texts, tmp_path / "run", validation=validation)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_fits_together(task):
    assert re.fullmatch(r"\w+", task.phase)
    assert issubclass(task.settings, Settings)
    assert isinstance(getattr(RunSettings(), task.optimizer), dict)
    assert getattr(RunSettings(), task.length) >= 3
    assert issubclass(task.model, keras.Model)
    assert TASKS[task.name] is task
    assert task.answer is not None or task.writes or task.encoding is TEXTS


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX alone shards a model")
def test_the_layout_of_a_run_holds_that_of_every_model():
    mesh = keras.distribution.DeviceMesh((1, 1), ["batch", "model"])
    layout = layout_map(mesh)
    assert set(layout) == {*encoder_layout(mesh), *EncoderDecoder.get_layout_map(mesh)}
    encoder = Encoder.from_preset("tiny", num_layers=1)
    translator = TASKS["translation"].backbone.make("tiny", num_layers=1)
    for model in (MaskedLM(encoder), TextClassifier(encoder, 2), TokenClassifier(encoder, 3), translator):
        own = type(model).get_layout_map(mesh)
        axes = {
            weight.path: [each[weight.path] and each[weight.path].axes for each in (layout, own)]
            for weight in model.weights
        }
        assert all(found == expected for found, expected in axes.values()), axes
        assert any(found is not None for found, _ in axes.values())
