"""Measure how far gradients through random features lie from those of the exact kernel, and keep what was found.

    python benchmarks/recipes/gradient_noise.py

The model is that of small_masked_lm.json, as it starts and after its steps under softmax. With the same weights and
batch the gradient is computed by the exact kernel and by several draws of features. A line of gradient_noise.jsonl
holds |g - exact| / |exact|, the mean over draws, for the weights of queries and keys and for all others; a line that is
there is not computed again.
"""

import functools
import json
import time
from collections.abc import Sequence
from statistics import fmean

import keras
import numpy as np
import tensorflow as tf
from _masked_lm import ATTENTIONS, DECAY, compiled, datasets
from _runs import parse, run_missing
from masked_lm import CONFIG, QUICK, load_bytes

from krpe_tf.feature_maps import draw_projection

NAME = "gradient_noise.jsonl"
# Attention and numbers of features.
FEATURES = (("kernel", (8, 16, 32, 64, 128, 256)), ("kernel, positive", (32,)), ("kernel, spherical", (32,)))
BIASES = (DECAY, f"{DECAY}, from slopes")


def runs(config: dict) -> list[dict]:
    """Return the settings of every line: heads as in the recipe, and three times as many; as it starts, and trained."""
    sizes = {name: value for name, value in config.items() if name not in ("seeds", "models")}
    cells = [{"attention": attention, "num_features": count} for attention, counts in FEATURES for count in counts]
    return [
        {"suite": "noise", **sizes, **cell, "bias": bias, "num_heads": heads, "trained": trained, "draws": 4, "seed": 0}
        for trained in (False, True)
        for bias in BIASES
        for heads in (config["num_heads"], 3 * config["num_heads"])
        for cell in cells
    ]


def gradients(model: keras.Model, batch: tuple) -> dict[str, np.ndarray]:
    """Return the gradient of the loss, flat: for the weights of queries and keys, and for all others."""
    inputs, labels, weights = batch
    with tf.GradientTape() as tape:
        loss = model.loss(labels, model(inputs), weights)
    parts = {"queries and keys": [], "all others": []}
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
    ):
        kind = "queries and keys" if variable.path.split("/")[-2] in ("query", "key") else "all others"
        parts[kind].append(np.ravel(tf.convert_to_tensor(gradient)))
    return {kind: np.concatenate(each) for kind, each in parts.items()}


def measure(settings: dict, exact_model) -> dict:
    """Return the settings with the noise of both kinds of weights; `exact_model` gives the exact model and a batch."""
    start = time.perf_counter()
    exact, batch = exact_model(settings["bias"], settings["num_heads"], settings["trained"])
    expected = gradients(exact, batch)
    model = compiled(settings)
    for variable, value in zip(model.trainable_variables, exact.trainable_variables, strict=True):
        variable.assign(value)
    layers = [layer for layer in model.encoder.layers if hasattr(layer, "projection")]
    noise = {kind: [] for kind in expected}
    for draw in range(settings["draws"]):
        for index, layer in enumerate(layers):
            feature_map = ATTENTIONS[settings["attention"]]["feature_map"]
            layer.projection.assign(draw_projection(feature_map, *layer.projection.shape, seed=100 * draw + index))
        for kind, found in gradients(model, batch).items():
            noise[kind].append(np.linalg.norm(found - expected[kind]) / np.linalg.norm(expected[kind]))
    means = {kind: round(float(fmean(each)), 4) for kind, each in noise.items()}
    return {**settings, "noise": means, "seconds": round(time.perf_counter() - start, 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is not there yet."""
    options, data = parse(arguments, __doc__, NAME, ("noise",)), load_bytes()
    config = {"xla": False, "validation_tokens": 2**17, **json.loads(CONFIG.read_text(encoding="utf-8"))}
    wanted = runs(config)
    if options.quick:
        wanted = [{**wanted[0], **QUICK, "num_features": 8, "draws": 2, "trained": True}]

    @functools.lru_cache(maxsize=1)
    def exact_model(bias: str, num_heads: int, trained: bool):
        settings = {**wanted[0], "bias": bias, "num_heads": num_heads, "attention": "softmax"}
        model, (training, _) = compiled(settings), datasets(settings, data)
        if trained:
            model.fit(training, shuffle=False, verbose=0)
        return model, next(iter(training))

    run_missing(options.output / NAME, wanted, lambda settings: measure(settings, exact_model), describe)


def describe(run: dict) -> str:
    """Return a line about a measurement."""
    return f"{run['attention']}  m={run['num_features']}  {run['bias']}  trained={run['trained']}: {run['noise']}"


if __name__ == "__main__":
    main()
