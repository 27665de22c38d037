"""Loss against length, up to eight times the length of training, for every bias and for the softmax twin."""

import matplotlib.pyplot as plt
import numpy as np
from _language import LENGTH, evaluate, load_bytes, make_model, train
from _output import arguments, write
from keras.utils import Progbar

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


def main() -> None:
    """Trains, measures, plots and writes."""
    options = arguments(__doc__.splitlines()[0])
    steps, seeds, times = (3, 1, (1, 2)) if options.quick else (400, 3, (1, 2, 4, 8))
    training, validation = load_bytes()
    losses = {name: {factor: [] for factor in times} for name in MODELS}
    progress = Progbar(len(MODELS) * seeds, unit_name="model")
    for seed in range(seeds):
        for name, variant in MODELS.items():
            model = make_model(seed=seed, **variant)
            train(model, training, steps, seed)
            for factor in times:
                losses[name][factor].append(evaluate(model, validation, factor * LENGTH, times[-1] * LENGTH))
            progress.add(1)
    figure, axis = plt.subplots(figsize=(7, 4.5))
    for name, values in losses.items():
        mean = [np.mean(values[factor]) for factor in times]
        axis.plot([factor * LENGTH for factor in times], mean, marker="o", label=name)
    ticks = [factor * LENGTH for factor in times]
    axis.set(xlabel=f"length in bytes (trained at {LENGTH})", ylabel="validation, nats a byte", xscale="log")
    axis.set(xticks=ticks, xticklabels=ticks)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    numbers = {"steps": steps, "seeds": seeds, "trained_at": LENGTH, "nats": losses}
    write(options.output, "extrapolation", numbers, figure)


if __name__ == "__main__":
    main()
