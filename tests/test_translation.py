"""The task translation: a run from two files of lines to translations and their scores, stopped and resumed."""

import dataclasses
import importlib.util
import json

import keras
import numpy as np
import pytest
from batch_checks import same

from krpe_tf.cli import main
from krpe_tf.data import PAIRS, Corpus, build_corpus, load_corpus, open_source
from krpe_tf.models import EncoderDecoder, preset_arguments, programs
from krpe_tf.runs import (
    RunSettings,
    RunState,
    choose_task,
    export_run,
    generate_run,
    load_run,
    load_task,
    make_recipe,
    predict_run,
    train_run,
    translate_run,
)
from krpe_tf.runs.train import _save
from krpe_tf.tasks import CAUSAL_LM, TRANSLATION, score, translate
from krpe_tf.text import RESERVED_TOKENS, ByteTokenizer, PieceTokenizer, WordPieceTokenizer
from krpe_tf.training import Checkpoints

WORDS = {"sea": "Meer", "wave": "Welle", "ship": "Schiff", "the": "das", "old": "alt", "and": "und"}
SIZES = {"preset": "tiny", "encoder": {"num_layers": 1}, "vocabulary_size": 330, "batch_tokens": 512, "epochs": 2}


def sentences(count):
    random = np.random.default_rng(0)
    for _ in range(count):
        words = random.choice([*WORDS], random.integers(1, 7))
        yield " ".join(words), " ".join(WORDS[word] for word in words[::-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """source.en and target.de, of which the command line made run/, and pairs.tsv."""
    path = tmp_path_factory.mktemp("translation")
    pairs = list(sentences(60))
    for name, side in (("source.en", 0), ("target.de", 1)):
        (path / name).write_text("".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8")
    (path / "pairs.tsv").write_text("".join("\t".join(pair) + "\n" for pair in pairs[:9]), encoding="utf-8")
    sizes = ["--preset", "tiny", "--encoder", "num_layers=1", "--vocabulary-size", "330", "--batch-tokens", "512"]
    command = ["train", str(path / "source.en"), str(path / "target.de"), "--output", str(path / "run")]
    assert main([*command, "--task", "translation", "--epochs", "2", "--checkpoint-every", "1", *sizes]) == 0
    return path


def test_a_run_of_the_command_line_is_whole(folder):
    model, tokenizer, labels = load_run(folder / "run")
    assert labels is None
    assert type(tokenizer) is PieceTokenizer
    assert load_task(folder / "run") is TRANSLATION
    assert (model.num_encoder_layers, model.num_decoder_layers, model.hidden_dim) == (1, 1, 32)
    summary = json.loads((folder / "run" / "training.json").read_text())
    assert set(summary["scores"]) == {"bleu", "chrf"}
    history = summary["histories"]["training"]
    assert {"loss", "accuracy", "perplexity", "val_loss", "val_accuracy", "val_perplexity"} <= set(history)
    assert history["val_perplexity"][-1] < history["val_perplexity"][0]
    assert summary["settings"]["translation_optimizer"] == {"learning_rate": 1e-3, "decay": "inverse_sqrt"}
    # Smoothed, the loss is above the logarithm of the perplexity, which is the plain cross-entropy.
    assert history["val_loss"][-1] > np.log(history["val_perplexity"][-1])


def test_translate_writes_a_line_for_each_line(folder, capfd):
    (folder / "lines.txt").write_text("the sea\n\nold ship\n", encoding="utf-8")
    lines = ["--file", str(folder / "lines.txt"), "--max-tokens", "4"]
    assert main(["translate", str(folder / "run"), "the wave", *lines]) == 0
    found = capfd.readouterr().out.splitlines()
    assert len(found) == 4
    assert found[2] == ""


def test_lines_end_where_those_of_training_do(folder, capfd, monkeypatch):
    odd = "a\fb\x0bc\x1cd\x85e\u2028f"
    (folder / "odd.txt").write_bytes(f"{odd}\r\n\n{odd}\n".encode())
    (folder / "empty.txt").touch()
    asked = []
    monkeypatch.setattr("krpe_tf.runs.translate_run", lambda run, texts, **options: asked.extend(texts) or texts)
    files = [part for name in ("odd.txt", "empty.txt") for part in ("--file", str(folder / name))]
    assert main(["translate", str(folder / "run"), *files]) == 0
    assert asked == [odd, "", odd]
    assert capfd.readouterr().out == "a b c d e f\n\na b c d e f\n"
    assert main(["translate", str(folder / "run"), *files[2:]]) == 2


def test_places_of_a_model_bound_its_sources(monkeypatch):
    monkeypatch.setattr(programs, "_takes_xla", lambda model: False)  # It compiles for seconds.
    tokenizer = ByteTokenizer()
    sizes = {"num_layers": 1, "feature_map": "softmax", "position_bias": None, "absolute_positions": 23}
    model = TRANSLATION.backbone.make("tiny", vocabulary_size=tokenizer.vocabulary_size, seed=0, **sizes)
    # 23 tokens fit, the next doubling of 16 does not.
    assert len(translate(model, tokenizer, ["", "a" * 21], "greedy", max_tokens=1)) == 2
    with pytest.raises(
        ValueError, match=r"`texts` must have at most 23 tokens each, .*Received: texts\[1\] of 24 tokens"
    ):
        translate(model, tokenizer, ["", "a" * 22], "greedy")
    settings = RunSettings(max_length=24)
    with pytest.raises(ValueError, match=r"`max_length` must be at most `absolute_positions`, 23. .*: max_length=24"):
        TRANSLATION.build(model, None, settings)
    assert TRANSLATION.build(model, None, RunSettings(max_length=23)) is model


def test_pairs_that_are_too_long_to_train_on_are_not_scored(monkeypatch):
    pairs = [{"source": each, "target": each.upper()} for each in ("ab", "c" * 40, "de", "fg")]
    corpus = build_corpus([{"source": "x", "target": "y"}], PAIRS, validation=pairs, tokenizer="bytes")
    asked = []
    monkeypatch.setattr(
        "krpe_tf.tasks.translation.translate", lambda *given: asked.extend(given[2]) or [x.upper() for x in given[2]]
    )
    assert TRANSLATION.scores(None, None, corpus, RunSettings(max_length=8))["chrf"] == pytest.approx(100)
    assert asked == ["ab", "de", "fg"]


def test_a_run_is_finished_even_if_its_scores_raise(folder, tmp_path):
    def scores(*given):
        raise ValueError("no scores")

    model, tokenizer, _ = load_run(folder / "run")
    corpus, task = Corpus(tokenizer, None, PAIRS.columns, {}), dataclasses.replace(TRANSLATION, scores=scores)
    state = RunState(tmp_path, task, RunSettings(), "data")
    state.begin(tokenizer, {})
    with pytest.raises(ValueError, match="no scores"):
        _save(state, model, corpus, object(), {}, RunSettings(), task)
    assert not (tmp_path / "checkpoints").exists()
    assert {"model.keras", "tokenizer.json", "training.json"} <= {path.name for path in tmp_path.iterdir()}


def test_evaluate_scores_the_likeliest_tokens_one_by_one(folder, capfd):
    options = ["--sampler", "greedy", "--max-tokens", "5"]
    assert main(["evaluate", str(folder / "run"), str(folder / "pairs.tsv"), *options]) == 0
    bleu, chrf = capfd.readouterr().out.splitlines()
    pairs = [line.split("\t") for line in (folder / "pairs.tsv").read_text().splitlines()]
    model, tokenizer, _ = load_run(folder / "run")
    inputs = tokenizer([source for source, _ in pairs])
    targets = np.full((len(pairs), 1), tokenizer.start_id)
    for _ in range(5):
        sources = {"source_ids": inputs["token_ids"], "source_mask": inputs["padding_mask"]}
        logits = model({**sources, "token_ids": targets, "padding_mask": np.ones_like(targets)})
        targets = np.concatenate([targets, keras.ops.convert_to_numpy(logits)[:, -1:].argmax(-1)], axis=1)
    ends = [[*row, tokenizer.end_id].index(tokenizer.end_id) for row in targets]
    expected = [tokenizer.decode(row[:end]) for row, end in zip(targets, ends, strict=True)]
    scores = score(expected, [target for _, target in pairs])
    assert bleu == f"BLEU {scores['bleu'][0]:.2f}  {scores['bleu'][1]}"
    assert chrf == f"chrF {scores['chrf'][0]:.2f}  {scores['chrf'][1]}"
    assert "|tok:13a|" in bleu


def test_scores_are_those_of_sacrebleu():
    assert score(["a b c d e"], ["a b c d e"])["bleu"][0] == pytest.approx(100)
    # Four matches of five words, three of four pairs, two of three, one of two: their geometric mean.
    assert score(["a b c d x"], ["a b c d e"])["bleu"][0] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 / 2) ** 0.25)
    with pytest.raises(ValueError, match=r"`tokenize` must be one of .*Received: tokenize='words'"):
        score(["a"], ["b"], "words")
    if importlib.util.find_spec("mecab_ko") is None:
        with pytest.raises(ValueError, match=r"`tokenize` needs .*\"sacrebleu\[ko\]\". Received: tokenize='ko-mecab'"):
            score(["a"], ["b"], "ko-mecab")


@pytest.mark.slow
def test_a_run_that_stops_resumes_to_the_same_weights(folder, monkeypatch):
    save, saved = Checkpoints.save, []

    def save_and_stop(self, *arguments):
        save(self, *arguments)
        saved.append(arguments[-1])
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    paths = [folder / "source.en", folder / "target.de"]
    with pytest.raises(KeyboardInterrupt):
        train_run(paths, folder / "stopped", task="translation", checkpoint_every=1, **SIZES)
    summary = train_run(paths, folder / "stopped", task="translation", checkpoint_every=1, **SIZES)
    assert saved == [f"training-{step}" for step in range(1, 5)]
    assert summary == json.loads((folder / "run" / "training.json").read_text())
    for weight, other in zip(load_run(folder / "stopped")[0].weights, load_run(folder / "run")[0].weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (weight, other)))


def test_a_prepared_corpus_gives_the_batches_of_one_in_memory(folder):
    source = [str(folder / name) for name in ("source.en", "target.de")]
    command = ["prepare", *source, "--output", str(folder / "prepared"), "--task", "translation"]
    assert main([*command, "--vocabulary-size", "330", "--validation-fraction", "0.2"]) == 0
    stored = load_corpus(folder / "prepared")
    assert choose_task(None, stored) is TRANSLATION
    assert stored.manifest["splits"]["train"]["fields"]["target_ids"] == {"dtype": "uint16", "ragged": True}
    pairs = open_source(source, PAIRS.columns)
    memory = build_corpus(pairs, PAIRS, validation=0.2, tokenizer=stored.tokenizer)
    settings = RunSettings(**SIZES)
    for split in ("train", "validation"):
        one, other = (TRANSLATION.batches(corpus, split, settings, 3, 1) for corpus in (stored, memory))
        assert all(same(one[step], other[step]) for step in range(one.steps_per_epoch + 1))


def test_sizes_of_a_preset_are_those_of_encoder_and_decoder():
    def make(**given):
        return TRANSLATION.backbone.make("tiny", vocabulary_size=9, seed=0, **given)

    model = make(num_layers=1, feature_map="softmax", position_bias=None)
    assert isinstance(model, EncoderDecoder)
    assert (model.num_encoder_layers, model.num_decoder_layers) == (1, 1)
    assert model.encoder_feature_map == model.decoder_feature_map == model.cross_feature_map == "softmax"
    assert model.encoder_position_bias is model.decoder_position_bias is None
    model = make(num_decoder_layers=1, cross_feature_map="softmax")
    assert (model.num_encoder_layers, model.num_decoder_layers) == (preset_arguments("tiny")["num_layers"], 1)
    assert (model.encoder_feature_map, model.cross_feature_map) == ("orthogonal", "softmax")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, r"`label_smoothing` must be a number in \[0, 1\)"),
        ({"batch_shapes": 0}, "`batch_shapes` must be an integer of at least 1"),
        ({"batch_shapes": 256}, "`batch_shapes` must be at most 255. Received: batch_shapes=256"),
        ({"encoder": {"length": 8}}, "`encoder` must hold values for .*Received: .*'length'"),
        ({"encoder": {"source_length": 8}}, "`encoder` must hold values for .*Received: .*'source_length'"),
        ({"translation_optimizer": {"rate": 1}}, "`translation_optimizer` must hold values for"),
        ({"encoder": {"causal": True}}, "`encoder` must hold values for .*num_decoder_layers.*Received: .*'causal'"),
        ({"tokenizer": "wordpiece"}, "`tokenizer` must be sentencepiece or bytes for the task 'translation'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make_recipe(TRANSLATION, RunSettings(**settings))


def test_the_encoder_options_of_translation_are_not_those_of_other_tasks():
    with pytest.raises(ValueError, match=r"`encoder` must hold values for .*Received: .*'num_decoder_layers'"):
        make_recipe(CAUSAL_LM, RunSettings(encoder={"num_decoder_layers": 1}))


def test_what_does_not_fit_is_refused(folder, tmp_path, capsys):
    pairs, run = folder / "pairs.tsv", folder / "run"
    with pytest.raises(ValueError, match=r"needs a tokenizer that gives the text back: .*a WordPieceTokenizer"):
        train_run(pairs, tmp_path / "run", task="translation", tokenizer=WordPieceTokenizer([*RESERVED_TOKENS, "a"]))
    with pytest.raises(
        ValueError, match=r"must hold some pair; a larger `max_length` makes larger ones. Received: 2 pairs"
    ):
        train_run(pairs, tmp_path / "run", task="translation", max_length=3, **SIZES)
    assert main(["train", str(pairs), str(pairs), "--output", str(tmp_path / "run")]) == 2
    assert "Two files have source and target, which is what --task translation takes" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.keras").exists()
    with pytest.raises(ValueError, match=r"'translation' does not; take `translate`, which translates with it"):
        predict_run(run, ["a"])
    with pytest.raises(ValueError, match=r"'translation' does not; take `translate`, which translates with it"):
        generate_run(run, "a")
    with pytest.raises(ValueError, match="`bias_tolerance` must be left out for the task 'translation'"):
        export_run(run, bias_tolerance=0.1)
    (tmp_path / "other").mkdir()
    for name in ("model.keras", "tokenizer.json", "training.json"):
        (tmp_path / "other" / name).touch()
    (tmp_path / "other" / "task.json").write_text('{"task": "text_classification"}')
    with pytest.raises(ValueError, match=r"must be of a task that translates: translation. Received: 'text_class"):
        translate_run(tmp_path / "other", ["a"])
    with pytest.raises(
        ValueError, match=r"`text_column` must be left out: `data` is read for source and target and doc"
    ):
        train_run(pairs, tmp_path / "run", task="translation", names={"text": "body"})
    corpus = Corpus(None, None, PAIRS.columns, {})
    with pytest.raises(
        ValueError, match=r"`document_column` must be left out: a prepared corpus has its columns already"
    ):
        train_run(corpus, tmp_path / "run", task="translation", names={"document": "page"})
    assert main(["translate", str(run)]) == 2
    assert "`text` must be given, or a `--file` that has lines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "best"}, "`sampler` must be one of 'beam', 'greedy'"),
        ({"num_beams": 0}, "`num_beams` must be an integer of at least 1. Received: num_beams=0"),
        ({"length_penalty": -1}, "`length_penalty` must be a number of at least 0. Received: length_penalty=-1"),
        ({"length_penalty": 1, "sampler": "greedy"}, "`length_penalty` must be left out with sampler='greedy'"),
        ({"temperature": 1.0}, "`temperature` must be left out with sampler='beam'"),
        ({"max_tokens": 0}, "`max_tokens` must be an integer of at least 1"),
        ({"seed": -1}, "`seed` must be an integer of at least 0"),
    ],
)
def test_bad_options(folder, options, message):
    with pytest.raises(ValueError, match=message):
        translate_run(folder / "run", ["the sea"], **options)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports trace on TensorFlow")
def test_the_exported_run_translates_as_keras_does(folder, capsys):
    """Pairs that were not trained on, by the paper's search and greedily."""
    run = folder / "run"
    texts = [source for source, _ in [*sentences(80)][60:]]
    expected = [translate_run(run, texts, sampler=sampler) for sampler in ("beam", "greedy")]
    drawn = translate_run(run, texts[:2], sampler="random", seed=1)
    assert main(["export", str(run), "--lengths", "32", "--no-measure"]) == 0
    assert "model.tflite" in capsys.readouterr().out
    assert [translate_run(run, texts, sampler=sampler) for sampler in ("beam", "greedy")] == expected
    assert translate_run(run, texts[:2], sampler="random", seed=1) == drawn
    assert any(text for each in expected for text in each)
    long = "the old ship " * 40
    with pytest.raises(ValueError, match=r"`texts\[0\]` must have from 1 to 32 tokens.*Received: \d+ tokens"):
        translate_run(run, [long])
