"""Batches as what `model.fit` takes; this is the one place where batches meet TensorFlow, imported where it is used.

Keras' own adapters fix a batch's shapes on TensorFlow by the first two batches: buckets of one length first, then
another, end in an error. So TensorFlow gets a dataset with a signature; JAX and torch take iterators as they are.
"""

import atexit
import contextlib
import itertools
import threading
import time
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

    def until_exit() -> Iterator[Any]:
        iterator = batches()
        while True:
            with _READERS.working():
                if _READERS.stopped.is_set():
                    return
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            yield batch

    signature = keras.tree.map_structure(lambda array: tf.TensorSpec(array.shape, array.dtype), signature)
    known = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY if count is None else count)
    made = tf.data.Dataset.from_generator(until_exit, output_signature=signature)
    return made.apply(known).prefetch(tf.data.AUTOTUNE)


class _Readers:
    """The threads of TensorFlow that make batches ahead.

    Where Python ends while one of them is at work, TensorFlow waits for the thread, and the thread for Python's lock:
    so none may start a batch after `stop`, and the one at work must finish it.
    """

    def __init__(self):
        self.stopped = threading.Event()
        self._busy = 0
        self._used = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count a thread as at work."""
        with self._lock:
            self._busy += 1
            self._used = True
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def stop(self) -> None:
        """Wait until no thread makes a batch, ten seconds at most, and let none start another."""
        self.stopped.set()
        deadline = time.monotonic() + 10
        while self._busy and time.monotonic() < deadline:
            time.sleep(0.001)
        if self._used:
            time.sleep(0.05)  # What TensorFlow does between two batches, and at the end.


_READERS = _Readers()
atexit.register(_READERS.stop)


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
