"""Text through `LiteRTModel`: windows, any length, the compiled runtime; and the vocabulary beside the file."""

import io
import json

import numpy as np
import pytest
import sentencepiece
from ai_edge_litert.tools import flatbuffer_utils
from export_models import TEXTS, export_tflite, make_tokenizer, relative_error

from krpe_tf.export import LiteRTModel
from krpe_tf.export.vocabulary import vocabulary_files
from krpe_tf.files import companion
from krpe_tf.text import SentencePieceTokenizer, WordPieceTokenizer

MIXED = [*TEXTS, "🙂🙃 👩‍👩‍👧", "война и мир, law и peace", "שלום العالم the people", b"the law", "x" * 30]


@pytest.fixture(scope="module")
def classifier(shared):
    return shared.classifier


@pytest.fixture(scope="module")
def files(shared):
    """One file that windows are needed for, one for any length."""
    return {"fixed": shared.text[0], "free": shared.free[0]}


def in_windows(classifier, ids, largest):
    """The mean of the windows' logits, by their tokens: [CLS], a part of the text, [SEP]."""
    inside = ids[1:-1]
    windows = [
        np.concatenate([ids[:1], part, ids[-1:]])[np.newaxis]
        for part in np.array_split(inside, -(-len(inside) // (largest - 2)))
    ]
    assert all(window.shape[1] <= largest for window in windows)
    logits = [np.asarray(classifier({"token_ids": w, "padding_mask": np.ones_like(w)}), np.float64)[0] for w in windows]
    return np.average(logits, axis=0, weights=[window.shape[1] for window in windows])


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["interpreter", "compiled"])
def test_texts_of_any_kind(classifier, files, runtime):
    tokenizer = make_tokenizer()
    long = ["war and peace " * 100, "the people of the union " * 30]
    expected = np.concatenate([classifier(tokenizer([text])) for text in [*MIXED, *long]])
    free = LiteRTModel(files["free"], runtime=runtime)
    assert (free.lengths, free.any_length, free.reads_text) == ([16, 40], True, True)
    assert relative_error(free([*MIXED, *long]), expected) < 1e-5
    fixed = LiteRTModel(files["fixed"], runtime=runtime, too_long="windows")
    assert (fixed.lengths, fixed.any_length) == ([16, 40], False)
    expected[len(MIXED) :] = [in_windows(classifier, ids, 40) for ids in tokenizer.encode(long)]
    assert relative_error(fixed([*MIXED, *long]), expected) < 1e-5
    for model in (free, fixed):
        for bad in ([""], ["the law", " \n"], [b"\xff"], [], "the law", [3]):
            with pytest.raises(ValueError, match="texts"):
                model(bad)


@pytest.mark.slow
def test_two_megabytes_in_windows(classifier, files):
    text = "war and peace law " * 111_112
    result = LiteRTModel(files["fixed"], too_long="windows")([text])
    # All windows but the shorter ones at the end hold the same 38 tokens, at one of four places in the phrase.
    ids = make_tokenizer().encode([text])[0]
    inside = len(ids) - 2
    short = -(-inside // 38) * 38 - inside  # Windows with 37 tokens.
    starts = np.concatenate([np.arange(-(-inside // 38) - short) * 38, inside - np.arange(short, 0, -1) * 37])
    total, weight = np.zeros(3), 0
    for length in (37, 38):
        for phase in range(4):
            count = sum(
                1 for i, s in enumerate(starts) if (37 if i >= len(starts) - short else 38) == length and s % 4 == phase
            )
            window = np.concatenate([ids[:1], ids[1 + phase : 1 + phase + length], ids[-1:]])[np.newaxis]
            logits = np.asarray(classifier({"token_ids": window, "padding_mask": np.ones_like(window)}))[0]
            total, weight = total + count * (length + 2) * logits, weight + count * (length + 2)
    assert relative_error(result[0], total / weight) < 1e-5


@pytest.mark.slow
def test_the_first_graph_needs_no_text_ops(files):
    """Runtimes prepare the first graph of a file when they open it, also those that lack the tokenizer's ops."""
    for path in files.values():
        model = flatbuffer_utils.read_model(str(path))
        codes = [model.operatorCodes[op.opcodeIndex] for op in model.subgraphs[0].operators]
        assert all(code.customCode is None for code in codes)


@pytest.mark.slow
def test_the_vocabulary_lies_beside_the_file(classifier, files, tmp_path):
    tokenizer = make_tokenizer()
    lines = companion(files["free"], "vocab.txt").read_text(encoding="utf-8").split("\n")
    assert lines == [*tokenizer.vocabulary, ""]
    settings = json.loads(companion(files["free"], "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["do_lower_case"] is settings["strip_accents"] is True
    assert [settings[f"{name}_token"] for name in ("pad", "unk", "cls", "sep", "mask")] == tokenizer.vocabulary[:5]
    # The file and what lies beside it: all of them, or none.
    path = tmp_path / "model.tflite"
    (tmp_path / "model.vocab.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"`path` must be free.*model\.vocab\.txt"):
        export_tflite(classifier, path, (8,), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="nothing was written"):
        export_tflite(classifier, path, (8,), tokenizer=tokenizer, overwrite=True, tolerance=1e-30)
    assert [each.name for each in tmp_path.iterdir()] == ["model.vocab.txt"]
    assert (tmp_path / "model.vocab.txt").read_text() == "mine"


def test_vocabulary_files():
    assert vocabulary_files(None) == {}
    tokenizer = make_tokenizer()
    files = vocabulary_files(WordPieceTokenizer([*tokenizer.vocabulary[::-1], "Ünïon"], lowercase=False))
    assert files["vocab.txt"].decode().splitlines() == [*tokenizer.vocabulary[::-1], "Ünïon"]
    settings = json.loads(files["tokenizer_config.json"])
    assert settings["do_lower_case"] is settings["strip_accents"] is False
    assert settings["cls_token"] == "[CLS]"
    assert settings["max_word_bytes"] is None
    assert "stripped_marks" not in settings
    settings = json.loads(vocabulary_files(tokenizer)["tokenizer_config.json"])
    assert settings["strip_accents"] is True
    assert settings["stripped_marks"][0] == ["0300", "036F"]
    as_bert = WordPieceTokenizer(tokenizer.vocabulary, keep_marks=False, max_word_bytes=100)
    settings = json.loads(vocabulary_files(as_bert)["tokenizer_config.json"])
    assert settings["max_word_bytes"] == 100
    assert "stripped_marks" not in settings
    with pytest.raises(ValueError, match=r"no token with a line break. Received: a tokenizer with 'a\\nb'"):
        vocabulary_files(WordPieceTokenizer([*tokenizer.vocabulary, "a\nb"]))


def test_vocabulary_files_of_sentencepiece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["war and peace, law and the people of the union"] * 20),
        model_writer=model,
        minloglevel=2,
        vocab_size=23,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
    )
    tokenizer = SentencePieceTokenizer(model.getvalue())
    files = vocabulary_files(tokenizer)
    assert sorted(files) == ["spiece.model", "tokenizer_config.json"]
    settings = json.loads(files["tokenizer_config.json"])
    assert [settings[f"{name}_token"] for name in ("pad", "unk", "bos", "eos")] == ["<pad>", "<unk>", "<s>", "</s>"]
    other = sentencepiece.SentencePieceProcessor(
        model_proto=files["spiece.model"], add_bos=settings["add_bos_token"], add_eos=settings["add_eos_token"]
    )
    for text, ids in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
        assert other.encode(text) == ids.tolist()
