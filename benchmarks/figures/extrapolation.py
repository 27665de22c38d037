"""Loss against length, up to eight times the length of training, for every bias and for the softmax twin."""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from _language import LENGTH, evaluate, make_model, train
from _output import command_line, write
from keras.utils import Progbar

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules that all benchmarks share

from _messages import load_bytes

from krpe_tf import BucketedBias, DecayBias, LearnedBias

MODELS = {
    "DecayBias": {"feature_map": "orthogonal", "bias": DecayBias},
    "ALiBi: DecayBias(radius=1, num_terms=1)": {
        "feature_map": "orthogonal",
        "bias": lambda heads: DecayBias(heads, radius=1, num_terms=1),
    },
    "BucketedBias": {"feature_map": "orthogonal", "bias": BucketedBias},
    "LearnedBias, 2n - 1 scalars": {"feature_map": "orthogonal", "bias": lambda heads: LearnedBias(heads, LENGTH - 1)},
    "DecayBias, softmax twin": {"feature_map": "softmax", "bias": DecayBias},
}


def measure(steps: int, seeds: int, times: tuple[int, ...]) -> dict:
    """Return validation losses by model and length, one for each seed."""
    training, validation = load_bytes()
    losses = {name: {str(factor * LENGTH): [] for factor in times} for name in MODELS}
    progress = Progbar(len(MODELS) * seeds, unit_name="model")
    for seed in range(seeds):
        for name, variant in MODELS.items():
            model = make_model(seed=seed, **variant)
            train(model, training, steps, seed)
            for length, values in losses[name].items():
                values.append(evaluate(model, validation, int(length), times[-1] * LENGTH))
            progress.add(1)
    return {"steps": steps, "seeds": seeds, "trained_at": LENGTH, "nats": losses}


def plot(numbers: dict):
    """Plot a line for each model."""
    figure, axis = plt.subplots(figsize=(6, 4.5))
    for name, values in numbers["nats"].items():
        axis.plot(list(map(int, values)), [np.mean(losses) for losses in values.values()], marker="o", label=name)
    ticks = list(map(int, values))
    axis.set(xlabel=f"length in bytes (trained at {LENGTH})", ylabel="validation, nats a byte", xscale="log")
    axis.set(xticks=ticks, xticklabels=ticks)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, plot and write."""
    options = command_line(__doc__, arguments)
    numbers = measure(3, 1, (1, 2)) if options.quick else measure(400, 3, (1, 2, 4, 8))
    write(options.output, "extrapolation", numbers, plot(numbers))


if __name__ == "__main__":
    main()
