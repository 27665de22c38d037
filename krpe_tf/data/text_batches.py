"""Batches by the names of 0.1, of texts or of a corpus, over `windows` and `buckets`, which `train` takes itself."""

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from ..checks import check_at_least
from ..text import Tokenizer
from .batches import Array, Batches, make_dataset
from .buckets import CutReport, buckets
from .masking import masking
from .ragged import Ragged
from .windows import windows

if TYPE_CHECKING:
    import tensorflow as tf


class CorpusBatches:
    """The methods by which a `Corpus` makes batches of its documents."""

    def masked_lm_batches(
        self,
        length: int,
        batch_size: int,
        seed: int = 0,
        selection_rate: float = 0.15,
        shuffle: bool = True,
        split: str = "train",
        shuffle_tokens: int | None = None,
        packing: bool = False,
    ) -> Batches:
        """Make masked-LM `Batches` of `windows` through `masking`.

        Args:
            length, batch_size, seed, shuffle, packing: See `windows`.
            selection_rate: See `masking`.
            split: "train" or "validation".
            shuffle_tokens: Deprecated, without effect: all windows are shuffled.

        Raises:
            ValueError: For numbers out of range, or a split without documents.
        """
        _without_effect(shuffle_tokens=shuffle_tokens)
        transform = masking(self.tokenizer, selection_rate)
        return windows(
            self._filled(split)["token_ids"],
            length,
            batch_size,
            pad_id=self.tokenizer.pad_id,
            seed=seed,
            shuffle=shuffle,
            transform=transform,
            packing=packing,
        )

    def classification_batches(
        self,
        max_length: int,
        batch_tokens: int,
        min_length: int = 128,
        seed: int = 0,
        shuffle: bool = True,
        batch_multiple: int = 1,
        split: str = "train",
        shuffle_tokens: int | None = None,
    ) -> tuple[Batches, CutReport]:
        """Make `Batches` of whole labelled documents in length `buckets`.

        Args:
            max_length, batch_tokens, min_length, seed, shuffle, batch_multiple: See `buckets`.
            split, shuffle_tokens: See `masked_lm_batches`.

        Raises:
            ValueError: As `masked_lm_batches`; or for documents without labels.
        """
        _without_effect(shuffle_tokens=shuffle_tokens)
        if "label" not in self[split]:
            raise ValueError(f"classification needs documents with labels. Received: {self}")
        return buckets(
            self._filled(split),
            max_length,
            batch_tokens,
            tokenizer=self.tokenizer,
            min_length=min_length,
            seed=seed,
            shuffle=shuffle,
            batch_multiple=batch_multiple,
        )

    def _filled(self, split: str) -> Mapping[str, Ragged | np.ndarray]:
        if not self.documents(split):
            raise ValueError(f"`split` must hold documents. Received: split={split!r} of {self}")
        return self[split]


def _without_effect(**arguments) -> None:
    for name, value in arguments.items():
        if value is not None:
            warnings.warn(
                f"`{name}` has no effect since 0.2: an epoch is one permutation of all windows or documents.",
                DeprecationWarning,
                stacklevel=3,
            )


# Long: the arguments of `windows` and `masking`.
def masked_lm_batches(
    tokenizer: Tokenizer,
    texts: Iterable[str | bytes],
    length: int,
    batch_size: int,
    seed: int = 0,
    selection_rate: float = 0.15,
    shuffle: bool = True,
    short_batch: bool = False,
    batch_multiple: int = 1,
    packing: bool = False,
) -> Batches:
    """Make masked-LM `Batches` of texts: `windows` of them, through `masking`.

    Args:
        tokenizer: Makes the ids; documents are tokenized once, here, and stay in memory as int32.
        texts: Documents of any length.
        length, batch_size, seed, shuffle, batch_multiple, packing: See `windows`.
        selection_rate: See `masking`.
        short_batch: Where there are fewer windows than `batch_size`, make a batch of no more rows than they need,
            instead of one filled with padding.

    Raises:
        ValueError: For bad texts (see `check_texts`), or numbers out of range.
    """
    check_at_least(1, batch_size=batch_size, batch_multiple=batch_multiple)
    transform = masking(tokenizer, selection_rate)
    sequences = Ragged.join(tokenizer.encode(texts))

    def make(batch_size: int) -> Batches:
        return windows(
            sequences,
            length,
            batch_size,
            pad_id=tokenizer.pad_id,
            seed=seed,
            shuffle=shuffle,
            batch_multiple=batch_multiple,
            transform=transform,
            packing=packing,
        )

    batches = make(batch_size)
    if short_batch and batches.steps_per_epoch == 1:
        count = make(batch_multiple).steps_per_epoch  # In multiples, rounded up.
        batches = make(min(batch_size, count * batch_multiple))
    return batches


def masked_lm_dataset(
    tokenizer: Tokenizer,
    texts: Iterable[str | bytes],
    length: int,
    batch_size: int,
    seed: int = 0,
    selection_rate: float = 0.15,
    shuffle: bool = True,
    short_batch: bool = False,
) -> "tf.data.Dataset":
    """Make one epoch of masked-LM batches as a `tf.data.Dataset`: with `shuffle` another each time it is iterated.

    Args:
        tokenizer, texts, length, batch_size, seed, selection_rate, shuffle, short_batch: See `masked_lm_batches`.

    Returns:
        The dataset, of known cardinality, `repeat()` for more; what a batch holds says `Masking`.

    Raises:
        ValueError: See `masked_lm_batches`.
    """
    batches = masked_lm_batches(tokenizer, texts, length, batch_size, seed, selection_rate, shuffle, short_batch)
    return make_dataset(_successive_epochs(batches), batches.signature, batches.steps_per_epoch)


def classification_batches(
    tokenizer: Tokenizer,
    texts: Iterable[str | bytes],
    labels: Sequence[int],
    max_length: int,
    batch_tokens: int,
    min_length: int = 128,
    seed: int = 0,
    shuffle: bool = True,
    batch_multiple: int = 1,
) -> tuple[Batches, CutReport]:
    """Make `Batches` of whole labelled texts in length `buckets`.

    Args:
        tokenizer: Makes the ids; documents are tokenized once, here, and stay in memory as int32.
        texts: Documents.
        labels: A class id per document, 0 or more.
        max_length, batch_tokens, min_length, seed, shuffle, batch_multiple: See `buckets`.

    Returns:
        The batches, and how much was truncated; see `buckets`.

    Raises:
        ValueError: For bad texts (see `check_texts`), labels that do not fit, or numbers out of range.
    """
    documents = Ragged.join(tokenizer.encode(texts))
    classes = np.asarray(labels)
    if classes.shape != (len(documents),):
        raise ValueError(f"`labels` must hold one class per text, {len(documents)}. Received: shape {classes.shape}")
    if not np.issubdtype(classes.dtype, np.integer) or classes.min() < 0:
        raise ValueError(f"`labels` must be integers of 0 or more. Received: labels={classes[:8].tolist()}...")
    return buckets(
        {"token_ids": documents, "label": classes},
        max_length,
        batch_tokens,
        tokenizer=tokenizer,
        min_length=min_length,
        seed=seed,
        shuffle=shuffle,
        batch_multiple=batch_multiple,
    )


def classification_dataset(
    tokenizer: Tokenizer,
    texts: Iterable[str | bytes],
    labels: Sequence[int],
    max_length: int,
    batch_tokens: int,
    min_length: int = 128,
    seed: int = 0,
    shuffle: bool = True,
) -> tuple["tf.data.Dataset", CutReport]:
    """Make one epoch of labelled texts as a `tf.data.Dataset`: with `shuffle` another each time it is iterated.

    The batches are those of `classification_batches`, without the rows of padding: the last batch of a bucket may be
    smaller. So there are no weights.

    Args:
        tokenizer, texts, labels, max_length, batch_tokens, min_length, seed, shuffle: See `classification_batches`.

    Returns:
        The dataset, of known cardinality, of `({"token_ids", "padding_mask"}, label)`: int32 `(rows, bucket)` twice and
        int32 `(rows,)`; and how much was truncated.

    Raises:
        ValueError: See `classification_batches`.
    """
    batches, report = classification_batches(
        tokenizer, texts, labels, max_length, batch_tokens, min_length, seed, shuffle
    )
    epochs = _successive_epochs(batches)

    def without_padding() -> Iterator[tuple]:
        for inputs, label, weight in epochs():
            count = int(weight.sum())
            yield keras.tree.map_structure(lambda rows: rows[:count], (inputs, label))  # noqa: B023 - called at once.

    tokens = Array((None, None), "int32")
    signature = ({"token_ids": tokens, "padding_mask": tokens}, Array((None,), "int32"))
    return make_dataset(without_padding, signature, batches.steps_per_epoch), report


def _successive_epochs(batches: Batches):
    """Return a function that gives the batches of one epoch, and at the next call those of the next epoch."""
    epochs = itertools.count()

    def epoch() -> Iterator:
        return itertools.islice(batches.steps(next(epochs) * batches.steps_per_epoch), batches.steps_per_epoch)

    return epoch
