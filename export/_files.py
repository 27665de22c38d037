"""Atomic writes: an export is made in a temporary folder beside its destination and renamed into place."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def staged(path: str | os.PathLike, overwrite: bool) -> Iterator[Path]:
    """Yield a free path in a temporary folder beside `path`; what lies there at the end is renamed to `path`.

    When the body raises, nothing is left and `path` is as it was. The temporary folder is made first, so a destination
    that cannot be written is refused before any work is done.

    Args:
        path: The file or folder to make.
        overwrite: Replace a file, a SavedModel or an empty folder that lies at `path`.

    Yields:
        The path to write to: another folder on the same file system, the same name.

    Raises:
        ValueError: If something lies at `path` and may not be replaced, or `path` cannot be written.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ValueError(f"`path` must be the path of the file or folder to make. Received: path={path!r}")
    path = Path(os.path.abspath(path))
    if os.path.lexists(path) and not (overwrite and _replaceable(path)):
        rule = "not a folder with other things in it" if overwrite else "free, or pass overwrite=True"
        raise ValueError(f"`path` must be {rule}. Received: path={str(path)!r}")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise ValueError(
            f"`path` must be in an existing folder that can be written ({error.strerror}). Received: path={str(path)!r}"
        ) from error
    try:
        yield folder / path.name
        if path.is_dir():  # A full folder cannot be replaced by a rename; the old one goes with the temporary folder.
            path.rename(folder / f"{path.name}.replaced")
        (folder / path.name).rename(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replaceable(path: Path) -> bool:
    return not path.is_dir() or (path / "saved_model.pb").exists() or not any(path.iterdir())
