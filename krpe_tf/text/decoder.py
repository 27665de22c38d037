"""Text of token ids, as they come."""

import codecs
from collections.abc import Iterable, Sequence

import numpy as np


class TextDecoder:
    """Turn ids into text as they come, and never half a character; `ReversibleTokenizer.decoder` makes one.

    Bytes that begin a character wait for the others. Bytes that no UTF-8 has become U+FFFD. What `push` and `finish`
    return, joined, is what `decode` returns of all ids.

    Args:
        pieces: The bytes of text that each id stands for.
    """

    def __init__(self, pieces: Sequence[bytes]):
        self._pieces = pieces
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: int | Iterable[int]) -> str:
        """Return the text that is certain once these ids have come.

        Args:
            ids: One id or several.

        Raises:
            ValueError: For ids that are no integers, or out of range.
        """
        return self._utf8.decode(b"".join(self._pieces[each] for each in self._check(ids)))

    def finish(self) -> str:
        """Return what is left at the end of the text: U+FFFD for a character that is not whole. Then start anew."""
        left = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return left

    def _check(self, ids: int | Iterable[int]) -> list[int]:
        array = np.atleast_1d(np.asarray(ids if hasattr(ids, "__array__") or not isinstance(ids, Iterable) else [*ids]))
        if not array.size:
            return []
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"`ids` must be integers, of one text. Received: ids={ids!r:.80}")
        wrong = array[(array < 0) | (array >= len(self._pieces))]
        if len(wrong):
            raise ValueError(
                f"`ids` must be of the vocabulary, from 0 to {len(self._pieces) - 1}. Received: {int(wrong[0])}"
            )
        return array.tolist()
