"""Layers that refuse to load weights that are not finite."""

import numpy as np
from keras import saving


class FiniteWeights:
    """Mixin for layers: refuses to load weights that are not finite."""

    _refusal = None

    def load_own_variables(self, store):
        """Load the layer's variables, each checked before it replaces anything."""
        keys = list(store.keys())
        if self._refusal and not keys:
            # Keras tries a layer that failed again in every other place, and would report missing weights there.
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
    """Return a Keras layer class of the same name that refuses to load weights that are not finite."""

    def quantize(self, mode=None, type_check=True, config=None):
        """Quantize the weights as Keras' own layer does, which refuses subclasses, as they might compute otherwise."""
        return layer_class.quantize(self, mode, type_check=False, config=config)

    made = type(
        layer_class.__name__, (FiniteWeights, layer_class), {"__doc__": layer_class.__doc__, "quantize": quantize}
    )
    # Registered, since a functional model over an encoder's output holds these layers itself and must load.
    return saving.register_keras_serializable("krpe_tf")(made)
