"""Checks of arguments: each raises a ValueError that names the argument, the rule and what was received."""

import numpy as np
from keras import KerasTensor, ops


def check_at_least(minimum: int, **arguments):
    """Raise a ValueError unless every named argument is an integer of at least `minimum`."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
            raise ValueError(f"`{name}` must be an integer of at least {minimum}. Received: {name}={value!r}")


def check_one_of(allowed: tuple, **arguments):
    """Raise a ValueError unless every named argument is one of `allowed`."""
    for name, value in arguments.items():
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}. Received: {name}={value!r}")


def check_rate(**arguments):
    """Raise a ValueError unless every named argument is a number in [0, 1), as a dropout rate is."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value < 1:
            raise ValueError(f"`{name}` must be a number in [0, 1). Received: {name}={value!r}")


def shapes_differ(shape, expected) -> bool:
    """Return whether two shapes differ in rank, or in a size that both know."""
    pairs = zip(shape, expected, strict=False)
    return len(shape) != len(expected) or any(None not in pair and pair[0] != pair[1] for pair in pairs)


def known_values(x) -> np.ndarray | None:
    """Return the values of a tensor; None where it has none yet: in a graph, under a tracer, in a symbolic call."""
    if isinstance(x, KerasTensor):
        return None
    try:
        return ops.convert_to_numpy(x)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):  # each backend has its own
        return None
