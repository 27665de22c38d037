"""Folders that can be written and locked, and text files that are written whole."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing tells that another process works in the folder.
    fcntl = None

logger = logging.getLogger(__name__)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 file whole or not at all, and brings it to the disk."""
    temporary = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content) -> None:
    """Writes JSON as `write_text` does."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def make_directory(path: str | os.PathLike) -> Path:
    """Makes a folder that can be written to.

    Raises:
        ValueError: if that is not possible.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"output must be a writable folder ({error.strerror}). Received: output={str(path)!r}"
        ) from error
    return path


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keeps other processes that lock the same folder out of it; a lock goes with its process, however that ends.

    Raises:
        ValueError: if another process, or another place in this one, holds the lock.
    """
    if fcntl is None:
        yield
        return
    lock = os.open(output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"output must be a folder that no other process trains in. Received: output={str(output)!r}"
            ) from error
        except OSError as error:  # Some network file systems have no locks.
            logger.info("%s cannot be locked (%s): train there with one process at a time", output, error.strerror)
        yield
    finally:
        os.close(lock)
