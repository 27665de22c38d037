"""The tables and the plots of the causal-LM recipe."""

from statistics import fmean, stdev

from _runs import difference
from _tables import markdown_table
from matplotlib.figure import Figure

# Named here as well, as `_causal_lm` imports Keras.
SOFTMAX, FEATURES = "softmax, same bias", "orthogonal, m = "
TITLES = {
    "small": "The causal recipe",
    "sweep": "Other learning rates of baselines",
    "short": "A shorter schedule",
    "more steps": "A longer schedule",
}


def by_model(runs: list[dict]) -> dict[tuple, dict[int, dict]]:
    """Return the runs by model and learning rate, and of each by seed."""
    models = {}
    for run in runs:
        models.setdefault((run["model"], run["learning_rate"]), {})[run["seed"]] = run
    return models


def bits(values: list[float | None]) -> str:
    """Write the mean over seeds, and their standard deviation."""
    if None in values:
        return "not finite"
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def suite_table(runs: list[dict], twin: dict[int, dict]) -> str:
    """Return the bits per byte of each model by length of window, and its difference from softmax, seed by seed."""
    lengths = list(runs[0]["final"])
    ends = lengths[0], lengths[-1]
    rows = []
    for (model, rate), seeds in by_model(runs).items():
        row = [model, f"{rate:g}", str(len(seeds))]
        row += [bits([run["final"][length] for run in seeds.values()]) for length in lengths]
        for length in ends:
            pairs = [(run["final"][length], twin[seed]["final"][length]) for seed, run in seeds.items() if seed in twin]
            row.append("" if seeds == twin else difference(pairs))
        rows.append(row)
    gaps = [f"minus softmax at {int(length):,}: mean (least to most)" for length in ends]
    return markdown_table(["model", "rate", "seeds", *(f"{int(n):,}" for n in lengths), *gaps], rows)


def sentence(run: dict) -> str:
    """Describe the sizes of a suite."""
    sizes = f"{run['steps']:,} steps of {run['batch_size']} x {run['length']:,} bytes"
    layers = f"{run['num_layers']} layers of {run['hidden_dim']}, {run['num_heads']} heads"
    held_out = run["held_out_windows"] * run["length"] * max(run["multiples"])
    return f"{sizes}, {layers}; {held_out:,} held-out bytes.\n"


def causal_tables(runs: list[dict]) -> str:
    """Return everything between the markers."""
    versions = {f"TensorFlow {run['versions']['tensorflow']}, keras {run['versions']['keras']}" for run in runs}
    parts = [f"{'; '.join(sorted(versions))}. {len(runs)} runs.\n"]
    if any(run["hidden_dim"] < 96 for run in runs):
        parts.append("**A quick run: these numbers prove nothing.**\n")
    suites = {suite: [run for run in runs if run["suite"] == suite] for suite in TITLES}
    twins = {suite: _twin(part) for suite, part in suites.items()}
    for suite, part in suites.items():
        if part:
            # The sweep has no softmax of its own, and the steps of the recipe.
            twin = twins[suite] or twins["small"]
            parts += [f"### {TITLES[suite]}\n", sentence(part[0]), suite_table(part, twin)]
        if suite == "small" and part:
            seconds = [run["cpu_seconds"] for run in part]
            parts.append(f"A run took {min(seconds):.0f} to {max(seconds):.0f} seconds of CPU, evaluation included.\n")
            parts.append("![Bits per byte](figures/recipes/small_causal_lm.png)\n")
    return "\n".join(parts)


def _twin(runs: list[dict]) -> dict[int, dict]:
    """Return the runs of softmax with the same bias, by seed."""
    return next((seeds for (model, _), seeds in by_model(runs).items() if model == SOFTMAX), {})


def causal_plot(runs: list[dict]) -> Figure:
    """Plot the recipe's bits per byte against steps, the number of features, and the length of the window."""
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    steps, features, lengths = figure.subplots(1, 3)
    for index, ((model, _), seeds) in enumerate(by_model(runs).items()):
        style = {"color": f"C{index % 10}", "linestyle": "-" if index < 10 else "--", "label": model}
        curves = [[bits for *_, bits in run["curve"]] for run in seeds.values()]
        finals = [list(run["final"].values()) for run in seeds.values()]
        if any(None in values for values in curves + finals):
            continue
        first = next(iter(seeds.values()))
        steps.plot([step for step, *_ in first["curve"]], list(map(fmean, zip(*curves, strict=True))), **style)
        lengths.plot(list(first["final"]), list(map(fmean, zip(*finals, strict=True))), marker=".", **style)
        if model.startswith(FEATURES) and model.removeprefix(FEATURES).isdigit():
            at = [int(model.removeprefix(FEATURES))] * len(finals)
            features.plot(at, [values[0] for values in finals], "o", color=style["color"], label=model)
        elif model == SOFTMAX:
            for values in finals:
                features.axhline(
                    values[0], color=style["color"], linewidth=0.8, label=model if values is finals[0] else None
                )
    steps.set(xlabel="steps", ylabel="bits per byte, a quarter of the held-out bytes")
    features.set(
        xlabel="features m",
        ylabel=f"bits per byte at {runs[0]['length']}, each seed",
        xscale="log",
        xticks=[16, 32, 64],
    )
    features.set_xticklabels(["16", "32", "64"])
    features.minorticks_off()
    lengths.set(xlabel="bytes of a window", ylabel="bits per byte")
    for axis in (steps, features, lengths):
        axis.grid(alpha=0.3)
    steps.legend(fontsize=7)
    features.legend(fontsize=7)
    return figure
