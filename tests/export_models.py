"""Small models and texts for the export tests, and the processes that run exported files."""

import json
import subprocess
import sys
from functools import partial

import keras
import numpy as np

from krpe_tf import export, models
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["the", "people", "of", "union", "congress", "states", "war", "peace", "law", "was", "made", "for", "and", "by"]
TEXTS = ["The people of the Union.", "War, peace & the law was made for people 😀 Ünïon", "東京 " * 3]

# Without the seconds that measuring takes.
export_tflite = partial(export.export_tflite, measure=False)


def make_tokenizer():
    return WordPieceTokenizer([*RESERVED_TOKENS, *LETTERS, *(f"##{c}" for c in LETTERS), *".,&", *WORDS])


def make_encoder(length=None, seed=0, **arguments):
    keras.utils.set_random_seed(seed)
    sizes = {"vocabulary_size": 128, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 64}
    return models.Encoder(**{**sizes, "num_features": 8, "length": length, "seed": seed, **arguments})


def make_classifier(length=None, **arguments):
    return models.TextClassifier(make_encoder(length, **arguments), 3)


def make_ids(batch, length, counts, seed=0):
    """Random ids and a mask with the given number of tokens in each row."""
    ids = np.random.default_rng(seed).integers(5, 100, (batch, length)).astype("int32")
    mask = (np.arange(length) < np.asarray(counts)[:, None]).astype("int32")
    return {"token_ids": ids * mask, "padding_mask": mask}


def relative_error(result, expected):
    expected = np.asarray(expected)
    assert result.shape == expected.shape
    return np.abs(result - expected).max() / np.abs(expected).max()


def run_python(script, *arguments):
    """Run a script in a fresh process; it prints one line of JSON last."""
    done = subprocess.run([sys.executable, "-P", "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
