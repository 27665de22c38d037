"""Weights under `tf.distribute`: a strategy trains those alone that were made in its scope."""

import keras
from keras import ops


def adopt_bias(bias) -> None:
    """Make the weights of a bias anew, with their values, if the layer that gets it is built in a strategy's scope.

    A bias has its weights from the start, and may have been made before the scope was opened.

    Args:
        bias: a bias layer, or None.
    """
    strategy = _strategy()
    for variable in [] if strategy is None or bias is None else bias.weights:
        if not strategy.extended.variable_created_in_scope(variable.value):
            variable._initialize(ops.convert_to_numpy(variable))


def check_scope(layer, weights) -> None:
    """Refuse to train weights that were made outside of the scope of the strategy that trains them.

    Args:
        layer: a layer or model; it is not trained if all of its weights are frozen.
        weights: those of its weights to look at.

    Raises:
        ValueError: In place of TensorFlow's AssertionError, which has no text.
    """
    strategy = _strategy()
    if strategy is None or not layer.trainable_weights:
        return
    import tensorflow as tf

    # Those that mixed precision has cast for this call are no variables.
    variables = [weight.value for weight in weights if isinstance(weight.value, tf.Variable)]
    if not all(map(strategy.extended.variable_created_in_scope, variables)):
        raise ValueError(
            "the weights of a layer must be made in the scope of the strategy that trains them: make the model, with "
            f"its encoder and layers, inside `with strategy.scope():`. Received: layer {layer.name!r} made outside of "
            f"the scope of the {type(strategy).__name__}"
        )


def _strategy():
    """Return the strategy whose scope this is, if it keeps a copy of each weight for each replica; otherwise None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    one_copy = isinstance(strategy, tf.distribute.OneDeviceStrategy) or not tf.distribute.has_strategy()
    return None if one_copy else strategy
