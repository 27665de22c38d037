"""Touching windows of documents, in random order; short ones share a row if they are packed."""

import functools
from typing import Any, Protocol

import numpy as np

from ..checks import check_at_least
from .batches import Array, Batches
from .packing import pack
from .ragged import Ragged, count_within


class Transform(Protocol):
    """What `windows` does to a batch: `masking` makes one. A batch is a tuple whose first part is a dict of inputs."""

    def signature(self, rows: int, length: int) -> Any:
        """Return a batch with an `Array` in place of each array."""

    def __call__(self, ids: np.ndarray, seed: tuple[int, ...], first_row: int, batch_size: int) -> Any:
        """Make a batch, or a process's rows of it, the same however many of its rows are given.

        Args:
            ids: int32 `(rows, length)`, padded.
            seed: Integers, others for every batch.
            first_row: Place of the first of these rows in the whole batch.
            batch_size: Rows of the whole batch.
        """


class _Plain:
    """The windows as they are."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def signature(self, rows: int, length: int) -> tuple:
        tokens = Array((rows, length), "int32")
        return ({"token_ids": tokens, "padding_mask": tokens},)

    def __call__(self, ids: np.ndarray, seed: tuple[int, ...], first_row: int, batch_size: int) -> tuple:
        return ({"token_ids": ids, "padding_mask": (ids != self.pad_id).astype("int32")},)


def window_counts(lengths: np.ndarray, length: int) -> np.ndarray:
    """Count the windows of `length` tokens that cover each document of these token counts, [CLS] and [SEP] included.

    A last window that would hold nothing but [SEP] is none: it is no text.
    """
    return -(-(lengths - 1) // length)


def windows(
    sequences: Ragged,
    length: int,
    batch_size: int,
    *,
    pad_id: int,
    seed: int = 0,
    shuffle: bool = True,
    batch_multiple: int = 1,
    transform: Transform | None = None,
    packing: bool = False,
) -> Batches:
    """Make `Batches` of windows: documents are split into touching windows, and the last one is padded.

    Every window comes once an epoch. The last batch of an epoch is filled with rows of padding.

    With `packing`, windows that leave room share a row, each as it is, from its [CLS] to its [SEP]; which ones follows
    from their lengths alone. The inputs then hold "segment_ids" too, int32 `(batch_size, length)`, by which models keep
    them apart: the number of the window in its row, from 1 on, and 0 in padding.

    Args:
        sequences: The documents' token ids, between [CLS] and [SEP].
        length: Tokens a window, at least 3.
        batch_size: Windows a batch.
        pad_id: What fills a row.
        seed: For the order and for `transform`, 0 or more.
        shuffle: Draw a new order and call `transform` with new seeds each epoch. False: the documents' order, and the
            same seeds in every epoch.
        batch_multiple: What must divide `batch_size`: the number of devices or processes.
        transform: Makes a batch of a batch's ids, see `Transform`; None for `({"token_ids", "padding_mask"},)`, int32
            `(batch_size, length)`.
        packing: Whether short windows share a row.

    Raises:
        ValueError: For no windows, or numbers outside the ranges above.
    """
    check_at_least(3, length=length)
    check_at_least(1, batch_size=batch_size, batch_multiple=batch_multiple)
    check_at_least(0, seed=seed)
    if batch_size % batch_multiple:
        raise ValueError(
            f"`batch_size` must be a multiple of `batch_multiple`, {batch_multiple}. Received: batch_size={batch_size}"
        )
    transform = transform or _Plain(pad_id)
    read = _Packed(sequences, length, pad_id) if packing else _Single(sequences, length, pad_id)
    count = read.rows
    if not count:
        raise ValueError("`sequences` must hold at least one document. Received: none")
    steps = -(-count // batch_size)

    @functools.lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        rows = np.arange(count, dtype="uint32" if count < 2**32 else "int64")
        np.random.default_rng([seed, 0, epoch]).shuffle(rows)
        return rows

    def make(step: int, process_index: int, process_count: int) -> Any:
        epoch, place = divmod(step, steps)
        rows = batch_size // process_count
        first_row = process_index * rows
        first = min(count, place * batch_size + first_row)
        places = np.arange(first, min(count, first + rows))
        ids, more = read(order(epoch)[places].astype("int64") if shuffle else places, rows)
        inputs, *others = transform(ids, (seed, 1, step if shuffle else place), first_row, batch_size)
        return ({**inputs, **more}, *others)

    inputs, *others = transform.signature(batch_size, length)
    more = {"segment_ids": Array((batch_size, length), "int32")} if packing else {}
    return Batches(make, steps, batch_size, ({**inputs, **more}, *others))


class _Single:
    """Rows of one window each, by number.

    Attributes: `rows`, their number.
    """

    def __init__(self, sequences: Ragged, length: int, pad_id: int):
        self._sequences, self._length, self._pad_id = sequences, length, pad_id
        self._before = np.concatenate([[0], np.cumsum(window_counts(sequences.lengths, length))])
        self.rows = int(self._before[-1])

    def places(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where windows start among all tokens, and how long they are."""
        document = np.searchsorted(self._before, window, side="right") - 1
        starts = self._sequences.starts[document] + self._length * (window - self._before[document])
        return starts, np.minimum(self._length, self._sequences.starts[document + 1] - starts)

    def __call__(self, rows: np.ndarray, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the ids of `count` rows, of which those after `rows` are padding, and further inputs."""
        return self._sequences.padded(*self.places(rows), (count, self._length), self._pad_id), {}


class _Packed(_Single):
    """Rows of as many whole windows as fit, by number."""

    def __init__(self, sequences: Ragged, length: int, pad_id: int):
        super().__init__(sequences, length, pad_id)
        lengths = np.full(self.rows, length, "int32")
        counts = np.diff(self._before)
        shown = counts > 0
        last = sequences.lengths[shown] - length * (counts[shown] - 1)
        lengths[self._before[1:][shown] - 1] = np.minimum(last, length)
        self._windows, self._starts = pack(lengths, length)
        self.rows = len(self._starts) - 1

    def __call__(self, rows: np.ndarray, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the ids of `count` rows, of which those after `rows` are padding, and the segments."""
        counts = self._starts[rows + 1] - self._starts[rows]
        number = count_within(counts)
        starts, lengths = self.places(self._windows[np.repeat(self._starts[rows], counts) + number].astype("int64"))
        # Of every token its row, and its place there.
        row = np.repeat(np.repeat(np.arange(len(rows)), counts), lengths)
        place = count_within(np.bincount(row, minlength=len(rows)))
        ids, segments = np.full((count, self._length), self._pad_id, "int32"), np.zeros((count, self._length), "int32")
        ids[row, place] = self._sequences.joined(starts, lengths)
        segments[row, place] = np.repeat(number + 1, lengths)
        return ids, {"segment_ids": segments}
