"""Figure 2 of the paper, small: softmax models converted to random features without further training.

Byte-level language models with standard or normalised attention, with or without relative positions (then absolute
ones), trained with the exact softmax kernel; then the kernel is replaced by m positive features (Eq. 5).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from _language import evaluate, make_model, train
from _output import command_line, write
from keras.utils import Progbar

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules that all benchmarks share
from _messages import load_bytes

VARIANTS = {
    "standard": {"normalize": False, "bias": None},
    "normalised": {"normalize": True, "bias": None},
    "standard, relative": {"normalize": False, "bias": "decay"},
    "normalised, relative": {"normalize": True, "bias": "decay"},
}


def measure(steps: int, seeds: int, counts: tuple[int, ...]) -> dict:
    """Return validation losses by variant and number of features, one for each seed."""
    training, validation = load_bytes()
    losses = {name: {str(m): [] for m in ("softmax", *counts)} for name in VARIANTS}
    progress = Progbar(len(VARIANTS) * seeds, unit_name="model")
    for seed in range(seeds):
        for name, variant in VARIANTS.items():
            model = make_model(feature_map="softmax", seed=seed, **variant)
            train(model, training, steps, seed)
            losses[name]["softmax"].append(evaluate(model, validation))
            for m in counts:
                converted = make_model(feature_map="positive", num_features=m, seed=seed, **variant)
                for ours, theirs in zip(converted.weights, model.weights, strict=True):
                    if ours.name != "projection":
                        ours.assign(theirs)
                losses[name][str(m)].append(evaluate(converted, validation))
            progress.add(1)
    return {"steps": steps, "seeds": seeds, "nats": losses}


def plot(numbers: dict):
    """Plot a panel for each variant: means with two standard errors, and the softmax model it came from."""
    figure, axes = plt.subplots(1, len(VARIANTS), figsize=(14, 3.5), sharey=True)
    for axis, (name, values) in zip(axes, numbers["nats"].items(), strict=True):
        counts = [int(m) for m in values if m != "softmax"]
        mean = np.array([np.mean(values[str(m)]) for m in counts])
        spread = None
        if numbers["seeds"] > 1:
            spread = [2 * np.std(values[str(m)], ddof=1) / np.sqrt(numbers["seeds"]) for m in counts]
        axis.errorbar(counts, mean, spread, marker="o", capsize=3, label="converted")
        axis.axhline(np.mean(values["softmax"]), color="black", linestyle="--", label="softmax")
        axis.set(title=name, xlabel="features m", xscale="log", xticks=counts, xticklabels=counts)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("validation, nats a byte")
    axes[0].legend()
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, convert, plot and write."""
    options = command_line(__doc__, arguments)
    numbers = measure(3, 1, (16,)) if options.quick else measure(400, 5, (16, 32, 64, 128, 256, 512))
    write(options.output, "conversion", numbers, plot(numbers))


if __name__ == "__main__":
    main()
