"""What an unfinished run needs to go on beside its checkpoints: settings, a fingerprint of the data, the vocabulary."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import keras

from ..files import write_json
from ..text import Tokenizer, load_tokenizer
from ..training import Checkpoints, DivergedError
from .settings import RunSettings

logger = logging.getLogger(__name__)

# The setting that holds a phase's optimizer.
OPTIMIZERS = {"pretraining": "pretrain_optimizer", "fine_tuning": "fine_tune_optimizer"}


class RunState:
    """The folder checkpoints/ of a run that is not finished: a new one, or the one that an earlier process left.

    It holds run.json (settings, fingerprint of the data, and where training diverged), tokenizer.json and the
    checkpoints; `finish` removes it.

    Attributes: `checkpoints`, a `Checkpoints`, and `resumed`, whether an earlier process left the folder.

    Args:
        output: the run folder.
        settings: must be those of the unfinished run, `keep_checkpoints` aside. Where that diverged, its optimizers'
            settings may differ, and must unless the newest checkpoint has been removed: they would lead there again.
        data: fingerprint of the data, which must be that of the unfinished run.
        restart: drop the unfinished run, whatever it is.
        chief: whether this process writes; where several train together, the chief makes its `RunState` first.
        num_replicas: parts into which every batch is cut. An unfinished run goes on with as many or with fewer: its
            `batch_multiple` stays, and they must divide it.

    Raises:
        ValueError: for an unfinished run with other settings or data, one that diverged with these settings, one with
            batches that cannot be cut into `num_replicas` parts, or one whose run.json cannot be read; for settings or
            data that are not the chief's.
    """

    def __init__(
        self,
        output: Path,
        settings: RunSettings,
        data: str,
        restart: bool = False,
        chief: bool = True,
        num_replicas: int = 1,
    ):
        self.output = Path(output)
        self.chief = chief
        directory = self.output / "checkpoints"
        self._content = {
            "settings": settings.to_json(),
            "data": data,
            "backend": keras.backend.backend(),
            "batch_multiple": num_replicas,
        }
        self._path = directory / "run.json"
        self.checkpoints = Checkpoints(directory, settings.keep_checkpoints, chief)
        self.resumed = self._path.is_file() and not (chief and restart)
        if self.resumed:
            found = self._read()
            self.resumed = self._goes_on(settings, found)
            if self.resumed:
                self._content["batch_multiple"] = found["batch_multiple"]
        if chief:
            if not self.resumed:
                shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(exist_ok=True)
            write_json(self._path, self._content)

    @property
    def batch_multiple(self) -> int:
        """What divides the rows of every batch of the run."""
        return self._content["batch_multiple"]

    def tokenizer(self, learn: Callable[[], Tokenizer]) -> Tokenizer:
        """The tokenizer of the unfinished run; learned and saved where it has none yet."""
        path = self.checkpoints.directory / "tokenizer.json"
        if path.is_file():
            return load_tokenizer(path)
        tokenizer = learn()
        if self.chief:
            tokenizer.save(path)
        return tokenizer

    def diverged(self, error: DivergedError) -> None:
        """Notes that these settings lead from the newest checkpoint to a loss that is not finite."""
        if self.chief:
            diverged = {"message": str(error), "phase": error.phase, "from": self._newest()}
            write_json(self._path, {**self._content, "diverged": diverged})

    def finish(self) -> None:
        """Removes checkpoints/: the run folder holds what came of it."""
        if self.chief:
            self._path.unlink()  # Without it, what a kill leaves of the folder is no unfinished run.
            shutil.rmtree(self.checkpoints.directory)

    def _read(self) -> dict:
        try:
            return json.loads(self._path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"the unfinished run in output has a damaged run.json ({error}); start over with restart (--restart). "
                f"Received: {self._path}"
            ) from error

    def _newest(self) -> str | None:
        return self.checkpoints.paths[-1].name if self.checkpoints.paths else None

    def _goes_on(self, settings: RunSettings, found: dict) -> bool:
        """Whether the unfinished run is to be gone on with; False where it has nothing to lose and is another one."""
        differences = settings.differences(found["settings"])
        optimizer = OPTIMIZERS.get(found.get("diverged", {}).get("phase"), "no optimizer")
        mended = [line for line in differences if line.startswith(f"{optimizer}.")]
        differences += [
            f"other {name} than the run has" for name in ("data", "backend") if found[name] != self._content[name]
        ]
        cut = found["batch_multiple"] % self._content["batch_multiple"] == 0
        if differences and not self.chief:
            raise ValueError(
                "every process must have the settings and data of process 0. Received: "
                + ", ".join(line.replace("the run has", "process 0 has") for line in differences)
            )
        if (differences or not cut) and not self.checkpoints.paths:
            return False
        if not cut:
            raise ValueError(
                f"the unfinished run in output has batches of multiples of {found['batch_multiple']} rows; devices "
                f"that go on with it must divide that. Received: {self._content['batch_multiple']} devices"
            )
        if "diverged" in found:
            if not mended and self._newest() == found["diverged"]["from"]:
                raise ValueError(
                    f"the unfinished run in output diverged: {found['diverged']['message']}. The same settings lead "
                    "there again. Lower learning_rate or clip_norm of that phase's optimizer to go on from the newest "
                    "checkpoint; remove its file to go on from the one before it; or start over with restart "
                    f"(--restart). Received: output={str(self.output)!r}"
                )
            differences = [line for line in differences if line not in mended]
        if differences:
            raise ValueError(
                "settings and data must be those of the unfinished run in output; to drop that run, start over with "
                f"restart (--restart). Received: {', '.join(differences)}"
            )
        if "diverged" in found:
            logger.info("going on after a divergence, with %s", ", ".join(mended) or "an earlier checkpoint")
        return True


def fingerprint(strings: Iterable[str]) -> str:
    """A hash that two sequences of strings share only if they are equal."""
    digest = hashlib.sha256()
    for string in strings:
        content = string.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
