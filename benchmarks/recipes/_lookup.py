"""Lookup by content: the values of keys that one attention, or a causal model, must find among others."""

import time

import keras
import numpy as np
from _runs import finite

from krpe_tf import KernelizedRPEAttention
from krpe_tf.models import CausalLM, Encoder
from krpe_tf.training import compile_model, make_optimizer

# By model: arguments of attention or encoder. Both twins are exact; only one divides queries and keys by their norms.
NAMED = {
    "softmax": {"feature_map": "softmax"},
    "softmax, not normalised": {"feature_map": "softmax", "normalize": False},
    "taylor": {"feature_map": "taylor"},
}


def model_arguments(settings: dict) -> dict:
    """Return the arguments that name a model: those of `NAMED`, or as many orthogonal features as `num_features`."""
    return NAMED.get(settings["model"], {"num_features": settings.get("num_features")})


def draw_pairs(settings: dict, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw keys, all different, their values, and the places of those that are asked for: `(rows, pairs)` and less."""
    pairs = settings["pairs"]
    keys = rng.random((rows, settings["num_keys"])).argsort(axis=1)[:, :pairs]
    values = rng.integers(0, settings["num_values"], (rows, pairs))
    asked = rng.random((rows, pairs)).argsort(axis=1)[:, : settings["asked"]]
    return keys.astype("int32"), values.astype("int32"), asked


def attention_data(settings: dict, rows: int, seed: int) -> dict:
    """Return what `fit` takes of `attention_model`: pairs, the keys that are asked for, and the values of these."""
    keys, values, asked = draw_pairs(settings, rows, np.random.default_rng(seed))
    wanted = np.take_along_axis(keys, asked, axis=1)
    return {"x": {"key": keys, "value": values, "query": wanted}, "y": np.take_along_axis(values, asked, axis=1)}


def recall_data(settings: dict, rows: int, seed: int) -> dict:
    """Return what `fit` takes of `recall_model`, as in multi-query recall (arXiv 2312.04927).

    A row is key, value, key, value, ..., and then the same of the keys that are asked for, in another order. The token
    after each of these counts, and no other.
    """
    keys, values, asked = draw_pairs(settings, rows, np.random.default_rng(seed))
    values = settings["num_keys"] + values
    given, answers = (
        np.stack([np.take_along_axis(ids, places, axis=1) for ids in (keys, values)], axis=-1).reshape(rows, -1)
        for places in (np.broadcast_to(np.arange(settings["pairs"]), keys.shape), asked)
    )
    ids = np.concatenate([given, answers], axis=1).astype("int32")
    weights = np.zeros(ids.shape, "float32")
    weights[:, given.shape[1] :: 2] = 1
    inputs = {"token_ids": ids[:, :-1], "padding_mask": np.ones_like(ids[:, :-1])}
    return {"x": inputs, "y": ids[:, 1:], "sample_weight": weights[:, :-1]}


def attention_model(settings: dict) -> keras.Model:
    """Make one cross-attention without positions between embeddings of keys and values and a layer of logits."""
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("key", "value", "query")}
    keys = keras.layers.Embedding(settings["num_keys"], settings["width"], name="keys")
    values = keras.layers.Embedding(settings["num_values"], settings["width"], name="values")
    attention = KernelizedRPEAttention(
        settings["num_heads"],
        settings["key_dim"],
        position_bias=None,
        seed=settings["seed"],
        **model_arguments(settings),
    )
    found = attention(keys(inputs["query"]), values(inputs["value"]), keys(inputs["key"]))
    return keras.Model(inputs, keras.layers.Dense(settings["num_values"], name="logits")(found))


def recall_model(settings: dict) -> keras.Model:
    """Make a causal language model of two layers, with the default bias."""
    encoder = Encoder(
        settings["num_keys"] + settings["num_values"],
        num_layers=2,
        num_heads=settings["num_heads"],
        hidden_dim=settings["width"],
        intermediate_dim=4 * settings["width"],
        key_dim=settings["key_dim"],
        dropout=0.0,
        causal=True,
        seed=settings["seed"],
        **model_arguments(settings),
    )
    return CausalLM(encoder)


KINDS = {"attention": (attention_model, attention_data), "recall": (recall_model, recall_data)}


def train(settings: dict) -> dict:
    """Train one model on rows that are drawn anew for every step, and measure it on rows that are the same for all.

    Returns:
        Its settings, the share of values that it finds, and its seconds of CPU.
    """
    start = time.process_time()
    make_model, make_data = KINDS[settings["suite"]]
    keras.utils.set_random_seed(settings["seed"])
    model = make_model(settings)
    compile_model(model, make_optimizer(settings["learning_rate"], settings["steps"]))
    rows = settings["steps"] * settings["batch_size"]
    size = {"batch_size": settings["batch_size"], "verbose": 0}
    model.fit(**make_data(settings, rows, settings["seed"]), shuffle=False, **size)
    held_out = make_data(settings, settings["held_out_rows"], seed=1_000_000)
    accuracy = model.evaluate(**held_out, return_dict=True, **size)["accuracy"]
    keras.utils.clear_session()
    return {**settings, "final": finite(accuracy), "seconds": round(time.process_time() - start, 1)}
