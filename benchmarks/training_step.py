"""One optimizer step of masked LM, preset "small", ours against the softmax twin with the same bias.

    python benchmarks/training_step.py --output build/bench

A batch of one document, logits at the masked positions, forward, backward and AdamW; Keras' own step, as a plain graph
and compiled by XLA.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
from _measure import MODES, command_line, print_row, take_turns, write_results

from krpe_tf.models import Encoder, MaskedLM
from krpe_tf.training import compile_masked_lm, make_optimizer

LENGTHS = (512, 1024, 2048, 4096, 8192)
FEATURE_MAPS = {"banded": "orthogonal", "softmax twin": "softmax"}


def make_model(name: str, jit_compile: bool, preset: str = "small") -> MaskedLM:
    """Return a compiled masked LM: "banded" or "softmax twin"."""
    route = "banded" if name == "banded" else "auto"
    encoder = Encoder.from_preset(preset, feature_map=FEATURE_MAPS[name], route=route, seed=0)
    model = MaskedLM(encoder, at_positions=True)
    compile_masked_lm(model, make_optimizer(1e-3, steps=1000), jit_compile=jit_compile)
    return model


def make_batch(n: int, vocabulary_size: int) -> tuple[dict, np.ndarray, np.ndarray]:
    """Return inputs, labels and weights of one document, 15 % of whose tokens are masked."""
    rng, masked = np.random.default_rng(0), math.ceil(0.15 * n)
    inputs = {
        "token_ids": rng.integers(0, vocabulary_size, (1, n), dtype="int32"),
        "padding_mask": np.ones((1, n), "int32"),
        "mask_positions": np.sort(rng.choice(n, masked, replace=False))[None].astype("int32"),
    }
    labels = rng.integers(0, vocabulary_size, (1, masked), dtype="int32")
    return inputs, labels, np.ones((1, masked), "float32")


def step_of(model: MaskedLM, batch):
    """Return one training step as a call that gives the loss."""
    return lambda: model.train_on_batch(*batch)[0]


def measure(n: int, preset: str, modes, rounds: int) -> list[dict]:
    """Measure one length: a row for each model and mode."""
    calls = {}
    for name in FEATURE_MAPS:
        for mode in modes:
            model = make_model(name, mode == "xla", preset)
            calls[name, mode] = step_of(model, make_batch(n, model.encoder.vocabulary_size))
    rows = []
    for (name, mode), result in take_turns(calls, rounds).items():
        rows.append({"contestant": name, "kind": "training step", "mode": mode, "n": n, **result})
        print_row(rows[-1], "n", "contestant", "mode")
    keras.utils.clear_session()
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write training_step.json."""
    options = command_line(__doc__, arguments)
    preset, modes, rows = "tiny" if options.quick else "small", MODES[:1] if options.quick else MODES, []
    for n in (64,) if options.quick else LENGTHS:
        rows += measure(n, preset, modes, options.rounds)
    write_results(options, "training_step", rows, preset=preset)


if __name__ == "__main__":
    main()
