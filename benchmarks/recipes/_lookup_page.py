"""The tables and the plot of the lookup by content."""

from statistics import fmean

from _tables import markdown_table
from matplotlib.figure import Figure

TITLES = {"attention": "One attention", "recall": "A causal model"}


def by_cell(runs: list[dict]) -> dict[tuple[str, int], list[float]]:
    """Return the shares of values found by each seed, by model and number of pairs."""
    cells = {}
    for run in runs:
        cells.setdefault((run["model"], run["pairs"]), []).append(run["final"])
    return cells


def lookup_table(runs: list[dict]) -> str:
    """Return a row for each model and a column for each number of pairs: the mean over seeds, least and most."""
    cells = by_cell(runs)
    pairs = sorted({run["pairs"] for run in runs})
    rows = []
    for model in dict.fromkeys(run["model"] for run in runs):
        found = [cells.get((model, count)) for count in pairs]
        rows.append(
            [model, *(f"{fmean(each):.2f} ({min(each):.2f} to {max(each):.2f})" if each else "" for each in found)]
        )
    return markdown_table(["model", *(f"{count} pairs" for count in pairs)], rows)


def sentence(suite: str, run: dict) -> str:
    """Describe the sizes of a suite."""
    what = "one cross-attention" if suite == "attention" else "2 layers"
    sizes = f"{run['num_heads']} heads of {run['key_dim']}, width {run['width']}"
    steps = f"{run['steps']:,} steps of {run['batch_size']} rows"
    return f"{what}, {sizes}; {run['num_keys']} keys, {run['num_values']} values; {steps}.\n"


def lookup_tables(runs: list[dict]) -> str:
    """Return everything between the markers."""
    versions = {f"TensorFlow {run['versions']['tensorflow']}, keras {run['versions']['keras']}" for run in runs}
    parts = [f"{'; '.join(sorted(versions))}. {len(runs)} runs.\n"]
    if any(run["width"] < 64 for run in runs):
        parts.append("**A quick run: these numbers prove nothing.**\n")
    for suite, title in TITLES.items():
        if chosen := [run for run in runs if run["suite"] == suite]:
            text = sentence(suite, chosen[0])
            parts += [f"## {title}\n", text[0].upper() + text[1:], lookup_table(chosen)]
    return "\n".join([*parts, "![Values found](figures/recipes/lookup.png)\n"])


def lookup_plot(runs: list[dict]) -> Figure:
    """Plot the share of values found against the number of features, a line for each number of pairs."""
    suites = [suite for suite in TITLES if any(run["suite"] == suite for run in runs)]
    figure = Figure(figsize=(6 * len(suites), 4.5), layout="constrained")
    for axis, suite in zip(figure.subplots(1, len(suites), squeeze=False)[0], suites, strict=True):
        chosen = [run for run in runs if run["suite"] == suite]
        cells = by_cell(chosen)
        counts = sorted({run["num_features"] for run in chosen if "num_features" in run})
        for index, pairs in enumerate(sorted({run["pairs"] for run in chosen})):
            found = [
                (count, fmean(cells[f"m = {count}", pairs])) for count in counts if (f"m = {count}", pairs) in cells
            ]
            axis.plot(*zip(*found, strict=True), marker="o", color=f"C{index}", label=f"{pairs} pairs")
            for model, style in (("softmax", ":"), ("softmax, not normalised", "--")):
                if (model, pairs) in cells:
                    label = f"{pairs} pairs, {model}"
                    axis.axhline(fmean(cells[model, pairs]), linestyle=style, color=f"C{index}", label=label)
        axis.set(
            xlabel="features m", ylabel="values found", xscale="log", xticks=counts, ylim=(0, 1.03), title=TITLES[suite]
        )
        axis.set_xticklabels([str(count) for count in counts])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return figure
