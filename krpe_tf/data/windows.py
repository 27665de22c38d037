"""Windows of documents, touching or one token over the other, in random order; short ones share a row if packed."""

import functools
from typing import Any, Protocol

import numpy as np

from ..checks import check_at_least, check_one_of
from .batches import Array, Batches
from .packing import pack
from .ragged import Ragged, count_within


class Transform(Protocol):
    """What `windows` does to a batch: `masking` and `shifting` make one.

    A batch is a tuple whose first part is a dict of inputs. Of packed rows these hold "segment_ids", in the shape of
    "token_ids".
    """

    def signature(self, rows: int, length: int) -> Any:
        """Return a batch with an `Array` in place of each array, "segment_ids" aside."""

    def __call__(
        self,
        ids: np.ndarray,
        seed: tuple[int, ...],
        first_row: int,
        batch_size: int,
        segment_ids: np.ndarray | None = None,
    ) -> Any:
        """Make a batch, or a process's rows of it, the same however many of its rows are given.

        Args:
            ids: int32 `(rows, length)`, padded.
            seed: Integers, others for every batch.
            first_row: Place of the first of these rows in the whole batch.
            batch_size: Rows of the whole batch.
            segment_ids: Of packed rows, which window a token is of, see `windows`.
        """


class _Plain:
    """The windows as they are."""

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def signature(self, rows: int, length: int) -> tuple:
        tokens = Array((rows, length), "int32")
        return ({"token_ids": tokens, "padding_mask": tokens},)

    def __call__(self, ids, seed, first_row, batch_size, segment_ids=None) -> tuple:
        inputs = {"token_ids": ids, "padding_mask": (ids != self.pad_id).astype("int32")}
        return (inputs if segment_ids is None else {**inputs, "segment_ids": segment_ids},)


def window_counts(lengths: np.ndarray, stride: int) -> np.ndarray:
    """Count the windows, one every `stride` tokens, of documents of these token counts, [CLS] and [SEP] included.

    A last window that would hold nothing but [SEP], or nothing but the token by which windows overlap, is none.
    """
    return -(-(lengths - 1) // stride)


# Long: what a corpus, a batch and a task each decide.
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
    overlap: int = 0,
) -> Batches:
    """Make `Batches` of windows: documents are split into windows, and the last one is padded.

    Windows touch, so that each token is in one of them. With an `overlap` of 1 the last token of a window is the first
    of the next: each token but a document's first follows another one in a window, exactly once.

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
        overlap: How many tokens a window shares with the next, 0 or 1.

    Raises:
        ValueError: For no windows, or numbers outside the ranges above.
    """
    check_at_least(3, length=length)
    check_at_least(1, batch_size=batch_size, batch_multiple=batch_multiple)
    check_at_least(0, seed=seed)
    check_one_of((0, 1), overlap=overlap)
    if batch_size % batch_multiple:
        raise ValueError(
            f"`batch_size` must be a multiple of `batch_multiple`, {batch_multiple}. Received: batch_size={batch_size}"
        )
    transform = transform or _Plain(pad_id)
    read = (_Packed if packing else _Single)(sequences, length, pad_id, overlap)
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
        ids, segments = read(order(epoch)[places].astype("int64") if shuffle else places, rows)
        return transform(ids, (seed, 1, step if shuffle else place), first_row, batch_size, **segments)

    inputs, *others = transform.signature(batch_size, length)
    more = {"segment_ids": inputs["token_ids"]} if packing else {}
    return Batches(make, steps, batch_size, ({**inputs, **more}, *others))


class _Single:
    """Rows of one window each, by number.

    Attributes: `rows`, their number.
    """

    def __init__(self, sequences: Ragged, length: int, pad_id: int, overlap: int):
        self._sequences, self._length, self._pad_id = sequences, length, pad_id
        self._stride = length - overlap
        self._before = np.concatenate([[0], np.cumsum(window_counts(sequences.lengths, self._stride))])
        self.rows = int(self._before[-1])

    def places(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where windows start among all tokens, and how long they are."""
        document = np.searchsorted(self._before, window, side="right") - 1
        starts = self._sequences.starts[document] + self._stride * (window - self._before[document])
        return starts, np.minimum(self._length, self._sequences.starts[document + 1] - starts)

    def __call__(self, rows: np.ndarray, count: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the ids of `count` rows, of which those after `rows` are padding, and no segments."""
        return self._sequences.padded(*self.places(rows), (count, self._length), self._pad_id), {}


class _Packed(_Single):
    """Rows of as many whole windows as fit, by number."""

    def __init__(self, sequences: Ragged, length: int, pad_id: int, overlap: int):
        super().__init__(sequences, length, pad_id, overlap)
        lengths = np.full(self.rows, length, "int32")
        counts = np.diff(self._before)
        shown = counts > 0
        last = sequences.lengths[shown] - self._stride * (counts[shown] - 1)
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
