"""The settings of a training run: what the command line, a configuration file and `train_run` take."""

import dataclasses
import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..checks import check_at_least, check_one_of
from ..models import Encoder
from ..models.presets import PRESETS
from ..training import make_optimizer


@dataclass(frozen=True)
class RunSettings:
    """The settings of `train_run`; all but `keep_checkpoints` decide what a run computes.

    Args:
        preset: size of the encoder, see `Encoder.from_preset`.
        encoder: arguments of `Encoder` that replace the preset's, by name.
        vocabulary_size: WordPiece tokens to learn, at most.
        max_length: tokens of the longest document; longer ones are cut, and counted.
        pretrain_steps: masked-LM steps before, 0 for none.
        pretrain_length: tokens of a masked-LM window.
        pretrain_batch_size: windows a masked-LM batch.
        pretrain_optimizer: arguments of `make_optimizer` for masked LM, by name. The rate is 2e-3 unless given.
        epochs: passes over the labelled texts, at most: training stops early when validation stops improving.
        batch_tokens: tokens a batch of documents, padding included.
        patience: epochs without improvement before training stops.
        fine_tune_optimizer: arguments of `make_optimizer` for the classifier, by name. The rate is 1e-3 unless given.
        validation_fraction: share of the texts that is held out.
        checkpoint_every: steps from one checkpoint to the next, about, see `fit_resumably`.
        keep_checkpoints: how many checkpoints stay while the run goes on.
        seed: of everything.

    Raises:
        ValueError: for settings that are unknown or out of range.
    """

    preset: str = "small"
    encoder: dict = field(default_factory=dict)
    vocabulary_size: int = 8192
    max_length: int = 8192
    pretrain_steps: int = 400
    pretrain_length: int = 512
    pretrain_batch_size: int = 8
    pretrain_optimizer: dict = field(default_factory=dict)
    epochs: int = 4
    batch_tokens: int = 16_384
    patience: int = 3
    fine_tune_optimizer: dict = field(default_factory=dict)
    validation_fraction: float = 0.2
    checkpoint_every: int = 100
    keep_checkpoints: int = 3
    seed: int = 0

    def __post_init__(self):  # noqa: D105
        check_at_least(0, pretrain_steps=self.pretrain_steps, seed=self.seed)
        for name in ("epochs", "vocabulary_size", "pretrain_batch_size", "batch_tokens", "patience"):
            check_at_least(1, **{name: getattr(self, name)})
        check_at_least(1, checkpoint_every=self.checkpoint_every, keep_checkpoints=self.keep_checkpoints)
        check_at_least(3, max_length=self.max_length, pretrain_length=self.pretrain_length)
        check_one_of(tuple(PRESETS), preset=self.preset)
        fraction = self.validation_fraction
        if not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
            raise ValueError(f"validation_fraction must lie between 0 and 1. Received: validation_fraction={fraction}")
        allowed = {
            "encoder": _arguments(Encoder) - {"vocabulary_size", "seed"} | {"dtype"},
            "pretrain_optimizer": _arguments(make_optimizer) - {"steps"},
            "fine_tune_optimizer": _arguments(make_optimizer) - {"steps"},
        }
        for name, names in allowed.items():
            given = getattr(self, name)
            if not isinstance(given, Mapping) or not set(given) <= names:
                raise ValueError(f"{name} must hold values for {', '.join(sorted(names))}. Received: {name}={given!r}")
        for name, learning_rate in (("pretrain_optimizer", 2e-3), ("fine_tune_optimizer", 1e-3)):
            # The class is frozen for its users.
            object.__setattr__(self, name, {"learning_rate": learning_rate, **getattr(self, name)})
            make_optimizer(steps=1, **getattr(self, name))

    @classmethod
    def from_names(cls, settings: Mapping) -> "RunSettings":
        """Settings by name, as a configuration file holds them.

        Raises:
            ValueError: for unknown names, and what the constructor refuses.
        """
        names = [each.name for each in dataclasses.fields(cls)]
        unknown = sorted(set(settings) - set(names))
        if unknown:
            raise ValueError(f"settings must be among {', '.join(names)}. Received: {', '.join(unknown)}")
        return cls(**settings)

    def differences(self, other: dict) -> list[str]:
        """How these settings differ from those that `to_json` gave, a line each; `keep_checkpoints` does not count."""
        mine, other = _flat(self.to_json()), _flat(other)
        names = sorted((set(mine) | set(other)) - {"keep_checkpoints"})
        return [
            f"{name}={mine.get(name)!r} (the run has {other.get(name)!r})"
            for name in names
            if mine.get(name) != other.get(name)
        ]

    def to_json(self) -> dict:
        """All settings by name."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def load_config(path: str | os.PathLike) -> dict:
    """Reads a configuration file: a JSON object of settings by name.

    Raises:
        ValueError: if it cannot be read, is no such file, or holds settings that `RunSettings` refuses.
    """
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except OSError as error:
        raise ValueError(f"config must be a readable file ({error.strerror}). Received: config={path!r}") from error
    except ValueError as error:
        raise ValueError(f"config must be valid JSON ({error}). Received: config={path!r}") from error
    if not isinstance(config, dict):
        raise ValueError(f"config must be a JSON object of settings by name. Received: config={path!r}")
    RunSettings.from_names(config)
    return config


def _arguments(function) -> set[str]:
    return {name for name, each in inspect.signature(function).parameters.items() if each.kind != each.VAR_KEYWORD}


def _flat(settings: dict) -> dict:
    """Settings in settings by joined names: "pretrain_optimizer.learning_rate"."""
    flat = {}
    for name, value in settings.items():
        parts = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
        flat.update(parts)
    return flat
