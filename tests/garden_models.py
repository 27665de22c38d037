"""Small encoders of krpe_tf.garden and their inputs, for the checks that run beside Model Garden."""

import numpy as np
from definition import randomize

from krpe_tf import garden


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def small_config(**changes):
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    rates = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
    return garden.EncoderConfig(**{**sizes, **rates, "num_features": 8, "seed": 4, **changes})


def encoder_inputs(batch=2, length=21, tokens=15):
    ids = np.random.default_rng(0).integers(1, 50, (batch, length)).astype("int32")
    mask = np.ones_like(ids)
    mask[-1, tokens:] = 0
    return {"input_word_ids": ids * mask, "input_mask": mask, "input_type_ids": np.zeros_like(ids)}


def randomized(model, seed=0):
    randomize(model, seed, scale=0.1)
    return model
