"""WordPiece: a vocabulary learned from texts, and its tokenizer, on tensorflow-text's own tools."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ..checks import check_at_least
from .checks import check_texts
from .normalizer import STRIPPED_MARKS, make_normalizer, normalizer_model
from .tokenizer import Tokenizer
from .vocabulary import RESERVED_TOKENS, learn_pieces

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_text as tf_text

# No word is too long. A word's bytes are counted in 32 bits.
NO_LIMIT = 2**30

# What a file of 0.1 or 0.2 leaves unsaid.
OLD_SETTINGS = {"keep_marks": False, "max_word_bytes": 100}


def train_wordpiece(
    texts: Iterable[str], vocabulary_size: int, lowercase: bool = True, keep_marks: bool = True
) -> list[str]:
    """Learn a WordPiece vocabulary.

    The same texts give the same vocabulary. Words are counted at about 15 MB of English a second on one core. What
    follows is bounded by `vocabulary_size`, whatever the words are: pieces are learned, by byte pairs, from the
    commonest words, at most 4 * `vocabulary_size` of them and 64 * `vocabulary_size` characters; of a word of more
    than 10,000 characters, from its beginning. That takes 1 to 3 seconds for 8,192 tokens, and
    20 for 100,000.

    Characters come first, by their count, on half of the places, or on 2,000 if that is more, and then on what pieces
    leave. A character has two places, "x" and "##x"; punctuation and Chinese characters, which are words, have one.

    Args:
        texts: Texts to learn from, `str` or UTF-8 `bytes`.
        vocabulary_size: The most tokens to return, `RESERVED_TOKENS` included. Few texts give fewer.
        lowercase, keep_marks: Of the tokenizer, see `WordPieceTokenizer`.

    Returns:
        The tokens: the reserved ones (`[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`: ids 0 to 4), single characters, and
        pieces, the most used first.

    Raises:
        ValueError: For bad texts (see `check_texts`) or a `vocabulary_size` that is not an integer of 32 or more.
    """
    check_at_least(32, vocabulary_size=vocabulary_size)
    return learn_pieces(check_texts(texts), vocabulary_size, make_normalizer(lowercase, keep_marks))


class WordPieceTokenizer(Tokenizer):
    """WordPiece tokens between [CLS] and [SEP], by tensorflow-text's `FastBertTokenizer`.

    Reserved tokens written in a text ("[MASK]") are plain characters: text cannot produce their ids, save [UNK].

    Attributes: `vocabulary` (list of tokens), `vocabulary_size`, `lowercase`, `keep_marks`, `max_word_bytes`, the ids
    `pad_id`, `unknown_id`, `start_id` ([CLS]), `end_id` ([SEP]) and `mask_id`, and `wordpieces`, the
    `FastBertTokenizer` itself.

    Args:
        vocabulary: Distinct tokens, each one's place is its id; continuing pieces start with "##". It must hold
            `RESERVED_TOKENS`, anywhere. BERT's own vocabularies fit.
        lowercase: Lowercase the text first, and strip the marks of Latin, Greek and Cyrillic letters: accents.
        keep_marks: In lowercase text, keep the marks of other scripts: vowel signs of Hindi, tones of Thai. False
            strips them too, as BERT does, and krpe_tf 0.1 and 0.2 did.
        max_word_bytes: A word of more bytes becomes [UNK]; None for no limit. 100 in BERT, and in krpe_tf 0.1 and 0.2.

    `load` reads a file of 0.1 or 0.2 with the settings of then: the same ids. `stripped_marks`, of the class, holds the
    first and the last character of each range that is stripped where `keep_marks` is true.

    Raises:
        ValueError: For reserved tokens that are missing, tokens twice, or tokens that are not non-empty strings.
    """

    stripped_marks = STRIPPED_MARKS

    def __init__(
        self,
        vocabulary: Sequence[str],
        lowercase: bool = True,
        keep_marks: bool = True,
        max_word_bytes: int | None = None,
    ):
        if max_word_bytes is not None:
            check_at_least(1, max_word_bytes=max_word_bytes)
        vocabulary = list(vocabulary)
        wrong = [token for token in vocabulary if not isinstance(token, str) or not token]
        if wrong:
            raise ValueError(f"`vocabulary` must hold non-empty strings only. Received: {wrong[0]!r}")
        ids = {token: index for index, token in enumerate(vocabulary)}
        missing = [token for token in RESERVED_TOKENS if token not in ids]
        if missing:
            raise ValueError(f"`vocabulary` must hold {RESERVED_TOKENS}. Received: vocabulary without {missing}")
        if len(ids) < len(vocabulary):
            twice = next(token for index, token in enumerate(vocabulary) if ids[token] != index)
            raise ValueError(f"`vocabulary` must hold each token once. Received: {twice!r} more than once")
        self.vocabulary = vocabulary
        self.lowercase, self.keep_marks, self.max_word_bytes = bool(lowercase), bool(keep_marks), max_word_bytes
        self.pad_id, self.unknown_id, self.start_id, self.end_id, self.mask_id = (ids[t] for t in RESERVED_TOKENS)

    @cached_property
    def wordpieces(self) -> "tf_text.FastBertTokenizer":
        """The `FastBertTokenizer`, made when first used: the ids alone need no TensorFlow."""
        import tensorflow as tf
        import tensorflow_text as tf_text

        with tf.init_scope():  # Its tables must not belong to a graph that happens to be traced.
            try:
                return tf_text.FastBertTokenizer(
                    self.vocabulary,
                    token_out_type=tf.int32,
                    unknown_token="[UNK]",
                    max_bytes_per_word=self.max_word_bytes or NO_LIMIT,
                    lower_case_nfd_strip_accents=self.lowercase,
                    fast_bert_normalizer_model_buffer=normalizer_model(self.lowercase, self.keep_marks),
                )
            except RuntimeError as error:  # "No valid vocab tokens were found to build the trie."
                raise ValueError(
                    "`vocabulary` must hold tokens that words can be split into, or all of every text is lost; for "
                    f"texts that WordPiece cannot split take a SentencePieceTokenizer ({error}). "
                    f"Received: {self.vocabulary_size} tokens"
                ) from error

    def _pieces(self, texts: "tf.Tensor") -> "tf.RaggedTensor":
        return self.wordpieces.tokenize(texts)

    def get_config(self) -> dict:
        """Return what `save` writes."""
        settings = {name: getattr(self, name) for name in OLD_SETTINGS}
        changed = {name: value for name, value in settings.items() if value != OLD_SETTINGS[name]}
        return {"lowercase": self.lowercase, **changed, "vocabulary": self.vocabulary}

    @classmethod
    def _arguments(cls, config: dict) -> dict:
        given = {name: config[name] for name in ("vocabulary", "lowercase")}
        return {**given, **{name: config.get(name, value) for name, value in OLD_SETTINGS.items()}}
