"""Text in, token ids out, on tensorflow-text's own tools.

TensorFlow is imported where it is used: neither importing this module nor reading a tokenizer for its ids needs it.
"""

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..checks import check_at_least
from ..files import write_text
from .checks import check_texts

if TYPE_CHECKING:
    import tensorflow as tf


class Tokenizer:
    """What the tokenizers share: ids between a start and an end token, as a model's inputs, and their files.

    Attributes: `vocabulary` (list of tokens), `vocabulary_size`, the ids `pad_id`, `unknown_id`, `start_id`, `end_id`
    and `mask_id` (None where a vocabulary has no such token), and `reserved_ids`, all of these; `reversible`, whether
    it gives the text back: then it is a `ReversibleTokenizer`.

    A subclass has `_pieces(texts)`, the texts' own ids, ragged int32; `get_config()`, what is saved; and, of the class,
    `_arguments(config)`, the constructor's arguments from it.
    """

    reversible = False
    vocabulary: list[str]
    pad_id: int
    unknown_id: int | None
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
        """Tokenize one text as `tokenize` does, without joining ragged tensors, for which LiteRT has no op.

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
            ValueError: For bad texts (see `check_texts`), or a text of more than `length` tokens: none is truncated.
        """
        if length is not None:
            check_at_least(1, length=length)
        arrays = self.encode(texts)
        counts = np.array([len(ids) for ids in arrays])
        longest = int(counts.argmax())
        if length is not None and counts[longest] > length:
            raise ValueError(
                f"`length` must hold every text, start and end included; texts[{longest}] has {counts[longest]} "
                f"tokens. Received: length={length}"
            )
        inside = np.arange(int(counts[longest]) if length is None else length) < counts[:, None]
        ids = np.full(inside.shape, self.pad_id, "int32")
        ids[inside] = np.concatenate(arrays)
        return {"token_ids": ids, "padding_mask": inside.astype("int32")}

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

    def get_config(self) -> dict:
        """Return what `save` writes."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike) -> None:
        """Write the tokenizer to one JSON file, whole or not at all.

        Raises:
            ValueError: If `path` is none that can be written.
            OSError: If the disk is full or fails.
        """
        try:
            write_text(path, json.dumps(self.get_config(), ensure_ascii=False))
        except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
            raise ValueError(f"`path` must be a writable file ({error.strerror}). Received: {path=}") from error

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
            raise ValueError(f"`path` must be a readable file ({error.strerror}). Received: {path=}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"`path` must be a file written by save(). Received: {path=}") from error
        try:
            return cls(**arguments)
        except TypeError as error:  # A part is of another type: null, for one.
            raise ValueError(f"`path` must be a file written by save(). Received: {path=}") from error
