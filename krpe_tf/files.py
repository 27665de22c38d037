"""Files and folders that are written whole or not at all, and locks.

    with staged("model.tflite", overwrite=False, beside=("report.json",)) as target:
        target.write_bytes(content)
        companion(target, "report.json").write_text(report)

What the body leaves in `target.parent` appears beside `path`, `path` itself last; if it raises, nothing does. Only a
kill between two renames leaves some without the others: then the next writer puts the old ones back.
"""

import contextlib
import glob
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing tells that another process works in the folder, or was killed there.
    fcntl = None

logger = logging.getLogger(__name__)

# A temporary folder is `.NAME.xxxxxxxx.export`; it holds `new/`, `old/` and `lock`, locked while its process lives.
SUFFIX = ".export"
SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 file whole or not at all, and bring it to the disk."""
    temporary = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error  # A full disk names no file.
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content) -> None:
    """Write JSON as `write_text` does."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def make_directory(path: str | os.PathLike, argument: str = "output") -> Path:
    """Make a folder that can be written to.

    Args:
        path: The folder.
        argument: What messages call it.

    Raises:
        ValueError: If that is not possible.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"`{argument}` must be a writable folder ({error.strerror}). Received: {argument}={str(path)!r}"
        ) from error
    return path


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other processes that lock the same folder out of it; a lock goes with its process, however that ends.

    Raises:
        ValueError: If another process, or another place in this one, holds the lock.
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
                f"`output` must be a folder that no other process trains in. Received: output={str(output)!r}"
            ) from error
        except OSError as error:  # Some network file systems have no locks.
            logger.info("%s cannot be locked (%s): train there with one process at a time", output, error.strerror)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def staged(
    path: str | os.PathLike, overwrite: bool, beside: Iterable[str] = (), contents: Iterable[str] = SAVED_MODEL
) -> Iterator[Path]:
    """Yield a free path in a temporary folder beside `path`; what lies in that folder at the end is renamed into place.

    When the body raises, nothing is left and all is as it was. A destination that is taken or cannot be written is
    refused before any work is done. What a killed process left beside `path` is removed; what one that still runs is
    writing is left alone.

    Args:
        path: The file or folder to make.
        overwrite: Replace files, a SavedModel or an empty folder that lie at `path` and `beside` it.
        beside: The suffixes of the companions of `path`. With `overwrite`, an old one that the body does not write
            goes, so that none describes another file.
        contents: A folder at `path` may be replaced if it holds nothing but some of these.

    Yields:
        The path to write to: another folder on the same file system, the same name.

    Raises:
        ValueError: If something lies at `path` or beside it and may not be replaced, or `path` cannot be written.
        OSError: If the disk is full or fails; names `path` and the reason.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ValueError(f"`path` must be the path of the file or folder to make. Received: path={path!r}")
    path = Path(os.path.abspath(path))
    beside = [companion(path, suffix) for suffix in beside]
    _remove_stale(path)
    contents = set(contents)
    for place in [path, *beside]:
        _check_free(place, overwrite, contents)
    try:
        folder, lock = _make_folder(path)
    except OSError as error:
        raise ValueError(
            f"`path` must be in an existing folder that can be written ({error.strerror}). Received: path={str(path)!r}"
        ) from error
    try:
        yield folder / "new" / path.name
        _sync(folder / "new")
        _put_in_place(folder, path, overwrite, beside, contents)
    except OSError as error:
        if error.errno is None:
            raise
        reason = f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
        raise OSError(error.errno, f"the output cannot be written ({reason})", str(path)) from error
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def companion(path: str | os.PathLike, suffix: str) -> Path:
    """Return the path of a file beside another: `model.report.json` of `model.tflite`, for "report.json"."""
    path = Path(path)
    return path.with_name(f"{path.stem}.{suffix}")


def _check_free(path: Path, overwrite: bool, contents: set[str]) -> None:
    if os.path.lexists(path) and not (overwrite and _replaceable(path, contents)):
        rule = "not a folder with other things in it" if overwrite else "free, or pass overwrite=True"
        raise ValueError(f"`path` must be {rule}. Received: path={str(path)!r}")


def _replaceable(path: Path, contents: set[str]) -> bool:
    return not path.is_dir() or {each.name for each in path.iterdir()} <= contents


def _make_folder(path: Path) -> tuple[Path, int]:
    """Make a temporary folder beside `path`; return it and the descriptor that locks it until that is closed."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=SUFFIX, dir=path.parent))
        lock = None
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "new").mkdir()
            (folder / "old").mkdir()
            return folder, lock
        except OSError as error:
            if lock is not None:
                os.close(lock)
            shutil.rmtree(folder, ignore_errors=True)
            if not isinstance(error, FileNotFoundError):  # Another writer found it before the lock: it looked stale.
                raise


def _remove_stale(path: Path) -> None:
    """Remove the temporary folders whose process is gone, and put back what such a one had moved aside."""
    if fcntl is None:
        return
    for name in glob.glob(f".{glob.escape(path.name)}.*{SUFFIX}", root_dir=path.parent):
        folder = path.parent / name
        # It may still run, or another writer removes it already, or it is not ours to remove.
        with contextlib.suppress(OSError):
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.lexists(folder / "new" / path.name):  # It was killed before the last rename.
                    for old in folder.glob("old/*"):
                        old.replace(path.with_name(old.name))
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _put_in_place(folder: Path, path: Path, overwrite: bool, beside: list[Path], contents: set[str]) -> None:
    """Move what was there to `old`, then what was made to its place; all of it back if that fails."""
    target = folder / "new" / path.name
    target.stat()
    made = [*(each for each in (folder / "new").iterdir() if each != target), target]
    places = [path.with_name(each.name) for each in made]
    for place in places:
        _check_free(place, overwrite, contents)
    try:
        for place in dict.fromkeys([*beside, *places]):
            # A file at `path` itself is replaced in one step; a folder cannot be, nor anything by a folder.
            if os.path.lexists(place) and (place != path or place.is_dir() or target.is_dir()):
                place.rename(folder / "old" / place.name)
        for each, place in zip(made, places, strict=True):
            each.replace(place)
    except OSError:
        for each, place in zip(made, places, strict=True):
            if os.path.lexists(place) and not os.path.lexists(each):
                place.rename(each)
        for old in (folder / "old").iterdir():
            old.rename(path.with_name(old.name))
        raise
    _sync_one(path.parent)


def _sync(folder: Path) -> None:
    """Have everything in a folder reach the disk, so that a power cut after the rename leaves no empty file."""
    for root, _, names in os.walk(folder):
        for name in names:
            _sync_one(Path(root, name))
        _sync_one(Path(root))


def _sync_one(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows opens no folders.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
