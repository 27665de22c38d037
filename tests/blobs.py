"""A small model, batches that are a function of their step, and a training that can be interrupted."""

import itertools

import keras
import numpy as np
from keras import ops

from krpe_tf import training
from krpe_tf.training import Budget, compile_classifier, make_optimizer

STEPS = 11


class Blobs:
    """Batches of points around three corners, each batch a function of its step alone."""

    def __init__(self, broken_step=-1):
        self.broken_step = broken_step

    def training_data(self, start_step=0, process_index=0, process_count=1):
        for step in itertools.count(start_step):
            random = np.random.default_rng(step)
            label = random.integers(0, 3, 16).astype("int32")
            x = np.eye(3, 8, dtype="float32")[label] + 0.5 * random.normal(size=(16, 8)).astype("float32")
            yield x * np.float32(np.nan if step == self.broken_step else 1), label


class Interrupt(Exception):
    pass


class Watch(keras.callbacks.Callback):
    """Keeps the loss after every step, which is the mean over the interval so far, and interrupts after one of them."""

    def __init__(self, stop=None):
        super().__init__()
        self.stop = stop
        self.losses = {}

    def on_train_batch_end(self, batch, logs=None):
        step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        self.losses[step] = logs["loss"]
        if step == self.stop:
            raise Interrupt


def make_model(learning_rate=0.05):
    """Other weights and other seeds of dropout each time it is called."""
    inputs = keras.Input((8,))
    x = keras.layers.Dropout(0.5)(keras.layers.Dense(16, activation="tanh")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    compile_classifier(model, make_optimizer(learning_rate, STEPS))
    return model


def held_out(swapped=False):
    x, label = next(Blobs().training_data(1_000))
    return x, (label + swapped) % 3


def fit(model, checkpoints, watch=None, broken_step=-1, callbacks=(), validation="held out", **budget):
    budget = Budget(STEPS, **{"validate_every": 6, "checkpoint_every": 3, **budget})
    validation = held_out() if validation == "held out" else validation
    callbacks = [*callbacks, *([watch] if watch else [])]
    return training.fit(model, Blobs(broken_step), budget, validation, checkpoints, callbacks=callbacks)


def values(variables):
    return [ops.convert_to_numpy(variable) for variable in variables]


def assert_same(left, right):
    for a, b in zip(values(left.variables), values(right.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(values(left.optimizer.variables), values(right.optimizer.variables), strict=True):
        np.testing.assert_array_equal(a, b)
