"""Shared checks: each raises a ValueError that names the argument, the rule and what was received."""

import numpy as np
from keras import saving


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


def check_rate(**arguments):
    """Raises a ValueError unless every named argument is a number in [0, 1), as a dropout rate is."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value < 1:
            raise ValueError(f"{name} must be a number in [0, 1). Received: {name}={value!r}")


class FiniteWeights:
    """Mixin for layers: refuses to load weights that are not finite."""

    _refusal = None

    def load_own_variables(self, store):
        """Loads the layer's variables, each checked before it replaces anything."""
        keys = list(store.keys())
        if self._refusal and not keys:
            # Keras tries a layer that failed again wherever else it stands, and would report what it lacks there.
            raise ValueError(self._refusal)
        for key in keys:
            finite = np.isfinite(np.asarray(store[key]).astype("float32"))
            if not finite.all():
                self._refusal = (
                    f"weights to load must be finite. Received: {self.path or self.name} weight {key} with "
                    f"{np.sum(~finite)} values that are not"
                )
                raise ValueError(self._refusal)
        super().load_own_variables(store)


def finite(layer_class: type) -> type:
    """A Keras layer class that refuses to load weights that are not finite, under the same name."""
    made = type(layer_class.__name__, (FiniteWeights, layer_class), {"__doc__": layer_class.__doc__})
    # A user's functional model over an encoder's output holds these layers itself, and must load again.
    return saving.register_keras_serializable("krpe_tf")(made)
