"""Random-access batches: batch s depends only on the seed and s. That makes a run resumable, and shares it out.

Keras' own adapters fix a batch's shapes on TensorFlow by the first two batches: buckets of one length first, then
another, end in an error. So TensorFlow gets a dataset with a signature; JAX and torch take iterators as they are, and
TensorFlow is imported nowhere but in `make_dataset`.
"""

import atexit
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from ..checks import check_at_least

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Array:
    """The shape and dtype of an array in a batch; None where a size changes. The first axis is the rows."""

    shape: tuple[int | None, ...]
    dtype: str


class Batches:
    """Endless training batches of numpy arrays: `batches[s]` is batch s, whatever was taken before.

    The same seed gives the same batches from memory and from disk, in one process or in several, whatever the global
    seed of Keras or TensorFlow.

    Attributes: `steps_per_epoch`; `batch_multiple`, which divides the rows of every batch: the number of processes must
    divide it; `signature`, a batch with an `Array` in place of each array.

    Args:
        make: `make(step, process_index, process_count)` returns the rows of a process. Those of all processes, one
            after the other, make the batch that one process alone gets.
        steps_per_epoch, batch_multiple, signature: See above.
    """

    def __init__(self, make: Callable[[int, int, int], Any], steps_per_epoch: int, batch_multiple: int, signature: Any):
        check_at_least(1, steps_per_epoch=steps_per_epoch, batch_multiple=batch_multiple)
        self._make = make
        self.steps_per_epoch = steps_per_epoch
        self.batch_multiple = batch_multiple
        self.signature = signature

    def __getitem__(self, step: int) -> Any:
        """Make batch `step`; `steps_per_epoch` is the first of the second epoch."""
        return self.rows(step)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the batches from step 0 on, without end."""
        return self.steps()

    def rows(self, step: int, process_index: int = 0, process_count: int = 1) -> Any:
        """Make one process's rows of a batch.

        Args:
            step: Which batch; `steps_per_epoch` is the first of the second epoch.
            process_index, process_count: Which of how many processes; see `batch_multiple`.

        Raises:
            ValueError: For a negative step, or processes that do not divide `batch_multiple`; or if a file of a
                prepared corpus is damaged, names it.
        """
        check_at_least(0, step=step)
        self._check_processes(process_index, process_count)
        return self._make(int(step), process_index, process_count)

    def steps(self, start_step: int = 0, process_index: int = 0, process_count: int = 1) -> Iterator[Any]:
        """Iterate over a process's rows from `start_step` on, without end; for the arguments see `rows`."""
        check_at_least(0, start_step=start_step)
        self._check_processes(process_index, process_count)
        return (self._make(step, process_index, process_count) for step in itertools.count(int(start_step)))

    def dataset(self, start_step: int = 0, process_index: int = 0, process_count: int = 1) -> "tf.data.Dataset":
        """Make a `tf.data.Dataset` of the batches from `start_step` on, without end.

        Args:
            start_step: The first batch.
            process_index, process_count: The dataset holds this process's rows of every batch; see `rows`.

        Raises:
            ValueError: See `rows`.
        """
        check_at_least(0, start_step=start_step)
        self._check_processes(process_index, process_count)
        return make_dataset(lambda: self.steps(start_step, process_index, process_count), self._of(process_count))

    def epoch(
        self, process_index: int = 0, process_count: int = 1, steps: int | None = None, number: int = 0
    ) -> "tf.data.Dataset":
        """Make a `tf.data.Dataset` of one epoch, of known cardinality.

        Args:
            process_index, process_count: See `dataset`.
            steps: Stop after as many batches; None for all.
            number: Which epoch, from 0.

        Raises:
            ValueError: See `rows`.
        """
        check_at_least(0, number=number)
        count = self._epoch_steps(process_index, process_count, steps)
        first = number * self.steps_per_epoch

        def batches() -> Iterator[Any]:
            return (self._make(step, process_index, process_count) for step in range(first, first + count))

        return make_dataset(batches, self._of(process_count), count)

    def training_data(self, start_step: int = 0, process_index: int = 0, process_count: int = 1) -> Any:
        """Return what `model.fit` takes on the current backend to train on from `start_step` on, without end.

        Pass `steps_per_epoch` and `shuffle=False` to `fit`: its epochs then take consecutive batches. On TensorFlow it
        is `dataset`, elsewhere an iterator for one call of `fit`, and TensorFlow is not imported.

        Args:
            start_step, process_index, process_count: See `dataset`.

        Raises:
            ValueError: See `rows`.
        """
        if keras.backend.backend() == "tensorflow":
            return self.dataset(start_step, process_index, process_count)
        return self.steps(start_step, process_index, process_count)

    def validation_data(self, process_index: int = 0, process_count: int = 1, steps: int | None = None) -> Any:
        """Return what `model.fit` and `evaluate` take on the current backend to validate on, as often as wanted.

        It is the first epoch; use batches made with `shuffle=False`.

        Args:
            process_index, process_count: See `dataset`.
            steps: Use the first batches alone, at most as many; None for all.

        Raises:
            ValueError: See `rows`.
        """
        count = self._epoch_steps(process_index, process_count, steps)
        if keras.backend.backend() == "tensorflow":
            return self.epoch(process_index, process_count, count)
        return _Epoch(lambda step: self._make(step, process_index, process_count), count)

    def _epoch_steps(self, process_index: int, process_count: int, steps: int | None) -> int:
        self._check_processes(process_index, process_count)
        if steps is None:
            return self.steps_per_epoch
        check_at_least(1, steps=steps)
        return min(steps, self.steps_per_epoch)

    def _of(self, process_count: int) -> Any:
        """Return the signature of one process's rows."""

        def rows(array: Array) -> Array:
            first, *others = array.shape
            return Array((first and first // process_count, *others), array.dtype)

        return keras.tree.map_structure(rows, self.signature)

    def _check_processes(self, process_index: int, process_count: int) -> None:
        check_at_least(0, process_index=process_index)
        check_at_least(1, process_count=process_count)
        if self.batch_multiple % process_count:
            raise ValueError(
                f"`process_count` must divide `batch_multiple`, {self.batch_multiple}, and so the rows of every batch. "
                f"Received: process_count={process_count}"
            )
        if process_index >= process_count:
            raise ValueError(
                f"`process_index` must be less than `process_count`, {process_count}. "
                f"Received: process_index={process_index}"
            )


def make_dataset(batches: Callable[[], Iterator[Any]], signature: Any, count: int | None = None) -> "tf.data.Dataset":
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


class _Epoch(keras.utils.PyDataset):
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
