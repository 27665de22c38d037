"""Touching windows of documents, in random order."""

import functools
from typing import Any, Protocol

import numpy as np

from ..checks import check_at_least
from .batches import Array, Batches
from .ragged import Ragged


class Transform(Protocol):
    """What `windows` does to a batch: `masking` makes one."""

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
) -> Batches:
    """Make `Batches` of windows: documents are split into touching windows, and the last one is padded.

    Every window comes once an epoch. The last batch of an epoch is filled with rows of padding.

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
    windows_before = np.concatenate([[0], np.cumsum(window_counts(sequences.lengths, length))])
    count = int(windows_before[-1])
    if not count:
        raise ValueError("`sequences` must hold at least one document. Received: none")
    steps = -(-count // batch_size)

    @functools.lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        windows = np.arange(count, dtype="uint32" if count < 2**32 else "int64")
        np.random.default_rng([seed, 0, epoch]).shuffle(windows)
        return windows

    def make(step: int, process_index: int, process_count: int) -> Any:
        epoch, place = divmod(step, steps)
        rows = batch_size // process_count
        first_row = process_index * rows
        first = min(count, place * batch_size + first_row)
        places = np.arange(first, min(count, first + rows))
        window = order(epoch)[places].astype("int64") if shuffle else places
        document = np.searchsorted(windows_before, window, side="right") - 1
        starts = sequences.starts[document] + length * (window - windows_before[document])
        lengths = np.minimum(length, sequences.starts[document + 1] - starts)
        ids = sequences.padded(starts, lengths, (rows, length), pad_id)
        return transform(ids, (seed, 1, step if shuffle else place), first_row, batch_size)

    return Batches(make, steps, batch_size, transform.signature(batch_size, length))
