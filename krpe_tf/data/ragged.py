"""Arrays of different lengths, joined into one: in memory, or on disk."""

from collections.abc import Iterable

import numpy as np

from .store import StoredArray


class Ragged:
    """Integer arrays of different lengths, one after the other: `ragged[i]` is the int32 array i.

    Attributes: `values`, all of them joined, in memory or a `StoredArray`; `starts`, int64 `(count + 1,)`, where each
    array begins in `values`, and at last the number of values; `lengths`, int64 `(count,)`.

    Args:
        values, starts: See above.
    """

    def __init__(self, values: "np.ndarray | StoredArray", starts: np.ndarray):
        self.values = values
        self.starts = starts

    @classmethod
    def join(cls, arrays: Iterable[np.ndarray], dtype: str = "int32") -> "Ragged":
        """Join arrays into one in memory."""
        arrays = list(arrays)
        starts = np.cumsum([0, *map(len, arrays)], dtype="int64")
        return cls(np.concatenate([np.zeros(0, dtype), *arrays], dtype=dtype, casting="unsafe"), starts)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Return one array, int32."""
        index = range(len(self))[index]
        start, stop = self.starts[index], self.starts[index + 1]
        return self._ranges(np.array([start]), np.array([stop - start]))[start:stop].astype("int32")

    @property
    def lengths(self) -> np.ndarray:
        """The length of every array, int64."""
        return np.diff(self.starts)

    def padded(self, starts: np.ndarray, lengths: np.ndarray, shape: tuple[int, int], fill: int) -> np.ndarray:
        """Copy ranges of `values` into rows.

        Args:
            starts, lengths: Where each range begins in `values`, and how long it is.
            shape: Rows and columns of the result. Rows without a range, and what a range leaves free, are filled.
            fill: The value to fill with.

        Returns:
            int32 of that shape.

        Raises:
            ValueError: If a file is damaged there; names it.
        """
        rows = np.full(shape, fill, "int32")
        columns = np.arange(shape[1])
        inside = columns < lengths[:, np.newaxis]
        if inside.any():
            places = np.where(inside, starts[:, np.newaxis] + columns, 0)
            np.copyto(rows[: len(starts)], self._ranges(starts, lengths)[places], casting="same_kind", where=inside)
        return rows

    def joined(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Copy ranges of `values`, one after the other, int32; for arguments and errors see `padded`."""
        places = np.repeat(starts, lengths) + count_within(lengths)
        return self._ranges(starts, lengths)[places].astype("int32")

    def _ranges(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return the values as an array; on disk those of the ranges are checked first."""
        return self.values.ranges(starts, lengths) if isinstance(self.values, StoredArray) else self.values


def count_within(lengths: np.ndarray) -> np.ndarray:
    """Count from 0 on in each of some ranges of these lengths, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
