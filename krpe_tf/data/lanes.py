"""Shards read in lanes: a lane is a few shards that one process alone reads, in an order that is known beforehand.

What a lane holds is known from the token counts of its documents, so that reading may begin anywhere. Its shards are
cut into blocks of documents that follow one another; an epoch takes the blocks in random order, some at a time, a pool,
and shuffles the pool in memory.

TensorFlow is imported where it is used.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .masking import window_counts

BLOCK_TOKENS = 65_536


@dataclass(frozen=True)
class Pool:
    """Documents in memory: their ids joined, and for each its token count, label (-1: none) and place in the lane."""

    ids: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    documents: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Where each document begins in `ids`."""
        return np.cumsum(self.lengths) - self.lengths


class Lane:
    """The documents of some shards, in the order of an epoch.

    Attributes: `lengths`, the token count of every document in the order of the shards, and `block_of`, its block.

    Args:
        files: The shards.
        lengths: For each shard the token counts of its documents.
        pool_tokens: About how many tokens are in memory at a time; a document that is longer counts alone.
        seed, number: Of the order; `number` tells the lanes apart.
        shuffle: False takes everything in the order of the shards.
    """

    def __init__(
        self,
        files: Sequence[str],
        lengths: Sequence[np.ndarray],
        pool_tokens: int,
        seed: int,
        number: int,
        shuffle: bool,
    ):
        self._files = np.array(list(files))
        self._pool_tokens = max(1, pool_tokens)
        self._seed, self._number, self._shuffle = seed, number, shuffle
        self.lengths = np.concatenate([np.zeros(0, "int32"), *lengths])
        blocks = []  # Shard, first record in it, number of records.
        for shard, counts in enumerate(lengths):
            ends = np.cumsum(counts, dtype="int64")
            firsts = np.flatnonzero(np.diff((ends - counts) // BLOCK_TOKENS, prepend=-1))
            sizes = np.diff(firsts, append=len(counts))
            blocks += [np.stack([np.full_like(firsts, shard), firsts, sizes], axis=1)]
        self._blocks = np.concatenate([np.zeros((0, 3), "int64"), *blocks])
        self._first_document = np.cumsum(self._blocks[:, 2]) - self._blocks[:, 2]
        self.block_of = np.repeat(np.arange(len(self._blocks), dtype="int32"), self._blocks[:, 2])
        self._tokens = self._sums(self.lengths)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Of values a document, the sum over each block."""
        sums = np.zeros(len(self._blocks), "int64")
        if len(sums):
            sums += np.add.reduceat(values, self._first_document, dtype="int64")
        return sums

    def random(self, epoch: int, stream: int) -> np.random.Generator:
        """Random numbers of an epoch: 0 orders the blocks, p + 1 the pool p."""
        return np.random.default_rng([self._seed, self._number, epoch % 2**64, stream])

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in the order of an epoch, and of each the number of its pool, from 0."""
        count = len(self._blocks)
        order = self.random(epoch, 0).permutation(count) if self._shuffle else np.arange(count)
        tokens = self._tokens[order]
        _, pools = np.unique((np.cumsum(tokens) - tokens) // self._pool_tokens, return_inverse=True)
        return order, pools

    def document_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents in the order of an epoch, shuffled in each pool, and of every block the number of its pool."""
        order, pools = self.order(epoch)
        pool_of_block = np.empty_like(pools)
        pool_of_block[order] = pools
        documents = np.arange(len(self.lengths))
        if self._shuffle:
            keys = self.random(epoch, 1).random(len(documents))
            documents = np.lexsort((keys, pool_of_block[self.block_of]))
        return documents, pool_of_block

    def windows(self, length: int) -> int:
        """How many windows of `length` tokens the lane has."""
        return int(window_counts(self.lengths, length).sum(dtype="int64"))

    def epoch_windows(self, length: int, epoch: int, first: int) -> Iterator[np.ndarray]:
        """The windows of an epoch from place `first` on; no more is read than the pools that hold them."""
        order, pools = self.order(epoch)
        in_pool = np.zeros(pools.max(initial=-1) + 1, "int64")
        np.add.at(in_pool, pools, self._sums(window_counts(self.lengths, length))[order])
        ends = np.cumsum(in_pool)
        for number in range(int(np.searchsorted(ends, first, side="right")), len(in_pool)):
            pool = self.read(order[pools == number])
            counts = window_counts(pool.lengths, length)
            document = np.repeat(np.arange(len(counts)), counts)
            inside = length * (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts))
            starts = pool.starts[document] + inside
            stops = starts + np.minimum(length, pool.lengths[document] - inside)
            places = np.arange(len(starts))
            if self._shuffle:
                places = self.random(epoch, number + 1).permutation(len(starts))
            for place in places[max(0, first - (ends[number] - in_pool[number])) :]:
                yield pool.ids[starts[place] : stops[place]]

    def read(self, blocks: np.ndarray) -> Pool:
        """Read blocks into memory, in the order given.

        Raises:
            ValueError: For a shard that is damaged or is gone; names it.
        """
        chosen = self._blocks[blocks]
        import tensorflow as tf

        places = [self._first_document[block] + np.arange(self._blocks[block, 2]) for block in blocks]
        documents = np.concatenate([np.zeros(0, "int64"), *places])
        try:
            ids, lengths, labels = (x.numpy() for x in _reader()(self._files[chosen[:, 0]], chosen[:, 1], chosen[:, 2]))
            if np.array_equal(lengths, self.lengths[documents]):
                return Pool(ids, lengths, labels, documents)
            reason = "its documents are not those that were written"
        except tf.errors.OpError as error:
            reason = str(error.message).split("\n")[0][:200]
        if len(blocks) > 1:  # Which one is it?
            for block in blocks:
                self.read(np.array([block]))
        file = self._files[chosen[0, 0]]
        raise ValueError(f"prepared texts must be as `prepare` wrote them ({reason}). Received: {file}")

    def verify(self) -> None:
        """Read everything once, a pool at a time.

        Raises:
            ValueError: See `read`.
        """
        order, pools = self.order(0)
        for number in range(pools.max(initial=-1) + 1):
            self.read(order[pools == number])


@functools.cache
def _reader():
    """A traced function from files, first records and numbers of records to ids, token counts and labels."""
    import tensorflow as tf

    vector = tf.TensorSpec([None], tf.int64)
    features = {"token_ids": tf.io.RaggedFeature(tf.int64), "label": tf.io.FixedLenFeature([], tf.int64, -1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), vector, vector], autograph=False)
    def read(files, firsts, counts):
        records = tf.data.Dataset.from_tensor_slices((files, firsts, counts)).flat_map(
            lambda file, first, count: tf.data.TFRecordDataset(file).skip(first).take(count)
        )
        parsed = tf.io.parse_example(records.batch(tf.reduce_sum(counts)).get_single_element(), features)
        ids = parsed["token_ids"]
        return tf.cast(ids.flat_values, tf.int32), ids.row_lengths(), parsed["label"]

    return read
