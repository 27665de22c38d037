"""Shared checks: each raises a ValueError that names the argument, the rule and what was received."""

import numpy as np


def check_at_least(minimum: int, **arguments):
    """Raises a ValueError unless every named argument is an integer of at least `minimum`."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
            raise ValueError(f"{name} must be an integer of at least {minimum}. Received: {name}={value!r}")


def check_one_of(allowed: tuple, **arguments):
    """Raises a ValueError unless every named argument is one of `allowed`."""
    for name, value in arguments.items():
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}. Received: {name}={value!r}")


class FiniteWeights:
    """Mixin for layers: refuses to load weights that are not finite."""

    def load_own_variables(self, store):
        """Loads the layer's variables, each checked before it replaces anything."""
        for key in store.keys():  # noqa: SIM118 - not a dict
            finite = np.isfinite(np.asarray(store[key]).astype("float32"))
            if not finite.all():
                raise ValueError(
                    f"weights to load must be finite. Received: {self.path} weight {key} with "
                    f"{np.sum(~finite)} values that are not"
                )
        super().load_own_variables(store)
