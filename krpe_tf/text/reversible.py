"""Tokenizers that give the text back, of which TensorFlow knows nothing."""

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from .checks import check_texts
from .decoder import TextDecoder
from .tokenizer import Tokenizer


class ReversibleTokenizer(Tokenizer):
    """What the tokenizers share whose `decode` gives back exactly what was encoded: white space, case, any Unicode.

    They need no TensorFlow, and so are no part of a graph or of a SavedModel. Every text is theirs, the empty one and
    white space too. Names of reserved tokens in a text (`<s>`) are plain characters.

    Attributes: those of `Tokenizer`; `pieces`, the bytes of text that each id stands for, none for reserved ids.

    A subclass has `_ids(text)`, a text's own ids.
    """

    reversible = True
    mask_id = None
    pieces: list[bytes]

    def encode(self, texts: Iterable[str | bytes]) -> list[np.ndarray]:
        """Check and tokenize whole texts.

        Args:
            texts: Texts, `str` or UTF-8 `bytes`; not a single string.

        Returns:
            An int32 array `(tokens,)` per text: the start token, the text's ids, the end token.

        Raises:
            ValueError: For what are no texts: a single string, no element, invalid UTF-8.
        """
        ends = [self.start_id], [self.end_id]
        texts = check_texts(texts, visible=False)
        return [np.concatenate([ends[0], self._ids(text), ends[1]]).astype("int32") for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids. Reserved ids give none; bytes that no UTF-8 has, as a model may write them, U+FFFD.

        Raises:
            ValueError: For ids that are no integers, or out of range.
        """
        decoder = self.decoder()
        return decoder.push(ids) + decoder.finish()

    def decoder(self) -> TextDecoder:
        """Make what turns ids into text as they come."""
        return TextDecoder(self.pieces)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """How many bytes of text each id stands for, int32 `(vocabulary_size,)`; 0 for reserved ids."""
        return np.array([len(piece) for piece in self.pieces], "int32")

    def tokenize(self, texts):
        """Raise a ValueError: the ids are made outside of graphs, by `encode`."""
        raise ValueError(
            f"{type(self).__name__} is no part of a graph: call it, or its `encode`. Received: texts={texts!r:.80}"
        )

    tokenize_one = tokenize

    def _ids(self, text: str) -> np.ndarray | list[int]:
        raise NotImplementedError
