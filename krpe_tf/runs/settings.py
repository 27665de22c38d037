"""The settings of a training run: what the command line, a configuration file and `train_run` take."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..checks import check_at_least, check_one_of
from ..models import PRESETS
from ..tasks import TASKS, Settings, check_names, setting
from ..text import KINDS

TOKENIZER = (
    "tokenizer to learn: wordpiece, sentencepiece or bytes; auto is sentencepiece for causal_lm and translation, "
    "wordpiece for others"
)


@dataclass(frozen=True)
class CommonSettings(Settings):
    """Settings of every run, whatever its task."""

    preset: str = setting("small", "size of the encoder: tiny, small or base")
    encoder: dict = setting({}, "model options that override the preset's: dropout=0 ...")  # noqa: RUF009
    vocabulary_size: int = setting(8192, "tokens to learn at most; sentencepiece needs 320")
    tokenizer: str = setting("auto", TOKENIZER)
    cased: bool = setting(False, "keep upper case and accents in the vocabulary to learn")
    validation_fraction: float = setting(0.2, "share of the documents to hold out for validation")
    checkpoint_every: int = setting(100, "steps from one checkpoint to the next")
    keep_checkpoints: int = setting(3, "recent checkpoints to keep")
    seed: int = setting(0, "random seed for weights, data order and masks")

    def __post_init__(self):  # noqa: D105
        super().__post_init__()
        check_at_least(0, seed=self.seed)
        check_at_least(1, vocabulary_size=self.vocabulary_size)
        check_at_least(1, checkpoint_every=self.checkpoint_every, keep_checkpoints=self.keep_checkpoints)
        check_one_of(tuple(PRESETS), preset=self.preset)
        check_one_of((False, True), cased=self.cased)
        check_one_of(("auto", *KINDS), tokenizer=self.tokenizer)
        fraction = self.validation_fraction
        if not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
            raise ValueError(
                f"`validation_fraction` must lie between 0 and 1. Received: validation_fraction={fraction}"
            )
        # Of all tasks; the recipe of a run asks its own.
        check_names(set().union(*(task.backbone.arguments for task in TASKS.values())), encoder=self.encoder)


def _of_tasks() -> list[type[Settings]]:
    """Return the settings of all tasks, without those that others extend."""
    found = dict.fromkeys(task.settings for task in reversed(TASKS.values()))
    return [each for each in found if not any(issubclass(other, each) for other in found if other is not each)]


@dataclass(frozen=True)
class RunSettings(*_of_tasks(), CommonSettings):
    """The settings of `train_run`: those of every run and those of every task, each under its own name.

    All but `keep_checkpoints` decide what a run computes. `dataclasses.fields(RunSettings)` lists names, defaults and,
    under "help" in the metadata, what each means; `python -m krpe_tf train --help` prints the same.

    Raises:
        ValueError: For settings that are unknown or out of range.
    """

    @classmethod
    def from_names(cls, settings: Mapping) -> "RunSettings":
        """Make settings of a mapping by name, as a configuration file holds them.

        Raises:
            ValueError: For unknown names, and what the constructor refuses.
        """
        names = [each.name for each in dataclasses.fields(cls)]
        unknown = sorted(set(settings) - set(names))
        if unknown:
            raise ValueError(f"settings must be among {', '.join(names)}. Received: {', '.join(unknown)}")
        return cls(**settings)

    def differences(self, other: dict) -> list[str]:
        """List how these settings differ from those that `to_json` returned, one line each.

        `keep_checkpoints` does not count. A setting that `other` does not name had its default.
        """
        mine, other = _flat(self.to_json()), _flat({**RunSettings().to_json(), **other})
        names = sorted((set(mine) | set(other)) - {"keep_checkpoints"})
        return [
            f"{name}={mine.get(name)!r} (the run has {other.get(name)!r})"
            for name in names
            if mine.get(name) != other.get(name)
        ]

    def to_json(self) -> dict:
        """Return all settings by name."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def load_config(path: str | os.PathLike) -> dict:
    """Read a configuration file: a JSON object of settings by name.

    Raises:
        ValueError: If it cannot be read, is no such file, or holds settings that `RunSettings` refuses.
    """
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except OSError as error:
        raise ValueError(f"`config` must be a readable file ({error.strerror}). Received: config={path!r}") from error
    except ValueError as error:
        raise ValueError(f"`config` must be valid JSON ({error}). Received: config={path!r}") from error
    if not isinstance(config, dict):
        raise ValueError(f"`config` must be a JSON object of settings by name. Received: config={path!r}")
    RunSettings.from_names(config)
    return config


def _flat(settings: dict) -> dict:
    """Return settings in settings by joined names: "pretrain_optimizer.learning_rate"."""
    flat = {}
    for name, value in settings.items():
        parts = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
        flat.update(parts)
    return flat
