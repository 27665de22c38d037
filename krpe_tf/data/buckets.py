"""Whole documents in few lengths: the buckets, how many documents a batch takes, what is truncated, the batches."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..checks import check_at_least
from ..text import Tokenizer
from .batches import Array, Batches
from .ragged import Ragged, count_within


@dataclass(frozen=True)
class CutReport:
    """How many documents did not fit the longest bucket, and what became of them; tokens count [CLS] and [SEP].

    `cut_tokens` were dropped of truncated documents; `pieces` is what documents were split into, 0 where none may be.
    """

    documents: int
    cut_documents: int
    cut_tokens: int
    total_tokens: int
    pieces: int = 0

    def __str__(self) -> str:
        """Describe it in one line."""
        if self.pieces:
            return f"split {self.cut_documents:,} of {self.documents:,} documents; {self.pieces:,} pieces in all"
        share = self.cut_tokens / max(1, self.total_tokens)
        return (
            f"truncated {self.cut_documents:,} of {self.documents:,} documents; {100 * share:.2g} % of tokens dropped"
        )


class _Pieces:
    """What is read of documents: the beginning of each, or with `split_long` all, a piece after the other.

    A piece that does not begin or end with its document has [CLS] and [SEP] of its own there. What is kept is as little
    as for the documents themselves: nothing for beginnings, eight bytes for a piece.

    Attributes: `lengths`, the tokens of every piece; `report`.
    """

    def __init__(self, documents: Ragged, max_length: int, split_long: bool):
        self._starts, self._max_length = documents.starts, max_length
        # Of each piece its document, and how many pieces of it come before; None where there is one of each.
        self._document = self._place = None
        lengths = documents.lengths
        if split_long:
            counts = np.maximum(-(-(lengths - 2) // (max_length - 2)), 1)
            self._document = np.repeat(np.arange(len(lengths), dtype="uint32"), counts)
            self._place = count_within(counts).astype("uint32")
            sizes = int(np.count_nonzero(counts > 1)), 0, int(lengths.sum()), len(self._document)
        else:
            excess = np.maximum(lengths - max_length, 0)
            sizes = int(np.count_nonzero(excess)), int(excess.sum()), int(lengths.sum())
        self.report = CutReport(len(lengths), *sizes)

    @property
    def lengths(self) -> np.ndarray:
        count = len(self._starts) - 1 if self._document is None else len(self._document)
        return self.take(np.arange(count))[1]

    def take(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return where pieces start and how many tokens they have; which need a [CLS], and which a [SEP]."""
        document, offset = members, np.zeros(len(members), "int64")
        if self._document is not None:
            document, offset = self._document[members], self._place[members].astype("int64") * (self._max_length - 2)
        starts = self._starts[document] + offset
        rest = self._starts[document + 1] - starts
        return starts, np.minimum(rest, self._max_length), offset > 0, rest > self._max_length


def length_buckets(min_length: int, max_length: int) -> list[int]:
    """Return `min_length`, its doublings below `max_length`, and `max_length`."""
    buckets = []
    while min_length < max_length:
        buckets.append(min_length)
        min_length *= 2
    return [*buckets, max_length]


def rows_per_bucket(buckets: list[int], batch_tokens: int, multiple: int) -> list[int]:
    """Return the rows of a batch: the largest multiple within `batch_tokens`, but one multiple at least."""
    return [multiple * max(1, batch_tokens // bucket // multiple) for bucket in buckets]


# Long: how to batch, and what is the target of what.
def buckets(
    fields: Mapping[str, Ragged | np.ndarray],
    max_length: int,
    batch_tokens: int,
    *,
    tokenizer: Tokenizer,
    min_length: int = 128,
    target: str = "label",
    split_long: bool = False,
    seed: int = 0,
    shuffle: bool = True,
    batch_multiple: int = 1,
) -> tuple[Batches, CutReport]:
    """Make `Batches` of whole documents, padded in length buckets, about as many tokens in each batch.

    The buckets are `min_length`, its doublings below `max_length`, and `max_length`; a batch is padded to its bucket
    exactly, so few shapes occur. All batches of a bucket have one number of rows, the largest multiple of
    `batch_multiple` within `batch_tokens`, but at least `batch_multiple`. Every document comes once an epoch: the last
    batch of a bucket is filled with rows of padding of weight 0, and a loss must divide by the sum of weights.

    Args:
        fields: "token_ids", and the target under its name: a class for each document, or a `Ragged` with one for each
            token, -1 where a token has none.
        max_length: Most tokens a document, at least 3. A longer one is truncated to as many, the last of them [SEP].
        batch_tokens: Tokens a batch, padding included.
        tokenizer: Knows the ids of padding, [CLS] and [SEP].
        min_length: The smallest bucket.
        target: Which field is the target.
        split_long: Split a longer document instead of truncating it: into pieces between [CLS] and [SEP] that lose
            nothing of it. For a target for each token.
        seed: For the order, 0 or more.
        shuffle: Draw a new order each epoch. False: by length bucket, then in the documents' order, in every epoch.
        batch_multiple: What divides the rows of every batch: the number of devices or processes.

    Returns:
        The batches, `({"token_ids", "padding_mask"}, label, sample_weight)`: int32 `(rows, bucket)` twice, int32 and
        float32 `(rows,)`, or `(rows, bucket)` for a target for each token; and what was truncated or split.

    Raises:
        ValueError: For no documents, or numbers outside the ranges above.
    """
    check_at_least(3, max_length=max_length)
    check_at_least(1, batch_tokens=batch_tokens, min_length=min_length, batch_multiple=batch_multiple)
    check_at_least(0, seed=seed)
    documents, targets = fields["token_ids"], fields[target]
    if not len(documents):
        raise ValueError("`fields` must hold at least one document. Received: none")
    per_token = isinstance(targets, Ragged)
    if split_long and not per_token:
        raise ValueError("`split_long` needs a target for each token. Received: split_long=True, one for each document")
    pieces = _Pieces(documents, max_length, split_long)
    sizes = length_buckets(min_length, max_length)
    rows = rows_per_bucket(sizes, batch_tokens, batch_multiple)
    # A byte a document: doublings make few buckets.
    plan = Plan(np.searchsorted(sizes, pieces.lengths).astype("uint8"), rows, seed, shuffle)

    def make(step: int, process_index: int, process_count: int) -> tuple:
        bucket, members = plan.batch(step)
        size, width = rows[bucket] // process_count, sizes[bucket]
        mine = members[process_index * size : (process_index + 1) * size]
        starts, counts, *cut = pieces.take(mine)
        start_cut, end_cut = map(np.flatnonzero, cut)
        ids = documents.padded(starts, counts, (size, width), tokenizer.pad_id)
        ids[start_cut, 0], ids[end_cut, -1] = tokenizer.start_id, tokenizer.end_id  # These fill the longest bucket.
        mask = np.zeros((size, width), "int32")
        mask[: len(mine)] = np.arange(width) < counts[:, np.newaxis]
        if per_token:
            labels = targets.padded(starts, counts, (size, width), -1)
            labels[start_cut, 0] = labels[end_cut, -1] = -1
            weights = (labels >= 0).astype("float32")
            labels = np.maximum(labels, 0)
        else:
            labels, weights = np.zeros(size, "int32"), np.zeros(size, "float32")
            labels[: len(mine)], weights[: len(mine)] = targets[mine], 1
        return {"token_ids": ids, "padding_mask": mask}, labels, weights

    row = (None, None) if per_token else (None,)
    tokens = Array((None, None), "int32")
    signature = ({"token_ids": tokens, "padding_mask": tokens}, Array(row, "int32"), Array(row, "float32"))
    return Batches(make, plan.steps, batch_multiple, signature), pieces.report


class Plan:
    """Which documents are in the batch of each step: of every epoch a permutation, a few bytes a document.

    Attributes: `steps`, the batches of an epoch.

    Args:
        bucket_of: The bucket of each document, uint8.
        rows: Of each bucket, the rows of a batch.
        seed, shuffle: See `buckets`.
    """

    def __init__(self, bucket_of: np.ndarray, rows: list[int], seed: int, shuffle: bool):
        self._bucket_of = bucket_of
        self._rows = np.array(rows)
        self._counts = np.bincount(self._bucket_of, minlength=len(rows))
        batches = -(-self._counts // self._rows)
        self.steps = int(batches.sum())
        self._first_batch = np.cumsum(batches) - batches
        self._first = np.cumsum(self._counts) - self._counts
        self._seed, self._shuffle = seed, shuffle
        self._epoch = functools.lru_cache(maxsize=1)(self._plan_epoch)

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the documents by bucket, and the batches in their order."""
        documents = np.arange(len(self._bucket_of), dtype="uint32")
        order = np.arange(self.steps, dtype="uint32")
        if self._shuffle:
            random = np.random.default_rng([self._seed, epoch])
            random.shuffle(documents)
            random.shuffle(order)
        return documents[np.argsort(self._bucket_of[documents], kind="stable")], order

    def batch(self, step: int) -> tuple[int, np.ndarray]:
        """Return the bucket and the documents of a step."""
        epoch, place = divmod(step, self.steps)
        documents, order = self._epoch(epoch if self._shuffle else 0)
        batch = int(order[place])
        bucket = int(np.searchsorted(self._first_batch, batch, side="right")) - 1
        start = (batch - self._first_batch[bucket]) * self._rows[bucket]
        stop = min(start + self._rows[bucket], self._counts[bucket])
        return bucket, documents[self._first[bucket] + start : self._first[bucket] + stop].astype("int64")
