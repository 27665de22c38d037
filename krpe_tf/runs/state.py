"""What an unfinished run keeps beside its checkpoints: task, settings, a fingerprint of the data, the vocabulary.

By it `train_run` knows whether a run resumes; `krpe_tf.training.fit` then restores the checkpoint.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import keras

from ..files import write_json
from ..tasks import Task
from ..text import Tokenizer, load_tokenizer
from ..training import ONE_DEVICE, Budget, Checkpoints, Distribution, check_resumable
from .settings import RunSettings

logger = logging.getLogger(__name__)


class RunState:
    """The folder checkpoints/ of an unfinished run: a new one, or the one that an earlier process left.

    It holds run.json (task, settings, fingerprint of the data), tokenizer.json and the checkpoints. `begin` writes it,
    and drops a run that is not resumed; `finish` removes it. Until `begin` nothing is lost.

    Attributes: `checkpoints`, a `Checkpoints`, and `resumed`, whether an earlier process left the folder.

    Args:
        output: The run folder.
        task: The task; must be that of the unfinished run.
        settings: Must be those of the unfinished run, `keep_checkpoints` aside.
        data: Fingerprint of the data, which must be that of the unfinished run.
        restart: True: drop the unfinished run, whatever it is. A path or the name of one of its checkpoints: resume
            from that one, and with these settings even if they differ.
        distribution: The processes that train together; the chief begins before the others make their `RunState`. An
            unfinished run resumes on as many replicas or on fewer: its `batch_multiple` stays, and they must divide it.

    Raises:
        ValueError: For an unfinished run of another task, other settings or data, with batches that the replicas cannot
            share, or whose run.json cannot be read; for settings or data that are not the chief's.
    """

    def __init__(
        self,
        output: Path,
        task: Task,
        settings: RunSettings,
        data: str,
        restart: bool | str | os.PathLike = False,
        distribution: Distribution = ONE_DEVICE,
    ):
        if isinstance(restart, os.PathLike):
            restart = os.fspath(restart)
        if not isinstance(restart, (bool, str)):
            raise ValueError(
                f"`restart` must be True, False or a checkpoint of the unfinished run. Received: restart={restart!r}"
            )
        self.output = Path(output)
        self.chief = distribution.is_chief
        directory = self.output / "checkpoints"
        self._content = {
            "task": task.name,
            "settings": settings.to_json(),
            "data": data,
            "backend": keras.backend.backend(),
            "batch_multiple": distribution.num_replicas,
        }
        self._path = directory / "run.json"
        self.checkpoints = Checkpoints(directory, settings.keep_checkpoints, self.chief)
        self.resumed = self._path.is_file() and not (self.chief and restart is True)
        if self.resumed:
            found = self._read()
            self.resumed = self._check(settings, found, restart if self.chief else False)
            if self.resumed:
                self._content["batch_multiple"] = found["batch_multiple"]
        elif isinstance(restart, str):
            raise ValueError(f"`restart` must be a checkpoint of an unfinished run. Received: none in {directory}")
        self._checkpoint = restart if isinstance(restart, str) else None

    @property
    def drops_checkpoints(self) -> bool:
        """Whether `begin` drops an unfinished run that has checkpoints."""
        return self.chief and not self.resumed and bool(self.checkpoints.paths)

    def begin(self, tokenizer: Tokenizer, budgets: Mapping[str, Budget]) -> None:
        """Drop an unfinished run that is not resumed, and keep what a process that resumes this one needs.

        Args:
            tokenizer: Makes the token ids of the run.
            budgets: Of each phase, by its name.

        Raises:
            ValueError: If the checkpoint to resume from is missing or damaged, or of other steps than these budgets.
            OSError: If the disk is full or fails.
        """
        if not self.chief:
            return
        directory = self.checkpoints.directory
        if self._checkpoint is not None:
            saved = self.checkpoints.read(self._checkpoint)
            phase = saved.state["phase"]
            if phase not in budgets:
                raise ValueError(
                    f"a checkpoint to resume from must be of a phase of the run: {', '.join(budgets)}. "
                    f"Received: {saved.path.name}"
                )
            check_resumable(saved, budgets[phase].steps, budgets[phase].divide(checkpointed=True)[1])
            self.checkpoints.make_newest(saved)
        if not self.resumed and directory.is_dir():
            self._path.unlink(missing_ok=True)  # Without it, what a kill leaves of the folder is no unfinished run.
            shutil.rmtree(directory)
        directory.mkdir(exist_ok=True)
        if not self._tokenizer_path.is_file():
            tokenizer.save(self._tokenizer_path)
        write_json(self._path, self._content)

    @property
    def batch_multiple(self) -> int:
        """What divides the rows of every batch of the run."""
        return self._content["batch_multiple"]

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the run that is resumed; None for a new run."""
        return load_tokenizer(self._tokenizer_path) if self.resumed and self._tokenizer_path.is_file() else None

    @property
    def _tokenizer_path(self) -> Path:
        return self.checkpoints.directory / "tokenizer.json"

    def finish(self) -> None:
        """Remove checkpoints/: the run folder holds what came of it."""
        if self.chief:
            self._path.unlink()  # First, as in `begin`.
            shutil.rmtree(self.checkpoints.directory)

    def _read(self) -> dict:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or not {"settings", "data", "backend", "batch_multiple"} <= set(found):
                raise ValueError("a part is missing")
        except ValueError as error:
            raise ValueError(
                f"the unfinished run in `output` has a damaged run.json ({error}); start over with --restart. "
                f"Received: {self._path}"
            ) from error
        return found

    def _check(self, settings: RunSettings, found: dict, restart: bool | str) -> bool:
        """Return whether to resume; False if the run differs and has no checkpoint to lose."""
        changed = settings.differences(found["settings"])
        others = [
            f"other {name} than the run has"
            for name in ("task", "data", "backend")
            if name in found and found[name] != self._content[name]  # 0.1 wrote no task.
        ]
        divides = found["batch_multiple"] % self._content["batch_multiple"] == 0
        if (changed or others) and not self.chief:
            raise ValueError(
                "every process must have the settings and data of process 0. Received: "
                + ", ".join(line.replace("the run has", "process 0 has") for line in changed + others)
            )
        if (changed or others or not divides) and not self.checkpoints.paths:
            return False
        if not divides:
            raise ValueError(
                f"the unfinished run in `output` has batches of multiples of {found['batch_multiple']} rows, which the "
                f"replicas that resume it must divide. Received: {self._content['batch_multiple']} replicas"
            )
        if others or (changed and not isinstance(restart, str)):
            raise ValueError(
                "an unfinished run in `output` differs; changed settings need --restart, which drops it, or --from "
                "CHECKPOINT, and another task or other data need --restart. (krpe_tf 0.2 holds out other texts of "
                "a file than 0.1 did, and texts that come twice together: that makes other data of them.) "
                f"Received: {', '.join(changed + others)}"
            )
        if changed:
            logger.info("resuming from %s with %s", Path(restart).name, ", ".join(changed))
        if "task" not in found:
            logger.info("resuming a run of krpe_tf 0.1; from here on its batches are drawn as 0.2 draws them")
        return True
