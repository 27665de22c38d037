"""A byte-level masked language model on presidential messages: batches, models, and one training run."""

import time

import keras
import numpy as np
import tensorflow as tf
from _runs import finite

from krpe_tf import BucketedBias, DecayBias, LearnedBias
from krpe_tf.models import Encoder, MaskedLM
from krpe_tf.position_bias import remove_peaks
from krpe_tf.training import compile_masked_lm, make_optimizer

MASK = 256  # the id after the bytes
ABSOLUTE = "none, absolute positions"
# By attention: arguments of the encoder. Biases are shared by all layers, as in the paper.
ATTENTIONS = {
    "softmax": {"feature_map": "softmax"},
    "softmax, not normalized": {"feature_map": "softmax", "normalize": False},
    "kernel": {"feature_map": "orthogonal"},
    "kernel, taylor": {"feature_map": "taylor"},
    "kernel, positive": {"feature_map": "positive"},
    "kernel, spherical": {"feature_map": "spherical"},
    # The paper's PRF: queries and keys keep their norms.
    "kernel, not normalized": {"feature_map": "positive", "normalize": False},
    # Between the two: the default's features without its norms.
    "kernel, orthogonal, not normalized": {"feature_map": "orthogonal", "normalize": False},
}


def from_zeros(bias):
    """Set every scalar of the bias's table to zero, as T5 and the paper start, and return the bias."""
    bias.table.assign(keras.ops.zeros_like(bias.table))
    return bias


def from_slopes(bias):
    """Take the peaks out of the start of a bias, as it was before 0.2, and return the bias."""
    remove_peaks([bias])
    return bias


DECAY = "radius 16 + 2 exponentials"
# By name: a bias of (heads, length).
BIASES = {
    ABSOLUTE: lambda heads, length: None,
    "buckets from zeros": lambda heads, length: from_zeros(BucketedBias(heads)),
    "buckets from slopes": lambda heads, length: from_slopes(BucketedBias(heads)),
    "full table from zeros": lambda heads, length: from_zeros(LearnedBias(heads, length - 1)),
    "full table from slopes": lambda heads, length: from_slopes(LearnedBias(heads, length - 1)),
    "full table": lambda heads, length: LearnedBias(heads, length - 1),
    "buckets": lambda heads, length: BucketedBias(heads),
    DECAY: lambda heads, length: DecayBias(heads, radius=16, num_terms=2),
    f"{DECAY}, from slopes": lambda heads, length: from_slopes(DecayBias(heads, radius=16, num_terms=2)),
    "radius 4 + 2 exponentials, from slopes": lambda heads, length: from_slopes(DecayBias(heads, 4, num_terms=2)),
}


def make_batches(data: np.ndarray, length: int, rows: int, mask_rate: float, seed: int) -> tuple:
    """Draw windows of the bytes and mask them: inputs, labels and weights of a `MaskedLM(at_positions=True)`.

    A share `mask_rate` of the bytes is predicted. Of these 80 % are masked, 10 % replaced by any byte, and 10 % stay,
    as in BERT.
    """
    rng = np.random.default_rng(seed)
    windows = data[rng.integers(0, len(data) - length, rows)[:, None] + np.arange(length)].astype("int32")
    count = max(1, round(mask_rate * length))
    positions = np.sort(rng.random((rows, length), "float32").argpartition(count)[:, :count]).astype("int32")
    labels = np.take_along_axis(windows, positions, axis=1)
    choice = rng.random(positions.shape)
    changed = np.where(choice < 0.8, MASK, np.where(choice < 0.9, rng.integers(0, 256, positions.shape), labels))
    np.put_along_axis(windows, positions, changed.astype("int32"), axis=1)
    inputs = {"token_ids": windows, "padding_mask": np.ones_like(windows), "mask_positions": positions}
    return inputs, labels, np.ones(labels.shape, "float32")


def make_model(settings: dict) -> keras.Model:
    """Return the model of a run, not compiled."""
    length = settings["length"]
    sizes = {name: settings[name] for name in ("num_layers", "num_heads", "hidden_dim", "intermediate_dim")}
    encoder = Encoder(
        MASK + 1,
        **sizes,
        **ATTENTIONS[settings["attention"]],
        num_features=settings.get("num_features", 16),  # softmax draws them too, and computes without
        position_bias=BIASES[settings["bias"]](settings["num_heads"], length),
        absolute_positions=length if settings["bias"] == ABSOLUTE else None,
        dropout=0.0,
        length=length,
        seed=settings["seed"],
    )
    return MaskedLM(encoder, at_positions=True)


def compiled(settings: dict) -> keras.Model:
    """Return the compiled model of a run; sets Keras' seed."""
    keras.utils.set_random_seed(settings["seed"])
    model = make_model(settings)
    rate, steps = settings["learning_rate"], settings["steps"]
    rest = {name: settings[name] for name in ("warmup_fraction", "weight_decay", "clip_norm")}
    compile_masked_lm(model, make_optimizer(rate, steps, **rest), jit_compile=settings["xla"])
    return model


def datasets(settings: dict, data: tuple[np.ndarray, np.ndarray]) -> tuple:
    """Return training batches of the seed, and validation batches that are the same for every seed."""
    length, size, rate = (settings[name] for name in ("length", "batch_size", "mask_rate"))
    training = make_batches(data[0], length, settings["steps"] * size, rate, settings["seed"])
    validation = make_batches(data[1], length, settings["validation_tokens"] // length, rate, seed=1_000_000)
    # Batches of one shape: as many rows as make 8,192 bytes.
    sizes = size, max(1, min(8192, settings["validation_tokens"]) // length)
    return tuple(
        tf.data.Dataset.from_tensor_slices(arrays).batch(rows, drop_remainder=True)
        for arrays, rows in zip((training, validation), sizes, strict=True)
    )


def train(settings: dict, data: tuple[np.ndarray, np.ndarray]) -> dict:
    """Train one model from scratch.

    The curve holds, every `validate_every` steps, the step, the training loss since the last one, and the loss on a
    quarter of the validation batches; `final` is the loss on all of them. Nats a predicted byte; None for what is not
    finite.

    Returns:
        Its settings, its losses and its seconds, which are wall time under whatever else ran.
    """
    start = time.perf_counter()
    model = compiled(settings)
    training, validation = datasets(settings, data)
    every = settings["validate_every"]
    history = model.fit(
        training.repeat(),
        epochs=settings["steps"] // every,
        steps_per_epoch=every,
        validation_data=validation.take(max(1, len(validation) // 4)),
        shuffle=False,  # The windows are drawn at random already.
        verbose=0,
    ).history
    pairs = zip(history["loss"], history["val_loss"], strict=True)
    curve = [[(index + 1) * every, *map(finite, pair)] for index, pair in enumerate(pairs)]
    final = finite(model.evaluate(validation, verbose=0)[0])
    keras.utils.clear_session()
    return {**settings, "curve": curve, "final": final, "seconds": round(time.perf_counter() - start, 1)}
