"""Milliseconds of the demo's models against length."""

import logging
import time
from collections.abc import Sequence

import keras
import numpy as np

logger = logging.getLogger(__name__)


def time_models(
    models: dict[str, keras.Model], lengths: Sequence[int], vocabulary_size: int, rounds: int = 3
) -> dict[str, dict[int, float]]:
    """Return the milliseconds for one document of each length: the median over rounds in which the models take turns.

    Args:
        models: Classifiers by name.
        lengths: Tokens of the documents.
        vocabulary_size: Of the models; documents are random.
        rounds: How often each model takes each document, after one run that is not counted.
    """
    import tensorflow as tf

    spec = {name: tf.TensorSpec((1, None), tf.int32) for name in ("token_ids", "padding_mask")}
    calls = {
        name: tf.function(lambda inputs, model=model: model(inputs, training=False), input_signature=[spec])
        for name, model in models.items()
    }
    random = np.random.default_rng(0)
    medians = {name: {} for name in models}
    for length in lengths:
        inputs = {
            "token_ids": tf.constant(random.integers(5, vocabulary_size, (1, length)), tf.int32),
            "padding_mask": tf.ones((1, length), tf.int32),
        }
        taken = {name: [] for name in models}
        for _ in range(rounds + 1):
            for name, call in calls.items():
                start = time.perf_counter()
                call(inputs).numpy()
                taken[name].append(1000 * (time.perf_counter() - start))
        for name, values in taken.items():
            medians[name][length] = round(float(np.median(values[1:])), 2)
        logger.info("  %6d tokens: %s", length, ", ".join(f"{name} {medians[name][length]:.0f} ms" for name in models))
    return medians
