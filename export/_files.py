"""Atomic writes: an export is made in a temporary folder beside its destination and renamed into place."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# The ends of temporary folders' names, so that nobody's hidden folder is taken for one.
SUFFIX = ".krpe_tf"


@contextlib.contextmanager
def staged(path: str | os.PathLike, overwrite: bool) -> Iterator[Path]:
    """Yield a free path in a temporary folder beside `path`; what lies there at the end is renamed to `path`.

    When the body raises, nothing is left and `path` is as it was. The temporary folder is made first, so a destination
    that cannot be written is refused before any work is done. What lies at `path` afterwards is on the disk. A killed
    process leaves its temporary folder behind, and the next one that writes to `path` removes it.

    Args:
        path: The file or folder to make.
        overwrite: Replace a file, a SavedModel or an empty folder that lies at `path`.

    Yields:
        The path to write to: another folder on the same file system, the same name.

    Raises:
        ValueError: If something lies at `path` and may not be replaced, or `path` cannot be written.
        OSError: If writing fails, the disk being full for one; the message names `path`.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ValueError(f"`path` must be the path of the file or folder to make. Received: path={path!r}")
    path = Path(os.path.abspath(path))
    if os.path.lexists(path) and not (overwrite and _replaceable(path)):
        rule = "not a folder with other things in it" if overwrite else "free, or pass overwrite=True"
        raise ValueError(f"`path` must be {rule}. Received: path={str(path)!r}")
    try:
        folder, lock = _temporary_folder(path)
    except OSError as error:
        raise ValueError(
            f"`path` must be in an existing folder that can be written ({error.strerror}). Received: path={str(path)!r}"
        ) from error
    try:
        yield folder / path.name
        _flush(folder / path.name)
        if path.is_dir():  # A full folder cannot be replaced by a rename; the old one goes with the temporary folder.
            path.rename(folder / f"{path.name}.replaced")
        (folder / path.name).rename(path)
        _flush(path.parent, whole=False)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"`path` could not be written, nothing was left there: {reason}", str(path)
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _temporary_folder(path: Path) -> tuple[Path, int]:
    """A new folder beside `path`, and the lock on it, which ends with this process; those of dead processes go."""
    import fcntl  # Not on Windows, where krpe_tf can be imported all the same.

    parent = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)  # Between making a folder and locking it, it looks like a dead process's.
        for left in path.parent.glob(f".{path.name}.*{SUFFIX}"):
            descriptor = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            except BlockingIOError:
                pass  # Another process is at work there.
            finally:
                os.close(descriptor)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=SUFFIX, dir=path.parent))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        os.close(parent)
    return folder, lock


def _flush(path: Path, whole: bool = True) -> None:
    """Has a file or a folder, whole or its list of names alone, written to the disk before anything else."""
    for each in [path, *(path.rglob("*") if whole else ())]:
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replaceable(path: Path) -> bool:
    return not path.is_dir() or (path / "saved_model.pb").exists() or not any(path.iterdir())
