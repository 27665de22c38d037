"""Make the tables and the plots of docs/recipes.md and docs/lookup.md from the finished runs of the recipes.

    python benchmarks/recipes/page.py --output build/recipes --publish docs

Reads masked_lm.jsonl, causal_lm.jsonl and lookup.jsonl in the folder, whichever are there, and writes tables and a plot
of each there. With `--publish` the tables go between the markers of the pages, and the plots and the runs, from which
this can be run again, to figures/recipes/.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _runs import difference, read_lines
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules that all benchmarks share

from _causal_page import causal_plot, causal_tables
from _lookup_page import TITLES, lookup_plot, lookup_tables
from _noise_page import noise_tables
from _pages import keep_files, replace_marked, save_figure
from _tables import markdown_table

RUNS, PLOT = "masked_lm.jsonl", "small_masked_lm.png"
# The first measurement: a prototype on 25 MB of other text, one seed, 900 steps of 8 x 256 bytes, and 3,600 of two.
FIRST = {
    ("none, absolute positions", "softmax", None): 3.054,
    ("none, absolute positions", "kernel", 16): 3.053,
    ("none, absolute positions", "kernel, not normalized", 16): 3.054,
    ("buckets from zeros", "softmax", None): 2.779,
    ("buckets from zeros", "kernel", 64): 2.743,
    ("buckets from zeros", "kernel", 16): 2.763,
    ("buckets from zeros", "kernel, not normalized", 64): 2.853,
    ("full table from zeros", "kernel", 64): 2.767,
    ("full table from slopes", "softmax", None): 1.879,
    ("full table from slopes", "kernel", 16): 1.882,
    ("radius 16 + 2 exponentials, from slopes", "softmax", None): 1.875,
    ("radius 16 + 2 exponentials, from slopes", "kernel", 16): 1.880,
    ("radius 4 + 2 exponentials, from slopes", "kernel", 16): 1.873,
}
FIRST_LONGER = {
    ("buckets from zeros", "kernel", 16): 1.679,
    ("radius 16 + 2 exponentials, from slopes", "kernel", 16): 1.221,
}


def key(run: dict) -> tuple:
    """Return what names a model."""
    return run["bias"], run["attention"], run.get("num_features")


def label(attention: str, num_features: int | None) -> str:
    """Return the heading of a column."""
    return attention if num_features is None else f"{attention}, m = {num_features}"


def nats(loss: float | None, first: float | None = None) -> str:
    """Write a loss, or that it is not finite, with that of the first measurement in parentheses."""
    text = "not finite" if loss is None else f"{loss:.3f}"
    return text if first is None else f"{text} ({first:.3f})"


def small_table(runs: list[dict]) -> str:
    """Return the final losses of the recipe: a column for each seed, mean, spread, and the difference from softmax."""
    models, seeds = list(dict.fromkeys(map(key, runs))), sorted({run["seed"] for run in runs})
    final = {(key(run), run["seed"]): run["final"] for run in runs}
    rows = []
    for model in models:
        losses = [final.get((model, seed), "") for seed in seeds]
        cells = ["" if loss == "" else nats(loss) for loss in losses]
        known = [loss for loss in losses if loss not in ("", None)]
        mean = f"{np.mean(known):.3f}" if known else ""
        spread = f"{max(known) - min(known):.3f}" if len(known) > 1 else ""
        twin = next((other for other in models if other[:2] == (model[0], "softmax")), None)
        pairs = [(final.get((model, seed)), final.get((twin, seed))) for seed in seeds]
        gap = difference(pairs) if model != twin else ""
        rows.append([model[0], label(*model[1:]), *cells, mean, spread, gap])
    header = [
        "bias",
        "attention",
        *(f"seed {seed}" for seed in seeds),
        "mean",
        "most - least",
        "minus softmax with the same bias: mean (least to most)",
    ]
    return markdown_table(header, rows)


def bias_table(runs: list[dict], first: dict) -> str:
    """Return a table with a row for each bias and a column for each attention; first measurement in parentheses."""
    final = {key(run): run["final"] for run in runs}
    columns = sorted({model[1:] for model in final}, key=lambda column: (column[0] != "softmax", column[0], column[1]))
    rows = []
    for bias in dict.fromkeys(model[0] for model in [*FIRST, *final] if any(bias == model[0] for bias, *_ in final)):
        cells = []
        for column in columns:
            model = (bias, *column)
            cells.append(nats(final[model], first.get(model)) if model in final else "-")
        rows.append([bias, *cells])
    return markdown_table(["bias", *(label(*column) for column in columns)], rows)


def longer_table(table: list[dict], longer: list[dict]) -> str:
    """Return a table of runs of many steps beside those of few."""
    few = {key(run): run for run in table}
    rows = []
    for run in longer:
        model = key(run)
        if model in few:
            cells = [nats(few[model]["final"], FIRST.get(model)), nats(run["final"], FIRST_LONGER.get(model))]
            rows.append([model[0], label(*model[1:]), *cells])
            steps = few[model]["steps"], run["steps"]
    return markdown_table(["bias", "attention", *(f"{count:,} steps" for count in steps)], rows) if rows else ""


def not_run(suites: dict, table: list[dict]) -> str:
    """Say what of the first measurement, and of the suites, has no run."""
    done = set(map(key, table))
    missing = [f"{bias} with {label(*rest)}" for bias, *rest in FIRST if (bias, *rest) not in done]
    missing += [
        name for suite, name in (("long", "windows of 2,048"), ("longer", "3,600 steps")) if suite not in suites
    ]
    return f"Not run: {'; '.join(missing)}.\n" if missing else ""


def sentence(run: dict) -> str:
    """Describe the sizes of a suite."""
    sizes = f"{run['steps']:,} steps of {run['batch_size']} x {run['length']:,} bytes"
    return f"{sizes}, {run['num_layers']} layers of {run['hidden_dim']}, {run['num_heads']} heads.\n"


def timing_text(timing: dict, steps: int) -> str:
    """Describe what the recipe takes on an idle machine, reckoned from a few steps."""
    parts = []
    for name, seconds in timing["seconds"].items():
        first = timing["first_seconds"][name] - seconds
        whole = (first + seconds * steps / timing["steps"]) / 60
        step = 1000 * seconds / timing["steps"]
        parts.append(f"{name} {step:.0f} ms a step, so {whole:.1f} minutes for {steps:,} steps")
    how = f"Reckoned from {timing['steps']} steps of each model on two idle cores, compiling included"
    return f"{how}, validation not: {'; '.join(parts)}.\n"


def tables(runs: list[dict]) -> str:
    """Return everything between the markers."""
    suites = {}
    for run in runs:
        suites.setdefault(run["suite"], []).append(run)
    trained = [run for run in runs if run["suite"] != "timing"]
    versions = sorted(
        {f"TensorFlow {run['versions']['tensorflow']}, keras {run['versions']['keras']}" for run in trained}
    )
    parts = [f"{'; '.join(versions)}. {len(trained)} runs.\n"]
    if any(run["hidden_dim"] < 96 for run in trained):
        parts.append("**A quick run: these numbers prove nothing.**\n")
    if "small" in suites:
        small = suites["small"]
        parts += ["## The small recipe\n", sentence(small[0]), small_table(small), f"![Loss](figures/recipes/{PLOT})\n"]
        minutes = [run["seconds"] / 60 for run in small]
        parts.append(f"A run took {min(minutes):.1f} to {max(minutes):.1f} minutes, beside whatever else ran.\n")
        if "timing" in suites:
            parts.append(timing_text(suites["timing"][-1], small[0]["steps"]))
    for suite, title in (("more steps", "More steps"), ("slopes", "As it was before 0.2, from slopes")):
        if suite in suites:
            parts += [f"## {title}\n", sentence(suites[suite][0]), small_table(suites[suite])]
    # The first seed of the recipe as it was is part of the table.
    table = [run for run in suites.get("slopes", []) if run["seed"] == 0] + suites.get("table", [])
    for rows, title, first in ((table, "Biases, n = 256", FIRST), (suites.get("long"), "Biases, n = 2,048", {})):
        if rows:
            parts += [f"## {title}\n", sentence(rows[0]), bias_table(rows, first)]
    longer = longer_table(table, suites.get("longer", []))
    if longer:
        parts += ["## Longer training, n = 256\n", longer]
    parts.append(not_run(suites, table))
    return "\n".join(filter(None, parts))


def plot(runs: list[dict]):
    """Plot the validation loss of the recipe against steps: the mean over seeds, and each seed."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for index, model in enumerate(dict.fromkeys(map(key, runs))):
        curves = [run["curve"] for run in runs if key(run) == model]
        losses = np.array([[np.nan if loss is None else loss for _, _, loss in curve] for curve in curves])
        steps, color = [step for step, *_ in curves[0]], f"C{index}"
        axis.plot(steps, losses.mean(axis=0), color=color, label=f"{label(*model[1:])}, {model[0]}")
        for curve in losses:
            axis.plot(steps, curve, color=color, alpha=0.3, linewidth=0.8)
    axis.set(xlabel="steps", ylabel="validation, nats a masked byte")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    return figure


class Kind(NamedTuple):
    """What the runs of one script become: their tables between markers of a page, and a plot of some suites."""

    runs: str
    page: str
    marker: str
    figure: str | None
    tables: Callable[[list[dict]], str]
    plot: Callable[[list[dict]], Figure] | None
    suites: tuple[str, ...] = ("small",)


KINDS = (
    Kind(RUNS, "recipes.md", "recipes", PLOT, tables, plot),
    Kind("causal_lm.jsonl", "recipes.md", "recipes-lm", "small_causal_lm.png", causal_tables, causal_plot),
    Kind("lookup.jsonl", "lookup.md", "lookup", "lookup.png", lookup_tables, lookup_plot, tuple(TITLES)),
    Kind("gradient_noise.jsonl", "recipes.md", "gradient-noise", None, noise_tables, None, ()),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the runs and write tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = f"the folder that holds {', '.join(kind.runs for kind in KINDS)}"
    parser.add_argument("--output", type=Path, default=Path("build/recipes"), help=folder)
    parser.add_argument("--publish", type=Path, metavar="DOCS", help="the docs folder to write to as well")
    options = parser.parse_args(arguments)
    found = {kind: runs for kind in KINDS if (runs := read_lines(options.output / kind.runs))}
    if not found:
        names = " or ".join(kind.runs for kind in KINDS)
        raise SystemExit(f"--output must hold {names}, run the recipe first. Received: {options.output}")
    for kind, runs in found.items():
        text = kind.tables(runs)
        if options.publish is None:
            (options.output / f"{kind.marker}.md").write_text(text, encoding="utf-8")
        plotted = [run for run in runs if run["suite"] in kind.suites]
        if plotted:
            save_figure(kind.plot(plotted), options.output / kind.figure)
        if options.publish is not None:
            replace_marked(kind.marker, {options.publish / kind.page: text})
            keep_files(filter(None, (kind.runs, kind.figure)), options.output, options.publish / "figures" / "recipes")
        print(text)


if __name__ == "__main__":
    main()
