"""The layers of a model, those inside other layers too."""

from typing import TYPE_CHECKING

from ..models import AbsolutePositions

if TYPE_CHECKING:
    import keras


def all_layers(model: "keras.Model") -> "list[keras.layers.Layer]":
    """Return the model and all layers inside it, those of other layers too, each once, outer ones before inner ones."""
    layers, seen = [model], {id(model)}
    for layer in layers:
        # Not `_flatten_layers`, which turns the order of inner layers around: the first one is the one to name.
        for inner in layer._layers:
            if id(inner) not in seen:
                seen.add(id(inner))
                layers.append(inner)
    return layers


def absolute_positions(model: "keras.Model") -> int | None:
    """Return how many tokens the model reads at most; None where it has no absolute positions."""
    return min((x.length for x in all_layers(model) if isinstance(x, AbsolutePositions)), default=None)


def lambda_layers(model: "keras.Model") -> list[str]:
    """Return the names of the layers that hold a Python lambda."""
    return [layer.name for layer in all_layers(model) if _holds_lambda(layer)]


def _holds_lambda(layer: "keras.layers.Layer") -> bool:
    import keras

    functions = [getattr(layer, "activation", None)]
    if isinstance(layer, keras.layers.Lambda):
        functions += [layer.function, layer.mask, *layer.arguments.values()]
    return any(getattr(function, "__name__", None) == "<lambda>" for function in functions)


def vocabulary_size(model: "keras.Model") -> int | None:
    """Return how many token ids every embedding of the model has; None where it has no embedding."""
    import keras

    return min((x.input_dim for x in all_layers(model) if isinstance(x, keras.layers.Embedding)), default=None)
