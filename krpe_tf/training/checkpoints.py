"""Checkpoints of a run: the newest few files, each whole or absent, each with its checksum in its name."""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from ..checks import check_at_least

logger = logging.getLogger(__name__)

# number, label, and the first 16 hexadecimal digits of the file's SHA-256.
LABEL = r"[\w-]+"

NAME = re.compile(rf"(\d{{6,}})-({LABEL})\.([0-9a-f]{{16}})\.npz")

TEMPORARY = ".writing.tmp"


@dataclass(frozen=True)
class Checkpoint:
    """What `Checkpoints.restore` found: the file, its arrays by name, and the JSON that was saved with them."""

    path: Path
    arrays: dict[str, np.ndarray]
    state: dict

    @property
    def number(self) -> int:
        """Its place among all checkpoints of the folder, from 1."""
        return _number(self.path)


class Checkpoints:
    """Save arrays and a JSON state to a folder, keep the newest few, and restore the newest undamaged one.

    A checkpoint is one .npz file. It is written under a temporary name, flushed to the disk, and then renamed: after a
    kill or a power cut at any moment it is there whole, or not at all. The file's name holds its checksum.

    Where several processes train together, each makes its own `Checkpoints` on the same shared folder and calls `save`
    and `restore` at the same steps: saving gathers arrays that are sharded over the processes. Only the chief writes.

    Args:
        directory: The folder; made when first needed. The next save removes what a killed save left there.
        keep: How many checkpoints to keep, at least 1.
        chief: Whether this process writes.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 3, chief: bool = True):
        check_at_least(1, keep=keep)
        self.directory = Path(directory)
        self.keep = keep
        self.chief = chief
        self._damaged = set()

    @property
    def paths(self) -> list[Path]:
        """The files of all checkpoints, the oldest first."""
        names = [name for name in os.listdir(self.directory) if NAME.fullmatch(name)] if self.directory.is_dir() else []
        return sorted((self.directory / name for name in names), key=_number)

    def save(self, arrays: Mapping, state: dict, label: str) -> Path | None:
        """Save a checkpoint, then remove those that are older than the newest `keep`.

        Args:
            arrays: Keras variables or arrays by name.
            state: What else is to be saved; JSON.
            label: Letters, digits, "_" and "-", for the file's name.

        Returns:
            The file; None where this process is not the chief.

        Raises:
            ValueError: For another label, or if an array holds values that are not finite. Nothing is written.
            OSError: If the disk is full or fails. The earlier checkpoints stay.
        """
        if not re.fullmatch(LABEL, label):
            raise ValueError(f'`label` must be letters, digits, "_" and "-". Received: label={label!r}')
        arrays = {name: to_numpy(value) for name, value in arrays.items()}
        for name, array in arrays.items():
            if not np.issubdtype(array.dtype, np.integer) and not np.isfinite(array.astype("float32")).all():
                raise ValueError(f"`arrays` must be finite. Received: {name}, {np.sum(~np.isfinite(array))} are not")
        if not self.chief:
            return None
        try:
            path = self._write(arrays, state, label)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the checkpoint {label} cannot be written ({error.strerror}); the earlier ones stay",
                str(self.directory),
            ) from error
        whole = [path for path in self.paths if path.name not in self._damaged]
        for old in set(self.paths) - set(whole[-self.keep :]):
            old.unlink()
        return path

    def restore(self) -> Checkpoint | None:
        """Read the newest undamaged checkpoint, and log which newer ones are damaged.

        Returns:
            The checkpoint; None if there are none.

        Raises:
            ValueError: If there are checkpoints and all of them are damaged.
        """
        for path in reversed(self.paths):
            damage = self._damage(path)
            if damage is None:
                return _read(path)
            logger.warning("%s is damaged (%s); falling back to the checkpoint before it", path, damage)
            self._damaged.add(path.name)
        if self._damaged:
            raise ValueError(
                "`directory` must hold an undamaged checkpoint or none at all; empty it to start over, as `train` does "
                "with --restart. "
                f"Received: directory={str(self.directory)!r} with {len(self._damaged)} damaged ones"
            )
        return None

    def read(self, checkpoint: str | os.PathLike) -> Checkpoint:
        """Read one checkpoint of the folder.

        Args:
            checkpoint: Its path, or the name of its file.

        Raises:
            ValueError: If the folder has no such checkpoint, or it is damaged.
        """
        path = self.directory / Path(checkpoint).name
        damage = self._damage(path) if path in self.paths else "not among them"
        if damage is not None:
            names = ", ".join(each.name for each in self.paths)
            raise ValueError(f"a checkpoint must be one of {names}. Received: {str(checkpoint)!r} ({damage})")
        return _read(path)

    def make_newest(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint, from `read`, to the place of the newest, so that `restore` finds that one.

        Raises:
            OSError: If the disk is full or fails.
        """
        newest = self.paths[-1]
        if checkpoint.path != newest:
            temporary = self.directory / TEMPORARY
            shutil.copyfile(checkpoint.path, temporary)
            with open(temporary, "r+b") as file:
                os.fsync(file.fileno())
            label = checkpoint.path.name.partition("-")[2]
            os.replace(temporary, self.directory / f"{1 + _number(newest):06d}-{label}")

    def _write(self, arrays: dict[str, np.ndarray], state: dict, label: str) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        number = 1 + max(map(_number, self.paths), default=0)
        # numpy has no bfloat16 and its like: save their bits, and the type's name in the state.
        foreign = {name: array for name, array in arrays.items() if array.dtype.kind == "V"}
        plain = {name: array.view(f"u{array.itemsize}") for name, array in foreign.items()}
        state = {**state, "dtypes": {name: array.dtype.name for name, array in foreign.items()}}
        content = np.frombuffer(json.dumps(state).encode(), "uint8")
        temporary = self.directory / TEMPORARY
        try:
            with open(temporary, "w+b") as file:
                np.savez(file, **{**arrays, **plain, "state.json": content})
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            path = self.directory / f"{number:06d}-{label}.{digest[:16]}.npz"
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if os.name != "nt":  # Windows opens no folders.
            descriptor = os.open(self.directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return path

    def _damage(self, path: Path) -> str | None:
        try:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return str(error.strerror)
        return None if path.name.split(".")[-2] == digest[:16] else "its checksum differs"


def _read(path: Path) -> Checkpoint:
    with np.load(path, allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in saved.files}
    state = json.loads(arrays.pop("state.json").tobytes())
    for name, dtype in state.pop("dtypes").items():
        arrays[name] = arrays[name].view(dtype)
    return Checkpoint(path, arrays, state)


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])


def to_numpy(value) -> np.ndarray:
    """Return a variable or array as a whole numpy array; if it is sharded over processes, all of them must call."""
    if keras.backend.backend() == "jax":
        import jax

        array = value.value if isinstance(value, keras.Variable) else value
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            if array.is_fully_replicated:  # Each process has the whole of it: no need to gather.
                return np.asarray(array.addressable_data(0))
            from jax.experimental import multihost_utils

            return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(keras.ops.convert_to_numpy(value))
