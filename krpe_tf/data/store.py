"""Flat arrays on disk: memory-mapped, and every block checked against its checksum when it is first read.

`ArrayWriter` writes `NAME.bin`, the values one after the other, little-endian, and `NAME.bin.crc32`, the CRC-32 of each
block of `BLOCK_BYTES` bytes as uint32. `StoredArray` reads both.
"""

import array
import hashlib
import mmap
import zlib
from pathlib import Path

import numpy as np

BLOCK_BYTES = 65_536

CHECKSUMS = ".crc32"

DTYPES = ("uint16", "int32", "int64")


def damaged(path: Path, reason: str) -> ValueError:
    """Return the error that says what is wrong with a file of a prepared folder."""
    return ValueError(f"`path` must hold what `prepare` wrote, but a file {reason}. Received: {path}")


def check_size(path: Path, size: int) -> None:
    """Raise a ValueError unless a file of this many bytes is there; it names the file."""
    try:
        found = path.stat().st_size
    except OSError as error:
        raise damaged(path, f"is missing ({error.strerror})") from error
    if found != size:
        raise damaged(path, f"has {found:,} bytes instead of {size:,}")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, sha256: str) -> None:
    """Raise a ValueError unless a file has this SHA-256; it names the file."""
    try:
        found = digest(path)
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})") from error
    if found != sha256:
        raise damaged(path, "differs from its SHA-256")


class StoredArray:
    """A memory-mapped array of which no block is used before its checksum was found right.

    Args:
        path: The file; its size is known to be right.
        dtype: One of `DTYPES`.

    Raises:
        ValueError: If the file cannot be read; names it.
    """

    def __init__(self, path: Path, dtype: str):
        self.path = path
        dtype = np.dtype(dtype).newbyteorder("<")
        try:
            self._checksums = np.fromfile(f"{path}{CHECKSUMS}", "<u4")
            with open(path, "rb") as file:
                size = file.seek(0, 2)
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise damaged(path, f"cannot be read ({error.strerror})") from error
        self._array = np.frombuffer(self._mapped, dtype)
        self._unchecked = np.ones(-(-len(self._mapped) // BLOCK_BYTES), bool)
        if len(self._checksums) != len(self._unchecked):
            raise damaged(path, f"has {len(self._checksums)} checksums for {len(self._unchecked)} blocks")

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self._array)

    def whole(self) -> np.ndarray:
        """Check every block, and return the array."""
        self._check(np.flatnonzero(self._unchecked))
        return self._array

    def ranges(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Check the blocks that hold some ranges of values, and return the array; nothing else in it may be used.

        Raises:
            ValueError: If a block differs from its checksum; names the file.
        """
        if len(starts) and self._unchecked.any():
            size = self._array.itemsize
            first = starts * size // BLOCK_BYTES
            last = np.maximum(starts, starts + lengths - 1) * size // BLOCK_BYTES
            blocks = first[:, np.newaxis] + np.arange((last - first).max() + 1)
            blocks = blocks[(blocks <= last[:, np.newaxis]) & (blocks < len(self._unchecked))]
            self._check(np.unique(blocks[self._unchecked[blocks]]))
        return self._array

    def _check(self, blocks: np.ndarray) -> None:
        if len(blocks) and self._mapped.size() != len(self._mapped):  # Reading past the end would kill the process.
            raise damaged(self.path, f"has {self._mapped.size():,} bytes instead of {len(self._mapped):,}")
        content = memoryview(self._mapped)
        for block in blocks.tolist():
            found = zlib.crc32(content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES])
            if found != self._checksums[block]:
                raise damaged(self.path, f"differs from its checksum in block {block}")
            self._unchecked[block] = False


class ArrayWriter:
    """A file that `StoredArray` reads, written piece by piece.

    Args:
        path: The file.
        dtype: One of `DTYPES`; values must fit.
    """

    def __init__(self, path: Path, dtype: str):
        self.path = path
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._file = open(path, "wb")  # noqa: SIM115 - `close` closes it.
        self._pending = bytearray()
        self._checksums = array.array("I")
        self._sha256 = hashlib.sha256()

    def write(self, values: np.ndarray) -> None:
        """Append values.

        Raises:
            ValueError: For a value that the dtype cannot hold.
        """
        converted = values.astype(self.dtype)
        if not np.array_equal(converted, values):
            raise ValueError(f"`values` must fit {self.dtype.name}. Received: {values.min()} to {values.max()}")
        self._pending += converted.tobytes()
        whole = len(self._pending) // BLOCK_BYTES * BLOCK_BYTES
        if whole:
            self._flush(whole)

    def close(self) -> None:
        """Close the file; what was not finished is no stored array."""
        self._file.close()

    def finish(self) -> dict[str, dict]:
        """Write what is left and the checksums; return size and SHA-256 of both files by their suffixes."""
        self._flush(len(self._pending))
        self._file.close()
        checksums = np.array(self._checksums, "<u4").tobytes()
        Path(f"{self.path}{CHECKSUMS}").write_bytes(checksums)
        return {
            "": {"bytes": self.path.stat().st_size, "sha256": self._sha256.hexdigest()},
            CHECKSUMS: {"bytes": len(checksums), "sha256": hashlib.sha256(checksums).hexdigest()},
        }

    def _flush(self, count: int) -> None:
        content = bytes(self._pending[:count])
        del self._pending[:count]
        for start in range(0, count, BLOCK_BYTES):
            self._checksums.append(zlib.crc32(content[start : start + BLOCK_BYTES]))
        self._sha256.update(content)
        self._file.write(content)
