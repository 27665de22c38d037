"""Learning a WordPiece vocabulary: words counted by tensorflow-text, pieces found by SentencePiece's byte pairs."""

import io
import logging
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow_text as tf_text

logger = logging.getLogger(__name__)

RESERVED_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# What pieces are learned from, for each place of the vocabulary: it bounds the time, whatever the words are. A distinct
# word of English has 8 characters; where words are longer, fewer of them are taken.
WORDS, CHARACTERS = 4, 64

# Of a longer word the beginning is learned from: SentencePiece takes 65,535 characters.
LONGEST_WORD, LONGEST_PIECE = 10_000, 50

# Characters come before pieces on half of the places, or on these many.
FIRST_CHARACTERS = 2000

# Byte pairs leave pieces that longer ones swallow. Of a quarter more than wanted those stay that the words are split
# into most: 3 to 4 % fewer tokens of English with a vocabulary of 1,000, and 1 to 2 % with 8,192.
SURPLUS = 1.25

# SentencePiece's own signs, of a space and of an unknown character.
SENTENCEPIECE = re.compile("[\u2581\u2585]")

# Each halves the pieces that stand only once.
ROUNDS = 20

SAY_EVERY = 10  # seconds

# BERT's: a character of these is a word of its own, and "##" of it stands nowhere.
CJK = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f]"
)
ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def learn_pieces(texts: list[str], vocabulary_size: int, normalizer: "tf_text.FastBertNormalizer") -> list[str]:
    """Return what `train_wordpiece` says, of checked texts that this normaliser normalises."""
    words = _count_words(texts, normalizer)
    room = vocabulary_size - len(RESERVED_TOKENS)
    found, joined = Counter(), set()
    for word, count in words.items():
        for character in word:
            found[character] += count
        if len(word) > 1:
            joined.update(word)
    ranked = sorted(found, key=lambda each: (-found[each], each))
    forms = {c: [c] if _stands_alone(c) and c not in joined else [c, f"##{c}"] for c in ranked}
    characters = _first(ranked, forms, max(room // 2, min(room, FIRST_CHARACTERS)))
    pieces = _learn(_sample(words, characters, vocabulary_size), room - sum(len(forms[each]) for each in characters))
    characters += _first(ranked[len(characters) :], forms, room - len(pieces) - sum(len(forms[c]) for c in characters))
    alphabet = sorted(form for each in characters for form in forms[each])
    return [*RESERVED_TOKENS, *alphabet, *pieces]


def _count_words(texts: list[str], normalizer: "tf_text.FastBertNormalizer") -> Counter:
    """Count the words that FastWordpieceTokenizer finds, by asking one that has no pieces for their places."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    words, said = Counter(), time.monotonic()
    with tf.init_scope():
        splitter = tf_text.FastWordpieceTokenizer(["[UNK]", "\ue000"], max_bytes_per_word=2**30)
        for start in range(0, len(texts), 16):
            normalised = normalizer.normalize(texts[start : start + 16])
            _, begins, ends = splitter.tokenize_with_offsets(normalised)
            for text, row, ends_of_row in zip(normalised.numpy(), begins.to_list(), ends.to_list(), strict=True):
                words.update(text[a:b] for a, b in zip(row, ends_of_row, strict=True))
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                logger.info("counted the words of %s of %s texts", f"{start + 16:,}", f"{len(texts):,}")
    return Counter({word.decode(): count for word, count in words.items()})


def _stands_alone(character: str) -> bool:
    return (
        character in ASCII_PUNCTUATION
        or unicodedata.category(character).startswith("P")
        or CJK.match(character) is not None
    )


def _first(ranked: list[str], forms: Mapping[str, list[str]], places: int) -> list[str]:
    """Return the first characters whose forms fit into so many places."""
    ends = np.cumsum([len(forms[each]) for each in ranked])
    return ranked[: int(np.searchsorted(ends, places, side="right"))]


def _sample(words: Counter, characters: Iterable[str], vocabulary_size: int) -> dict[str, int]:
    """Return the commonest words that are of these characters, as many as are learned from."""
    known, sample, room = frozenset(characters), Counter(), CHARACTERS * vocabulary_size
    for word, count in words.most_common():
        word = word[: min(room, LONGEST_WORD)]
        if len(word) > 1 and known.issuperset(word) and not SENTENCEPIECE.search(word):
            sample[word] += count
            room -= len(word)
        if len(sample) == WORDS * vocabulary_size or not room:
            break
    return sample


def _learn(words: Mapping[str, int], places: int) -> list[str]:
    """Return at most so many pieces of two characters and more, most used first."""
    if not words or places < 1:
        return []
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    characters = {character for word in words for character in word}
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=(f"{word}\t{count}" for word, count in words.items()),
        input_format="tsv",
        max_sentence_length=8 * LONGEST_WORD,
        model_writer=model,
        model_type="bpe",
        vocab_size=len(characters) + int(SURPLUS * places) + 4,  # Its own: <unk>, <s>, </s> and the space.
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        max_sentencepiece_length=LONGEST_PIECE,
        split_by_number=False,
        split_by_unicode_script=False,
        minloglevel=2,
    )
    learned = SentencePieceProcessor(model_proto=model.getvalue())
    found = [learned.id_to_piece(index) for index in range(3, learned.get_piece_size())]
    found = [piece[1:] if piece.startswith("\u2581") else f"##{piece}" for piece in found]
    single = [form for each in sorted(characters) for form in (each, f"##{each}")]
    alphabet = frozenset(single)
    candidates = [piece for piece in dict.fromkeys(found) if piece and piece not in alphabet]
    # It goes on when no pair stands twice. Of pieces that stand once those learned last go first: they hide others.
    for _ in range(ROUNDS):
        used = _uses(words, single, candidates)
        rare = [piece for piece in candidates if used[piece] < 2]
        if not rare:
            break
        dropped = frozenset(rare[len(rare) // 2 :])
        candidates = [piece for piece in candidates if piece not in dropped]
    return sorted(candidates, key=used.__getitem__, reverse=True)[:places]


def _uses(words: Mapping[str, int], single: list[str], candidates: list[str]) -> dict[str, int]:
    """Return how often each of the candidates stands in these words, split by the longest piece first."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    vocabulary = ["[UNK]", *single, *candidates]
    with tf.init_scope():
        tokenizer = tf_text.FastWordpieceTokenizer(
            vocabulary, max_bytes_per_word=2**30, token_out_type=tf.int32, no_pretokenization=True
        )
        ids = tokenizer.tokenize(list(words))
        counts = np.repeat(list(words.values()), ids.row_lengths().numpy())
    uses = np.bincount(ids.flat_values.numpy(), counts, minlength=len(vocabulary))
    return dict(zip(candidates, uses[1 + len(single) :].astype("int64").tolist(), strict=True))
