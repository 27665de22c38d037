"""Batches as what `model.fit` takes; this is the one place where batches meet TensorFlow, imported where it is used.

Keras' own adapters fix a batch's shapes on TensorFlow by the first two batches: buckets of one length first, then
another, end in an error. So TensorFlow gets a dataset with a signature; JAX and torch take iterators as they are.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    import tensorflow as tf


def count_up(make: Callable[[int], Any], start: int) -> Iterator[Any]:
    """Iterate over `make(start)`, `make(start + 1)` and so on, without end."""
    yield from map(make, itertools.count(start))


def dataset(batches: Callable[[], Iterator[Any]], signature: Any, count: int | None = None) -> "tf.data.Dataset":
    """Make a dataset that calls `batches` each time that it is iterated.

    Args:
        batches: Returns an iterator over batches.
        signature: A batch with a shape and dtype in place of each array.
        count: How many batches there are; None for no end.
    """
    import tensorflow as tf

    signature = keras.tree.map_structure(lambda array: tf.TensorSpec(array.shape, array.dtype), signature)
    known = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY if count is None else count)
    return tf.data.Dataset.from_generator(batches, output_signature=signature).apply(known).prefetch(tf.data.AUTOTUNE)


class Sequence(keras.utils.PyDataset):
    """Batches in order, as often as wanted, for Keras on JAX and torch."""

    def __init__(self, make: Callable[[int], Any], count: int):
        super().__init__()
        self._make = make
        self._count = count

    def __len__(self) -> int:
        """Return the number of batches."""
        return self._count

    def __getitem__(self, index: int) -> Any:
        """Make a batch."""
        return self._make(index)
