"""Training batches, any of which can be had without those before it: what makes a run resumable and shardable.

The batch of step s is a function of the seed and of s alone. It is the same whether training starts at step 0 or at s,
in one process or in several, and whatever TensorFlow's global seed is.

TensorFlow is imported where it is used.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..checks import check_at_least
from .buckets import CutReport, cut_documents, cut_report, length_buckets, padded_batch, rows_per_bucket
from .masking import Masking, check_masking, window_counts

if TYPE_CHECKING:
    import tensorflow as tf

    from ..text import Tokenizer


class Batches:
    """Endless training batches, from any step on.

    Attributes: `steps_per_epoch`, the batches of one epoch; `batch_multiple`, what divides the rows of every batch: the
    number of processes must divide it.

    Args:
        epoch: `epoch(epoch, first_step, process_index, process_count)` gives the `tf.data.Dataset` of an epoch,
            from its batch `first_step` on; the first two are int64 scalars. The rows of all processes, in their order,
            make the batch that one process alone gets.
        steps_per_epoch: Batches an epoch.
        batch_multiple: What divides the number of rows of every batch.
    """

    def __init__(self, epoch: Callable[..., "tf.data.Dataset"], steps_per_epoch: int, batch_multiple: int):
        check_at_least(1, steps_per_epoch=steps_per_epoch, batch_multiple=batch_multiple)
        self._epoch = epoch
        self.steps_per_epoch = steps_per_epoch
        self.batch_multiple = batch_multiple

    def dataset(self, start_step: int = 0, process_index: int = 0, process_count: int = 1) -> "tf.data.Dataset":
        """Make the batches from `start_step` on, without end.

        Args:
            start_step: The first batch; `steps_per_epoch` is the first of the second epoch.
            process_index, process_count: The dataset holds this process's rows of every batch.

        Raises:
            ValueError: For a negative step, or processes that do not divide `batch_multiple`.
        """
        check_at_least(0, start_step=start_step)
        self._check_processes(process_index, process_count)
        import tensorflow as tf

        first, skipped = divmod(int(start_step), self.steps_per_epoch)

        def batches(epoch: tf.Tensor) -> tf.data.Dataset:
            first_step = tf.where(epoch == first, tf.constant(skipped, tf.int64), 0)
            return self._epoch(epoch, first_step, process_index, process_count)

        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return tf.data.Dataset.range(first, tf.int64.max).flat_map(batches).apply(endless).prefetch(tf.data.AUTOTUNE)

    def epoch(self, process_index: int = 0, process_count: int = 1) -> "tf.data.Dataset":
        """Make the first epoch, of known cardinality: for validation, with `shuffle=False` where the batches were made.

        Args:
            process_index, process_count: See `dataset`.

        Raises:
            ValueError: See `dataset`.
        """
        self._check_processes(process_index, process_count)
        import tensorflow as tf

        zero = tf.constant(0, tf.int64)
        return self._of_one_epoch(self._epoch(zero, zero, process_index, process_count))

    def random_epoch(self, seed: int) -> "tf.data.Dataset":
        """Make one epoch of known cardinality, another each time that the dataset is iterated.

        Args:
            seed: Of which epochs; as everywhere in TensorFlow, the global seed counts too once it is set.
        """
        import tensorflow as tf

        epochs = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
        return self._of_one_epoch(epochs.flat_map(lambda epoch: self._epoch(epoch, tf.zeros_like(epoch), 0, 1)))

    def _of_one_epoch(self, dataset: "tf.data.Dataset") -> "tf.data.Dataset":
        import tensorflow as tf

        known = tf.data.experimental.assert_cardinality(self.steps_per_epoch)
        return dataset.apply(known).prefetch(tf.data.AUTOTUNE)

    def _check_processes(self, process_index: int, process_count: int) -> None:
        check_at_least(0, process_index=process_index)
        check_at_least(1, process_count=process_count)
        if self.batch_multiple % process_count:
            raise ValueError(
                f"process_count must divide batch_multiple, {self.batch_multiple}, and so the rows of every batch. "
                f"Received: process_count={process_count}"
            )
        if process_index >= process_count:
            raise ValueError(
                f"process_index must be less than process_count, {process_count}. Received: {process_index=}"
            )


def masked_lm_batches(
    tokenizer: "Tokenizer",
    texts: Iterable[str | bytes],
    length: int,
    batch_size: int,
    seed: int = 0,
    selection_rate: float = 0.15,
    shuffle: bool = True,
    short_batch: bool = False,
    batch_multiple: int = 1,
) -> Batches:
    """Make masked-LM `Batches`; what they hold is what `masked_lm_dataset` says.

    Args:
        tokenizer, texts, length, batch_size, selection_rate: See `masked_lm_dataset`.
        seed: For the order and the masks, 0 or more.
        shuffle: New order and new masks each epoch. False: the texts' order and the same masks each epoch.
        short_batch: Where there are fewer windows than `batch_size`, make one batch of all of them; some are dropped
            where `batch_multiple` wants it.
        batch_multiple: What must divide `batch_size`: the number of devices or processes.

    Raises:
        ValueError: For bad texts (see `check_texts`), numbers outside the ranges of `masked_lm_dataset`, a `batch_size`
            that `batch_multiple` does not divide, or too few windows for a batch.
    """
    check_at_least(0, seed=seed)
    check_at_least(1, batch_multiple=batch_multiple)
    check_masking(tokenizer, length, batch_size, selection_rate)
    if batch_size % batch_multiple:
        raise ValueError(f"batch_size must be a multiple of batch_multiple, {batch_multiple}. Received: {batch_size=}")
    documents = tokenizer.encode(texts)
    lengths = np.array([len(ids) for ids in documents], dtype="int64")
    windows_before = np.concatenate([[0], np.cumsum(window_counts(lengths, length))])
    windows = int(windows_before[-1])
    if short_batch:
        batch_size = min(batch_size, max(batch_multiple, windows // batch_multiple * batch_multiple))
    if windows < batch_size:
        raise ValueError(f"batch_size must not pass the {windows} windows there are. Received: {batch_size=}")
    steps = windows // batch_size

    import tensorflow as tf

    # Made here, once: datasets capture them and do not copy.
    ids = tf.constant(np.concatenate(documents))
    tokens_before = tf.constant(np.concatenate([[0], np.cumsum(lengths)]))
    windows_before = tf.constant(windows_before)
    masking = Masking(tokenizer, length, batch_size, selection_rate)

    def epoch(epoch, first_step, process_index, process_count):
        rows = batch_size // process_count
        order = tf.range(windows, dtype=tf.int64)
        if shuffle:
            order = tf.random.experimental.stateless_shuffle(order, seed=[tf.constant(seed, tf.int64), epoch])

        def batch(step: tf.Tensor) -> tuple:
            start = step * batch_size + process_index * rows
            window = tf.gather(order, start + tf.range(rows, dtype=tf.int64))
            document = tf.searchsorted(windows_before, window, side="right", out_type=tf.int64) - 1
            begin = tf.gather(tokens_before, document) + length * (window - tf.gather(windows_before, document))
            places = begin[:, tf.newaxis] + tf.range(length, dtype=tf.int64)
            inside = places < tf.gather(tokens_before, document + 1)[:, tf.newaxis]
            window_ids = tf.where(inside, tf.gather(ids, tf.where(inside, places, 0)), tokenizer.pad_id)
            number = epoch * steps + step if shuffle else step
            return masking(window_ids, [tf.constant(seed, tf.int64), number], process_index * rows)

        return tf.data.Dataset.range(first_step, steps).map(batch, num_parallel_calls=tf.data.AUTOTUNE)

    return Batches(epoch, steps, batch_size)


def masked_lm_dataset(
    tokenizer: "Tokenizer",
    texts: Iterable[str | bytes],
    length: int,
    batch_size: int,
    seed: int = 0,
    selection_rate: float = 0.15,
    shuffle: bool = True,
    short_batch: bool = False,
) -> "tf.data.Dataset":
    """Make masked-LM batches: windows of documents, 15 % of the tokens selected, 80/10/10.

    Each document, [CLS] and [SEP] at its ends, is cut into touching windows; the last one is padded, so no text is
    lost. A selected token becomes [MASK] (80 %), a random ordinary token (10 %) or stays (10 %); [CLS], [SEP] and
    padding are never selected.

    Args:
        tokenizer: Makes the ids; documents are tokenized once, here, and stay in memory as int32.
        texts: Documents of any length.
        length: Tokens a window.
        batch_size: Windows a batch. The windows left over at the end of an epoch are dropped: shapes are static.
        seed: For the order and the masks, 0 or more.
        selection_rate: Expected share of selected tokens, in (0, 1).
        shuffle: New order and new masks each epoch. False: the texts' order and the same masks each epoch, for
            validation.
        short_batch: Where there are fewer windows than `batch_size`, make one batch of all of them.

    Returns:
        One epoch of known cardinality, `repeat()` for more, of `(inputs, labels, sample_weight)`. `inputs` holds int32
        "token_ids" and "padding_mask" `(batch_size, length)` and "mask_positions" `(batch_size, P)`, rising, with
        P = ceil(selection_rate * length); `labels` int32 `(batch_size, P)` are the ids that were there;
        `sample_weight` float32 `(batch_size, P)` is 0 where fewer than P were selected (position and label 0 there).

    Raises:
        ValueError: For bad texts (see `check_texts`), numbers outside the ranges above, or too few windows for a batch.
    """
    batches = masked_lm_batches(tokenizer, texts, length, batch_size, seed, selection_rate, shuffle, short_batch)
    return batches.random_epoch(seed) if shuffle else batches.epoch()


def classification_batches(
    tokenizer: "Tokenizer",
    texts: Iterable[str | bytes],
    labels: Sequence[int],
    max_length: int,
    batch_tokens: int,
    min_length: int = 128,
    seed: int = 0,
    shuffle: bool = True,
    batch_multiple: int = 1,
) -> tuple[Batches, CutReport]:
    """Make `Batches` of whole documents in the length buckets of `classification_dataset`.

    All batches of a bucket have one size, the largest multiple of `batch_multiple` that holds no more than
    `batch_tokens`, but at least `batch_multiple`. A short one is filled up with rows of padding whose weight is 0: a
    loss must divide by the sum of weights, not by the rows.

    Args:
        tokenizer, texts, labels, max_length, batch_tokens, min_length: See `classification_dataset`.
        seed: For the order, 0 or more.
        shuffle: New order each epoch. False: by length bucket and the texts' order, the same each epoch.
        batch_multiple: What divides the rows of every batch: the number of devices or processes.

    Returns:
        The batches, `({"token_ids", "padding_mask"}, label, sample_weight)`: int32 `(batch, bucket)` twice, int32
        `(batch,)` and float32 `(batch,)`; and the `CutReport`.

    Raises:
        ValueError: See `classification_dataset`; or a `batch_multiple` below 1.
    """
    check_at_least(1, batch_multiple=batch_multiple)
    return _classification(
        tokenizer, texts, labels, max_length, batch_tokens, min_length, seed, shuffle, batch_multiple, filled=True
    )


def classification_dataset(
    tokenizer: "Tokenizer",
    texts: Iterable[str | bytes],
    labels: Sequence[int],
    max_length: int,
    batch_tokens: int,
    min_length: int = 128,
    seed: int = 0,
    shuffle: bool = True,
) -> tuple["tf.data.Dataset", CutReport]:
    """Make batches of whole documents, padded in length buckets, about the same number of tokens in each batch.

    The buckets are `min_length`, its doublings below `max_length`, and `max_length`; a batch is padded to its bucket
    exactly, so few shapes occur. A longer document is cut to `max_length` tokens, the last of them [SEP], and counted.

    Args:
        tokenizer: Makes the ids; documents are tokenized once, here, and stay in memory as int32.
        texts: Documents.
        labels: A class id per document, 0 or more.
        max_length: Most tokens a document, at least 3.
        batch_tokens: Tokens a batch, padding included: a bucket of length b takes batches of
            max(1, batch_tokens // b) documents. The last batch of a bucket may be smaller.
        min_length: The smallest bucket.
        seed: For the order, epoch by epoch, 0 or more. As everywhere in TensorFlow, the global seed counts too once it
            is set.
        shuffle: Take the documents in a new order each epoch. False: by length bucket and the texts' order.

    Returns:
        The dataset, one epoch of known cardinality, of `({"token_ids", "padding_mask"}, label)`: int32
        `(batch, bucket)` twice and int32 `(batch,)`; and the `CutReport`.

    Raises:
        ValueError: For bad texts (see `check_texts`), labels that do not fit, or numbers outside the ranges above.
    """
    batches, report = _classification(
        tokenizer, texts, labels, max_length, batch_tokens, min_length, seed, shuffle, batch_multiple=1, filled=False
    )
    dataset = batches.random_epoch(seed) if shuffle else batches.epoch()
    return dataset.map(lambda inputs, label, weight: (inputs, label)), report


def _classification(
    tokenizer, texts, labels, max_length, batch_tokens, min_length, seed, shuffle, batch_multiple, filled
):
    check_at_least(3, max_length=max_length)
    check_at_least(1, batch_tokens=batch_tokens, min_length=min_length)
    check_at_least(0, seed=seed)
    documents = tokenizer.encode(texts)
    classes = np.asarray(labels)
    if classes.shape != (len(documents),):
        raise ValueError(f"labels must hold one class per text, {len(documents)}. Received: shape {classes.shape}")
    if not np.issubdtype(classes.dtype, np.integer) or classes.min() < 0:
        raise ValueError(f"labels must be integers of 0 or more. Received: labels={classes[:8].tolist()}...")
    lengths = np.array([len(ids) for ids in documents])
    documents = cut_documents(documents, max_length, tokenizer.end_id)
    buckets = length_buckets(min_length, max_length)
    sizes = rows_per_bucket(buckets, batch_tokens, batch_multiple)
    bucket_of = np.searchsorted(buckets, np.minimum(lengths, max_length))
    in_bucket = np.bincount(bucket_of, minlength=len(buckets))
    steps = sum(math.ceil(count / size) for count, size in zip(in_bucket, sizes, strict=True))

    def plan(epoch: int) -> list[tuple[int, np.ndarray]]:
        """An epoch's batches: bucket and documents."""
        # Public datasets count epochs in random numbers of any sign.
        random = np.random.default_rng([seed, epoch % 2**64])
        order = random.permutation(len(documents)) if shuffle else np.arange(len(documents))
        planned = []
        for bucket, size in enumerate(sizes):
            members = order[bucket_of[order] == bucket]
            planned += [(bucket, members[start : start + size]) for start in range(0, len(members), size)]
        return [planned[place] for place in random.permutation(len(planned))] if shuffle else planned

    def rows(epoch, first_step, process_index, process_count) -> Iterator[tuple]:
        for bucket, members in plan(int(epoch))[first_step:]:
            size = (sizes[bucket] if filled else len(members)) // process_count
            mine = members[process_index * size : (process_index + 1) * size]
            yield padded_batch([documents[i] for i in mine], classes[mine], size, buckets[bucket], tokenizer.pad_id)

    return Batches(labelled_epochs(rows), steps, batch_multiple), cut_report(lengths, max_length)


def labelled_epochs(rows: Callable[..., Iterator[tuple]]) -> Callable[..., "tf.data.Dataset"]:
    """Make what `Batches` takes from a generator of what `padded_batch` gives, called with the same arguments."""

    def epoch(epoch, first_step, process_index, process_count):
        import tensorflow as tf

        batch, row = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)
        return tf.data.Dataset.from_generator(
            lambda epoch, first_step: rows(epoch, first_step, process_index, process_count),
            args=(epoch, first_step),
            output_signature=(
                {"token_ids": batch, "padding_mask": batch},
                row,
                tf.TensorSpec([None], tf.float32),
            ),
        )

    return epoch
