"""What `prepare` wrote, and training batches from it: in memory are only a few numbers a document."""

import itertools
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checks import check_at_least, check_one_of
from ..text import load_tokenizer
from .batches import Batches, labelled_epochs
from .buckets import CutReport, cut_documents, cut_report, length_buckets, padded_batch, rows_per_bucket
from .lanes import Lane
from .masking import Masking, check_masking

if TYPE_CHECKING:
    import tensorflow as tf

FORMAT = 1

MANIFEST = "manifest.json"

SPLITS = ("train", "validation")


def is_prepared(path: str | os.PathLike) -> bool:
    """Whether `path` is a folder that `prepare` wrote."""
    return (Path(path) / MANIFEST).is_file()


def load_prepared(path: str | os.PathLike) -> "PreparedTexts":
    """Open a folder that `prepare` wrote. Shards are not read yet: their presence and sizes are checked.

    Raises:
        ValueError: For a folder that is no such one, or lacks a file, or has one of another size; names it.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError("another format")
        files = [(shard["file"], shard["bytes"]) for split in SPLITS for shard in manifest["splits"][split]["shards"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"path must be a folder that `prepare` wrote, its {MANIFEST} cannot be read. Received: path={str(path)!r}"
        ) from error
    for name, size in files:
        found = (path / name).stat().st_size if (path / name).is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found:,} bytes instead of {size:,}"
            raise ValueError(f"path must hold what `prepare` wrote, a shard {what}. Received: {path / name}")
    return PreparedTexts(path, manifest)


class PreparedTexts:
    """A vocabulary and shards of token ids, as training batches.

    Attributes: `path`; `manifest`, what manifest.json holds; `tokenizer`; `classes`, the labels in the order of their
    ids, None where texts have none.

    Args:
        path: The folder; use `load_prepared`.
        manifest: Its manifest.
    """

    def __init__(self, path: Path, manifest: dict):
        self.path = path
        self.manifest = manifest
        self.tokenizer = load_tokenizer(path / "tokenizer.json")
        self.classes = manifest["classes"]

    def documents(self, split: str = "train") -> int:
        """Number of documents of a split, "train" or "validation"."""
        return self._split(split)["documents"]

    def tokens(self, split: str = "train") -> int:
        """Number of tokens of a split, [CLS] and [SEP] included."""
        return self._split(split)["tokens"]

    def verify(self) -> None:
        """Read every shard once, and its checksums.

        Raises:
            ValueError: For a damaged shard; names it.
        """
        for split in filter(self.documents, SPLITS):
            for lane in self._lanes(split, 1, 2**22, 0, False):
                lane.verify()

    def masked_lm_batches(
        self,
        length: int,
        batch_size: int,
        seed: int = 0,
        selection_rate: float = 0.15,
        shuffle: bool = True,
        split: str = "train",
        shuffle_tokens: int = 2**22,
    ) -> Batches:
        """Make masked-LM `Batches` of the windows that `masked_lm_dataset` takes, each once an epoch.

        The rows of a batch come from gcd(batch_size, number of shards) lanes, as many from each; a process reads the
        shards of its lanes alone, so the number of processes must divide that. A lane that is through waits for the
        others: its rows are padding then, with all weights 0.

        Args:
            length, batch_size, selection_rate: See `masked_lm_dataset`.
            seed: For the order and the masks, 0 or more.
            shuffle: New order and new masks each epoch. False: the order of the shards, the same masks each epoch.
            split: "train" or "validation".
            shuffle_tokens: About how many tokens of all lanes are in memory at a time, and shuffled there.

        Raises:
            ValueError: For numbers out of range, or a split without documents. While it is iterated, a damaged shard
                raises an error of `tf.data` that names it; `verify` finds it beforehand.
        """
        check_at_least(0, seed=seed)
        check_at_least(1, shuffle_tokens=shuffle_tokens)
        check_masking(self.tokenizer, length, batch_size, selection_rate)
        count = math.gcd(batch_size, len(self._split(split)["shards"]))
        lanes = self._lanes(split, count, shuffle_tokens, seed, shuffle)
        rows_per_lane = batch_size // count
        steps = max(math.ceil(lane.windows(length) / rows_per_lane) for lane in lanes)
        masking = Masking(self.tokenizer, length, batch_size, selection_rate)

        def rows(epoch, first_step, process_index, process_count) -> Iterator[tuple]:
            mine = count // process_count
            streams = [
                lane.epoch_windows(length, int(epoch), int(first_step) * rows_per_lane)
                for lane in lanes[process_index * mine : (process_index + 1) * mine]
            ]
            for step in range(first_step, steps):
                ids = np.full((mine * rows_per_lane, length), self.tokenizer.pad_id, "int32")
                for place, stream in enumerate(streams):
                    for row, window in enumerate(itertools.islice(stream, rows_per_lane), place * rows_per_lane):
                        ids[row, : len(window)] = window
                yield step, ids

        def epoch(epoch, first_step, process_index, process_count) -> "tf.data.Dataset":
            import tensorflow as tf

            share = batch_size // process_count

            def masked(step: tf.Tensor, ids: tf.Tensor) -> tuple:
                number = epoch * steps + step if shuffle else step
                return masking(ids, [tf.constant(seed, tf.int64), number], process_index * share)

            windows = tf.data.Dataset.from_generator(
                lambda epoch, first_step: rows(epoch, first_step, process_index, process_count),
                args=(epoch, first_step),
                output_signature=(tf.TensorSpec([], tf.int64), tf.TensorSpec([share, length], tf.int32)),
            )
            return windows.map(masked, num_parallel_calls=tf.data.AUTOTUNE)

        return Batches(epoch, steps, count)

    def classification_batches(
        self,
        max_length: int,
        batch_tokens: int,
        min_length: int = 128,
        seed: int = 0,
        shuffle: bool = True,
        batch_multiple: int = 1,
        split: str = "train",
        shuffle_tokens: int = 2**22,
    ) -> tuple[Batches, CutReport]:
        """Make `Batches` of whole labelled documents, as `krpe_tf.batches.classification_batches` does.

        Batches come from `batch_multiple` lanes, as many rows from each; a process reads the shards of its lanes alone.
        A document stays in memory until the bucket it belongs to has enough for a batch.

        Args:
            max_length, batch_tokens, min_length, seed, shuffle, batch_multiple: See `classification_batches`; the order
                without `shuffle` is that of the shards.
            split, shuffle_tokens: See `masked_lm_batches`.

        Raises:
            ValueError: As `masked_lm_batches`; for texts without labels, or a `batch_multiple` of more than the number
                of shards.
        """
        check_at_least(3, max_length=max_length)
        check_at_least(1, batch_tokens=batch_tokens, min_length=min_length, shuffle_tokens=shuffle_tokens)
        check_at_least(1, batch_multiple=batch_multiple)
        check_at_least(0, seed=seed)
        if self.classes is None:
            raise ValueError(f"classification needs texts prepared with labels. Received: {str(self.path)!r}")
        shards = len(self._split(split)["shards"])
        if batch_multiple > shards:
            raise ValueError(f"batch_multiple must not pass the {shards} shards. Received: {batch_multiple=}")
        lanes = self._lanes(split, batch_multiple, shuffle_tokens, seed, shuffle)
        buckets = length_buckets(min_length, max_length)
        sizes = rows_per_bucket(buckets, batch_tokens, batch_multiple)
        shares = [size // batch_multiple for size in sizes]
        # A byte a document: doublings make few buckets.
        bucket_of = [np.searchsorted(buckets, np.minimum(lane.lengths, max_length)).astype("uint8") for lane in lanes]
        steps = 0
        for bucket, share in enumerate(shares):
            steps += max(math.ceil(np.count_nonzero(of == bucket) / share) for of in bucket_of)

        def rows(epoch, first_step, process_index, process_count) -> Iterator[tuple]:
            plan = _Plan(lanes, bucket_of, shares, int(epoch), shuffle)
            mine = range(len(lanes) // process_count * process_index, len(lanes) // process_count * (process_index + 1))
            readers = [_DocumentReader(lanes[place], plan, place) for place in mine]
            for step in range(first_step, steps):
                bucket = plan.bucket(step)
                parts = []
                for reader in readers:
                    documents, labels = reader.take(step)
                    documents = cut_documents(documents, max_length, self.tokenizer.end_id)
                    length, pad_id = buckets[bucket], self.tokenizer.pad_id
                    parts.append(padded_batch(documents, labels, shares[bucket], length, pad_id))
                inputs = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
                yield inputs, *(np.concatenate([part[index] for part in parts]) for index in (1, 2))

        report = cut_report(np.concatenate([lane.lengths for lane in lanes]).astype("int64"), max_length)
        return Batches(labelled_epochs(rows), steps, batch_multiple), report

    def _split(self, split: str) -> dict:
        check_one_of(SPLITS, split=split)
        return self.manifest["splits"][split]

    def _lanes(self, split: str, count: int, shuffle_tokens: int, seed: int, shuffle: bool) -> list[Lane]:
        """The shards of a split dealt to `count` lanes."""
        shards = self._split(split)["shards"]
        path = self.path / split / "lengths.npy"
        try:
            lengths = np.load(path, mmap_mode="r") if self.documents(split) else np.zeros(0, "int32")
            parts = np.split(lengths, np.cumsum([shard["documents"] for shard in shards])[:-1])
            sums = [int(part.sum(dtype="int64")) for part in parts]
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"path must hold what `prepare` wrote ({error}). Received: {path}") from error
        if sums != [shard["tokens"] for shard in shards]:
            raise ValueError(f"path must hold what `prepare` wrote, token counts differ. Received: {path}")
        if not len(lengths):
            raise ValueError(f"split must hold documents. Received: split={split!r} of {str(self.path)!r}")
        files = [str(self.path / shard["file"]) for shard in shards]
        return [
            Lane(files[lane::count], parts[lane::count], shuffle_tokens // count, seed, lane, shuffle)
            for lane in range(count)
        ]


class _Plan:
    """The batches of an epoch: which bucket, and which documents of each lane, known to every process alike."""

    def __init__(self, lanes, bucket_of, shares, epoch, shuffle):
        self.shares = shares
        orders = [lane.document_order(epoch) for lane in lanes]
        self.pool_of_block = [pools for _, pools in orders]
        # Of every lane and bucket the documents, and how far into the lane's epoch each of them stands.
        self.queues = [
            [documents[of[documents] == bucket] for bucket in range(len(shares))]
            for (documents, _), of in zip(orders, bucket_of, strict=True)
        ]
        ready, keys = [], []
        for bucket, share in enumerate(shares):
            count = max(math.ceil(len(queues[bucket]) / share) for queues in self.queues)
            when = np.zeros(count)
            for (documents, _), of in zip(orders, bucket_of, strict=True):
                places = np.flatnonzero(of[documents] == bucket)
                last = places[np.minimum(np.arange(share - 1, len(places) + share - 1, share), len(places) - 1)]
                when[: len(last)] = np.maximum(when[: len(last)], last / len(documents))
            ready.append(when)
            keys.append(np.stack([np.full(count, bucket), np.arange(count)], axis=1))
        order = np.argsort(np.concatenate(ready), kind="stable")
        # A batch is due when its last document has come by: little waits in memory.
        self._batches = np.concatenate(keys)[order]
        self._step_of = np.argsort(order)
        self._before = np.cumsum([0, *(len(each) for each in keys)])

    def bucket(self, step: int) -> int:
        return int(self._batches[step, 0])

    def documents(self, step: int, lane: int) -> np.ndarray:
        bucket, number = self._batches[step]
        share = self.shares[bucket]
        return self.queues[lane][bucket][number * share : (number + 1) * share]

    def last_steps(self, lane: int, block_of: np.ndarray) -> np.ndarray:
        """Of every block of a lane the last step that needs it."""
        last = np.full(len(self.pool_of_block[lane]), -1)
        for bucket, queue in enumerate(self.queues[lane]):
            steps = self._step_of[self._before[bucket] + np.arange(len(queue)) // self.shares[bucket]]
            np.maximum.at(last, block_of[queue], steps)
        return last


class _DocumentReader:
    """Documents of a lane by the steps of a plan, a pool read at a time, blocks forgotten once they are used up."""

    def __init__(self, lane: Lane, plan: _Plan, place: int):
        self._lane, self._plan, self._place = lane, plan, place
        self._last = plan.last_steps(place, lane.block_of)
        self._held = {}  # By block: its documents' ids and labels, by place in the lane.

    def take(self, step: int) -> tuple[list[np.ndarray], list[int]]:
        """Ids and labels of a step's documents; steps rise."""
        documents = self._plan.documents(step, self._place)
        blocks = self._lane.block_of[documents]
        for block in np.unique(blocks):
            if block not in self._held:
                self._read(self._plan.pool_of_block[self._place][block], step)
        found = [self._held[block][document] for block, document in zip(blocks, documents, strict=True)]
        for block in [block for block in self._held if self._last[block] <= step]:
            del self._held[block]
        return [ids for ids, _ in found], [label for _, label in found]

    def _read(self, number: int, step: int) -> None:
        needed = (self._plan.pool_of_block[self._place] == number) & (self._last >= step)
        pool = self._lane.read(np.flatnonzero(needed))
        for document, ids, label in zip(pool.documents, np.split(pool.ids, pool.starts[1:]), pool.labels, strict=True):
            # A copy: a slice would keep the whole pool in memory.
            held = self._held.setdefault(self._lane.block_of[document], {})
            held[document] = (ids.copy(), int(label))
