"""A small recurrent language model with the methods of a CausalLM, and its float64 twin in numpy."""

import keras
import numpy as np
from keras import ops

WIDTH = 8


class ToyLanguageModel(keras.Model):
    """h = tanh(h R + E[token]), logits = h O. Few tokens are much more probable than others.

    Attributes: `calls`, how often `step` was run or traced.
    """

    def __init__(self, vocabulary_size=11, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.seed = seed
        self.calls = 0
        random = np.random.default_rng(seed)
        shapes = [(vocabulary_size, WIDTH), (WIDTH, WIDTH), (WIDTH, vocabulary_size)]
        self.arrays = []
        for shape, scale in zip(shapes, (2.0, 0.5, 1.0), strict=True):
            value = (scale * random.standard_normal(shape)).astype("float32")
            weight = self.add_weight(shape=shape, initializer="zeros")
            weight.assign(value)
            self.arrays.append(weight)
        self.built = True

    def call(self, token_ids):
        return self.step(token_ids, self.initial_state(ops.shape(token_ids)[0]))[0]

    def initial_state(self, batch_size):
        return {"layer": {"h": ops.zeros((batch_size, WIDTH))}, "read": ops.zeros((batch_size, 1), "float32")}

    def step(self, token_ids, state, count=None):
        self.calls += 1
        embedding, recurrence, output = self.arrays
        h, read, logits = state["layer"]["h"], state["read"], []
        for position in range(token_ids.shape[1]):
            new = ops.tanh(ops.matmul(h, recurrence) + ops.take(embedding, token_ids[:, position], axis=0))
            counts = True if count is None else position < ops.convert_to_tensor(count)
            h, read = ops.where(counts, new, h), ops.where(counts, read + 1, read)
            logits.append(ops.matmul(h, output))
        return ops.stack(logits, axis=1), {"layer": {"h": h}, "read": read}

    def get_config(self):
        return {"vocabulary_size": self.vocabulary_size, "seed": self.seed}

    def log_shares(self, text) -> np.ndarray:
        """Return log p of every token behind a text, in float64."""
        embedding, recurrence, output = (np.float64(ops.convert_to_numpy(x)) for x in self.arrays)
        h = np.zeros(WIDTH)
        for token in text:
            h = np.tanh(h @ recurrence + embedding[token])
        logits = h @ output
        return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
