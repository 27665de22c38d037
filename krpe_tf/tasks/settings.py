"""Settings of runs and tasks: dataclasses whose fields hold their own help text."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from ..training import check_optimizer, make_optimizer


class Settings:
    """The base of all dataclasses of settings, which are frozen; checks go up the bases through `__post_init__`.

    `RunSettings` has the settings of all tasks as its bases: a name means the same in each of them.
    """

    def __post_init__(self):
        """Raise a ValueError for settings out of range."""


def setting(default: Any, help: str) -> Any:
    """Make a dataclass field: its default, and the help text of its option of `train`."""
    value = {"default_factory": lambda: dict(default)} if isinstance(default, dict) else {"default": default}
    return dataclasses.field(**value, metadata={"help": help})


def argument_names(function) -> set[str]:
    """Return the names of the arguments that a function or class takes."""
    return {name for name, each in inspect.signature(function).parameters.items() if each.kind != each.VAR_KEYWORD}


def check_names(allowed: set[str], **settings: Mapping) -> None:
    """Raise a ValueError unless each named setting is a mapping whose keys are among `allowed`."""
    for name, given in settings.items():
        if not isinstance(given, Mapping) or not set(given) <= allowed:
            raise ValueError(f"`{name}` must hold values for {', '.join(sorted(allowed))}. Received: {name}={given!r}")


def complete_optimizer(settings: Settings, name: str, **defaults) -> None:
    """Check a setting that holds arguments of `make_optimizer`, and give it these where it has none."""
    check_names(argument_names(make_optimizer) - {"steps"}, **{name: getattr(settings, name)})
    # The dataclass is frozen for its users.
    object.__setattr__(settings, name, {**defaults, **getattr(settings, name)})
    check_optimizer(**getattr(settings, name))
