"""Small models and texts for the export tests, and the processes that run exported files."""

import json
import subprocess
import sys
from functools import cached_property, partial
from pathlib import Path

import keras
import numpy as np

from krpe_tf import export, models
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MARKS = ["\u0941", "\u0947"]  # Vowel signs of Hindi.
WORDS = ["the", "people", "of", "union", "congress", "states", "war", "peace", "law", "was", "made", "for", "and", "by"]
TEXTS = ["The people of the Union.", "War, peace & the law was made for people 😀 Ünïon", "東京 " * 3]

# For scripts of `run_python`: a process that dies fails its test alone. Answers are kept to the end, so that one in the
# interpreter's memory is noticed.
FROM_THREADS = """
import threading
import numpy as np
def wrong_answers(model, batches, calls=60, threads=4):
    right, given = [np.array(model(batch)) for batch in batches], []
    def work(first):
        for index in range(first, first + calls):
            try:
                given.append((index % len(batches), model(batches[index % len(batches)])))
            except Exception as error:
                given.append((index % len(batches), error))
    running = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
    for each in running: each.start()
    for each in running: each.join()
    assert len(given) == calls * threads
    def is_wrong(index, answer):
        return isinstance(answer, Exception) or np.abs(answer - right[index]).max() > 1e-5 * np.abs(right[index]).max()
    return int(sum(is_wrong(*each) for each in given))
"""

# Without the seconds that measuring takes.
export_tflite = partial(export.export_tflite, measure=False)


def make_tokenizer():
    continuing = [f"##{character}" for character in (*LETTERS, *MARKS)]
    return WordPieceTokenizer([*RESERVED_TOKENS, *LETTERS, *continuing, *".,&", *WORDS, "क"])


def make_encoder(length=None, seed=0, **arguments):
    keras.utils.set_random_seed(seed)
    sizes = {"vocabulary_size": 128, "num_layers": 1, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 64}
    return models.Encoder(**{**sizes, "num_features": 8, "length": length, "seed": seed, **arguments})


def make_classifier(length=None, **arguments):
    return models.TextClassifier(make_encoder(length, **arguments), 3)


class Shared:
    """A classifier and three exports of it, each the file's path and the report, made when first asked for.

    Attributes: `classifier`; `ids`, for 16 and 40 tokens; `text`, with a tokenizer, compared on `TEXTS` with a
    tolerance of 1e-3; `free`, with a tokenizer, for 16, 40 and any number of tokens, and measured.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.classifier = make_classifier(vocabulary_size=2048, num_layers=2)

    def _export(self, name, lengths, **arguments):
        path = self.folder / f"{name}.tflite"
        return path, export_tflite(self.classifier, path, lengths, **arguments)

    @cached_property
    def ids(self):
        return self._export("ids", (16, 40))

    @cached_property
    def text(self):
        return self._export("text", (16, 40), tokenizer=make_tokenizer(), sample_texts=TEXTS, tolerance=1e-3)

    @cached_property
    def free(self):
        return self._export("free", (16, 40, None), tokenizer=make_tokenizer(), measure=True)


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
