"""Whole documents in few lengths: the buckets, how many documents a batch takes, what is cut, and the padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CutReport:
    """How much was cut to fit the longest bucket: documents, and tokens with [CLS] and [SEP]."""

    documents: int
    cut_documents: int
    cut_tokens: int
    total_tokens: int

    def __str__(self) -> str:
        """Say it in one line."""
        share = self.cut_tokens / max(1, self.total_tokens)
        return (
            f"{self.cut_documents:,} of {self.documents:,} documents cut, "
            f"by {self.cut_tokens:,} of {self.total_tokens:,} tokens ({share:.1%})"
        )


def cut_report(lengths: np.ndarray, max_length: int) -> CutReport:
    """What is cut from documents of these token counts."""
    excess = np.maximum(lengths - max_length, 0)
    return CutReport(len(lengths), int(np.count_nonzero(excess)), int(excess.sum()), int(lengths.sum()))


def cut_documents(documents: list[np.ndarray], max_length: int, end_id: int) -> list[np.ndarray]:
    """The documents with at most `max_length` ids; the last of a cut one is `end_id`."""
    return [ids if len(ids) <= max_length else np.append(ids[: max_length - 1], np.int32(end_id)) for ids in documents]


def length_buckets(min_length: int, max_length: int) -> list[int]:
    """`min_length`, its doublings below `max_length`, and `max_length`."""
    buckets = []
    while min_length < max_length:
        buckets.append(min_length)
        min_length *= 2
    return [*buckets, max_length]


def rows_per_bucket(buckets: list[int], batch_tokens: int, multiple: int) -> list[int]:
    """Documents a batch of each bucket: the largest multiple of at most `batch_tokens`, but one multiple at least."""
    return [multiple * max(1, batch_tokens // bucket // multiple) for bucket in buckets]


def padded_batch(documents: list[np.ndarray], labels: Sequence[int], rows: int, length: int, pad_id: int) -> tuple:
    """A batch of `rows` rows of which the documents are the first; the others are padding, with a weight of 0.

    Returns:
        `({"token_ids", "padding_mask"}, label, sample_weight)`: int32 `(rows, length)` twice, int32 `(rows,)` and
        float32 `(rows,)`.
    """
    ids, mask = np.full((rows, length), pad_id, "int32"), np.zeros((rows, length), "int32")
    for row, document in enumerate(documents):
        ids[row, : len(document)] = document
        mask[row, : len(document)] = 1
    label, weight = np.zeros(rows, "int32"), np.zeros(rows, "float32")
    label[: len(documents)] = labels
    weight[: len(documents)] = 1
    return {"token_ids": ids, "padding_mask": mask}, label, weight
