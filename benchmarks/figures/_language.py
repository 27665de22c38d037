"""A byte-level causal language model on presidential messages, small enough to train in half a minute on two cores."""

import keras
import numpy as np

from krpe_tf import DecayBias, KernelizedRPEAttention

LAYERS, HEADS, WIDTH, LENGTH, BATCH = 2, 4, 64, 128, 16


def make_model(*, feature_map, normalize=True, bias="decay", num_features=16, longest=LENGTH, seed=0) -> keras.Model:
    """Return a model that gives logits for the next byte; one bias is shared by all layers, as in the paper.

    `bias` is "decay", a function of the number of heads, or None for absolute positions.
    """
    keras.utils.set_random_seed(seed)
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(256, WIDTH)(ids)
    shared = DecayBias(HEADS) if bias == "decay" else bias and bias(HEADS)
    if shared is None:
        places = keras.ops.cumsum(keras.ops.ones_like(ids), axis=1) - 1
        x = x + keras.layers.Embedding(longest, WIDTH)(places)
    for layer in range(LAYERS):
        attention = KernelizedRPEAttention(
            HEADS,
            WIDTH // HEADS,
            num_features=num_features,
            feature_map=feature_map,
            normalize=normalize,
            position_bias=shared,
            causal=True,
            seed=seed + layer,
        )
        y = keras.layers.LayerNormalization()(x)
        x = x + attention(y, y)
        y = keras.layers.LayerNormalization()(x)
        x = x + keras.layers.Dense(WIDTH)(keras.layers.Dense(4 * WIDTH, activation="gelu")(y))
    return keras.Model(ids, keras.layers.Dense(256)(keras.layers.LayerNormalization()(x)))


def windows(data, length, count, seed):
    """Draw `count` windows of `length` + 1 bytes: inputs and targets."""
    starts = np.random.default_rng(seed).integers(0, len(data) - length - 1, count)
    drawn = data[starts[:, None] + np.arange(length + 1)].astype("int32")
    return drawn[:, :-1], drawn[:, 1:]


def train(model, data, steps, seed):
    """Train from scratch with AdamW, warm-up and decay."""
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=3e-3, warmup_steps=steps // 10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rate, clipnorm=1.0), loss, jit_compile=False)
    model.fit(*windows(data, LENGTH, steps * BATCH, seed), batch_size=BATCH, verbose=0)


def evaluate(model, data, length=LENGTH, longest=None, tokens=2**15) -> float:
    """Return nats a byte in windows of `length`, parts of windows of `longest`; deterministic."""
    longest = longest or length
    inputs, targets = (x.reshape(-1, length) for x in windows(data, longest, tokens // longest, seed=1))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, jit_compile=False)
    return float(model.evaluate(inputs, targets, batch_size=max(1, 2048 // length), verbose=0))
