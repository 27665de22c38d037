"""Text in, token ids out, on tensorflow-text's own tools; masked-LM batches come from `batches`.

TensorFlow is imported where it is used: importing this module, and `check_texts`, need neither it nor tensorflow-text.
"""

import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._checks import check_at_least
from ._folders import write_text
from .batches import masked_lm_dataset as masked_lm_dataset

if TYPE_CHECKING:
    import tensorflow as tf

RESERVED_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def check_texts(texts: Iterable[str | bytes]) -> list[str]:
    """Return `texts` as a list of `str`, or say what is wrong with them.

    The tokenizer itself takes anything: invalid UTF-8 and empty texts give ids without an error.

    Args:
        texts: The texts, `str` or UTF-8 `bytes`. A single string is refused, it would be read as a list of characters.

    Returns:
        The texts, decoded and otherwise unchanged.

    Raises:
        ValueError: For a single string, no texts at all, an element that is not a string, invalid UTF-8, or a text
            with nothing but white space and invisible characters.
    """
    if isinstance(texts, (str, bytes)):
        raise ValueError(f"texts must be a list of texts, not one text: wrap it in []. Received: texts={texts[:40]!r}")
    if not isinstance(texts, Iterable):
        raise ValueError(f"texts must be a list of texts. Received: texts={texts!r}")
    checked = [_check_text(text, f"texts[{index}]") for index, text in enumerate(texts)]
    if not checked:
        raise ValueError("texts must hold at least one text. Received: texts=[]")
    return checked


def _check_text(text: object, name: str) -> str:
    if not isinstance(text, (str, bytes)):
        raise ValueError(f"texts must hold str or bytes only. Received: {name}={text!r} of type {type(text).__name__}")
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        text.encode("utf-8")  # A str can hold lone surrogates, which no UTF-8 can.
    except UnicodeError as error:
        raise ValueError(f"texts must be valid UTF-8 ({error.reason}). Received: {name}={text[:40]!r}") from error
    if not is_visible(text):
        raise ValueError(f"texts must not hold empty texts. Received: {name}={text[:40]!r}")
    return text


def is_visible(text: str) -> bool:
    """Whether a text holds more than white space and invisible characters."""
    return any(not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf") for char in text)


def train_wordpiece(texts: Iterable[str], vocabulary_size: int, lowercase: bool = True) -> list[str]:
    """Train a WordPiece vocabulary with tensorflow-text's `bert_vocab_from_dataset`.

    The same texts give the same vocabulary. 12 MB of English and 8,192 tokens take about 15 seconds on one core; more
    text adds the counting of its words and no more, since only the 4 * `vocabulary_size` commonest are learned from.

    Args:
        texts: Texts to learn from, `str` or UTF-8 `bytes`.
        vocabulary_size: The most tokens to return, `RESERVED_TOKENS` included. Few texts give fewer.
        lowercase: Learn from lowercase text without accents, as a tokenizer with `lowercase=True` sees it.

    Returns:
        The tokens, most frequent first after the reserved ones ([PAD] [UNK] [CLS] [SEP] [MASK], ids 0 to 4) and the
        single characters.

    Raises:
        ValueError: For bad texts (see `check_texts`) or a `vocabulary_size` that is not an integer of 32 or more.
    """
    check_at_least(32, vocabulary_size=vocabulary_size)
    # The trainer splits at ASCII white space only, FastBertTokenizer at all of it: no word may hold a no-break space.
    texts = [" ".join(text.split()) for text in check_texts(texts)]

    import tensorflow as tf
    from tensorflow_text.tools.wordpiece_vocab import bert_vocab_from_dataset

    learned = bert_vocab_from_dataset.bert_vocab_from_dataset(
        tf.data.Dataset.from_tensor_slices(texts).batch(16),
        vocab_size=vocabulary_size,
        reserved_tokens=list(RESERVED_TOKENS),
        bert_tokenizer_params={"lower_case": lowercase},
        learn_params={
            # The tool bisects for a count threshold, seconds a step, from the commonest word's count down. The answer
            # was 36 to 97 times below characters / vocabulary_size (English, 1k and 8k tokens): start at an eighth of
            # that. Two rounds of re-segmenting instead of four cost 0.2 % more tokens there.
            "upper_thresh": max(2, sum(map(len, texts)) // (8 * vocabulary_size)),
            "lower_thresh": 2,
            "num_iterations": 2,
            "max_input_tokens": 4 * vocabulary_size,
            "max_unique_chars": min(1000, (vocabulary_size - len(RESERVED_TOKENS)) // 2),
        },
    )
    # The bisection may end a step above the size: drop the rarest pieces, but no character, or words turn unknown.
    essential = {token for token in learned if token in RESERVED_TOKENS or len(token.removeprefix("##")) == 1}
    longer = [token for token in learned if token not in essential]
    kept = essential.union(longer[: vocabulary_size - len(essential)])
    return [token for token in learned if token in kept]


class Tokenizer:
    """What the tokenizers share: ids between a start and an end token, as a model's inputs, and their files.

    Attributes: `vocabulary` (list of tokens), `vocabulary_size`, the ids `pad_id`, `unknown_id`, `start_id`, `end_id`
    and `mask_id` (None where a vocabulary has no mask), and `reserved_ids`, all of these.

    A subclass has `_pieces(texts)`, the texts' own ids, ragged int32; `_config()`, what is saved; and, of the class,
    `_arguments(config)`, the constructor's arguments from it.
    """

    vocabulary: list[str]
    pad_id: int
    unknown_id: int
    start_id: int
    end_id: int
    mask_id: int | None

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return len(self.vocabulary)

    @property
    def reserved_ids(self) -> set[int]:
        """The ids of the tokens that stand for no text."""
        return {self.pad_id, self.unknown_id, self.start_id, self.end_id, self.mask_id} - {None}

    def tokenize(self, texts: "tf.Tensor") -> "tf.RaggedTensor":
        """Tokenize inside a graph: for `tf.data` and `tf.function`, so nothing is checked.

        Args:
            texts: String tensor `(batch,)`, UTF-8.

        Returns:
            Ragged int32 `(batch, None)`: the start token, the text's ids, the end token.
        """
        import tensorflow_text as tf_text

        ids, _ = tf_text.combine_segments(
            [self._pieces(texts)], start_of_sequence_id=self.start_id, end_of_segment_id=self.end_id
        )
        return ids

    def tokenize_one(self, text: "tf.Tensor") -> "tf.Tensor":
        """What `tokenize` does for one text, without joining ragged tensors, for which LiteRT has no op.

        Args:
            text: String tensor `(1,)`, UTF-8.

        Returns:
            int32 `(1, count)`.
        """
        import tensorflow as tf

        ids = tf.concat([[self.start_id], self._pieces(text).flat_values, [self.end_id]], axis=0)[tf.newaxis]
        return tf.ensure_shape(ids, (1, None))

    def __call__(self, texts: Iterable[str | bytes], length: int | None = None) -> dict[str, np.ndarray]:
        """Check and tokenize texts into a model's inputs.

        Args:
            texts: Texts, `str` or UTF-8 `bytes`; not a single string.
            length: Tokens to pad to; without it the longest text's count.

        Returns:
            `{"token_ids": int32 (batch, length), "padding_mask": int32 (batch, length)}`; the mask is 1 on tokens and
            0 on padding.

        Raises:
            ValueError: For bad texts (see `check_texts`), or a text with more than `length` tokens: nothing is cut.
        """
        if length is not None:
            check_at_least(1, length=length)
        ids = self.tokenize(check_texts(texts))
        counts = ids.row_lengths().numpy()
        longest = int(counts.argmax())
        if length is not None and counts[longest] > length:
            raise ValueError(
                f"length must hold every text, start and end included; texts[{longest}] has {counts[longest]} "
                f"tokens. Received: length={length}"
            )
        length = int(counts[longest]) if length is None else length
        return {
            "token_ids": ids.to_tensor(self.pad_id, shape=(None, length)).numpy(),
            "padding_mask": (np.arange(length) < counts[:, None]).astype("int32"),
        }

    def encode(self, texts: Iterable[str | bytes]) -> list[np.ndarray]:
        """Check and tokenize whole documents, a few at a time.

        Args:
            texts: Texts, `str` or UTF-8 `bytes`; not a single string.

        Returns:
            An int32 array `(tokens,)` per text: the start token, the text's ids, the end token.

        Raises:
            ValueError: For bad texts (see `check_texts`).
        """
        texts = check_texts(texts)
        arrays = []
        for start in range(0, len(texts), 64):
            ids = self.tokenize(texts[start : start + 64])
            arrays += np.split(ids.flat_values.numpy(), ids.row_splits.numpy()[1:-1])
        return arrays

    def save(self, path: str | os.PathLike) -> None:
        """Write the tokenizer to one JSON file, whole or not at all.

        Raises:
            ValueError: If `path` is none that can be written.
            OSError: If the disk is full or fails.
        """
        try:
            write_text(path, json.dumps(self._config(), ensure_ascii=False))
        except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
            raise ValueError(f"path must be a writable file ({error.strerror}). Received: {path=}") from error

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Read a tokenizer that `save` wrote.

        Raises:
            ValueError: If `path` is missing, is not such a file, or holds a vocabulary that the class refuses.
        """
        try:
            with open(path, encoding="utf-8") as file:
                saved = json.load(file)
            arguments = cls._arguments(saved)
        except OSError as error:
            raise ValueError(f"path must be a readable file ({error.strerror}). Received: {path=}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"path must be a file written by save(). Received: {path=}") from error
        return cls(**arguments)


class WordPieceTokenizer(Tokenizer):
    """WordPiece tokens between [CLS] and [SEP], by tensorflow-text's `FastBertTokenizer`.

    Reserved tokens written in a text ("[MASK]") are plain characters: text cannot produce their ids, save [UNK].

    Attributes: `vocabulary` (list of tokens), `vocabulary_size`, `lowercase`, the ids `pad_id`, `unknown_id`,
    `start_id` ([CLS]), `end_id` ([SEP]) and `mask_id`, and `wordpieces`, the `FastBertTokenizer` itself.

    Args:
        vocabulary: Distinct tokens, each one's place is its id; continuing pieces start with "##". It must hold
            `RESERVED_TOKENS`, anywhere. BERT's own vocabularies fit.
        lowercase: Lowercase the text and strip accents first.

    Raises:
        ValueError: For reserved tokens that are missing, tokens twice, or tokens that are not non-empty strings.
    """

    def __init__(self, vocabulary: Sequence[str], lowercase: bool = True):
        import tensorflow as tf
        import tensorflow_text as tf_text

        vocabulary = list(vocabulary)
        wrong = [token for token in vocabulary if not isinstance(token, str) or not token]
        if wrong:
            raise ValueError(f"vocabulary must hold non-empty strings only. Received: {wrong[0]!r}")
        ids = {token: index for index, token in enumerate(vocabulary)}
        missing = [token for token in RESERVED_TOKENS if token not in ids]
        if missing:
            raise ValueError(f"vocabulary must hold {RESERVED_TOKENS}. Received: vocabulary without {missing}")
        if len(ids) < len(vocabulary):
            twice = next(token for index, token in enumerate(vocabulary) if ids[token] != index)
            raise ValueError(f"vocabulary must hold each token once. Received: {twice!r} more than once")
        self.vocabulary = vocabulary
        self.lowercase = bool(lowercase)
        self.pad_id, self.unknown_id, self.start_id, self.end_id, self.mask_id = (ids[t] for t in RESERVED_TOKENS)
        self.wordpieces = tf_text.FastBertTokenizer(
            vocabulary, token_out_type=tf.int32, unknown_token="[UNK]", lower_case_nfd_strip_accents=self.lowercase
        )

    def _pieces(self, texts: "tf.Tensor") -> "tf.RaggedTensor":
        return self.wordpieces.tokenize(texts)

    def _config(self) -> dict:
        return {"lowercase": self.lowercase, "vocabulary": self.vocabulary}

    @classmethod
    def _arguments(cls, config: dict) -> dict:
        return {name: config[name] for name in ("vocabulary", "lowercase")}
