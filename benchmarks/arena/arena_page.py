"""Make the tables and the pictures of docs/long_range_arena.md from the finished runs of arena.py.

    python benchmarks/arena/arena_page.py --output build/arena --publish docs

Reads arena.jsonl in the folder, and writes tables and pictures there. With `--publish` the tables go between the
markers of long_range_arena.md, and the pictures and the runs, from which this can be run again, to figures/arena/.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

# For the modules that all benchmarks share, and those of the recipes.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import _pathfinder
from _pages import keep_files, replace_marked, save_figure
from _runs import read_lines
from _tables import markdown_table

CONFIG = Path(__file__).with_name("small.json")
RUNS, PICTURES, CURVES = "arena.jsonl", "pathfinder.png", "curves.png"
# By task: title, and what a guess gives: of ListOps the commonest answer of the test part.
TASKS = {
    "listops": ("ListOps", 0.17),
    "text": ("Text", 0.5),
    "image": ("Image", 0.1),
    "pathfinder": ("Pathfinder", 0.5),
}
# Table 1 of arXiv 2011.04006, in percent.
PUBLISHED = {
    "Transformer": (36.37, 64.27, 42.44, 71.40),
    "Local attention": (15.82, 52.98, 41.46, 66.63),
    "Sparse Transformer": (17.07, 63.58, 44.24, 71.71),
    "Longformer": (35.63, 62.85, 42.22, 69.71),
    "Linformer": (35.70, 53.94, 38.56, 76.34),
    "Reformer": (37.27, 56.10, 38.07, 68.50),
    "Sinkhorn Transformer": (33.67, 61.20, 41.23, 67.45),
    "Synthesizer": (36.99, 61.68, 41.61, 69.45),
    "BigBird": (36.05, 64.02, 40.83, 74.87),
    "Linear Transformer": (16.13, 65.90, 42.34, 75.30),
    "Performer": (18.01, 65.40, 42.77, 77.05),
}


def percent(values: list[float]) -> str:
    """Write a mean in percent, with the standard deviation over seeds, if there are several."""
    if not values:
        return "-"
    spread = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{spread}"


def accuracy_table(runs: list[dict]) -> str:
    """Return the accuracies: a row for each model, a column for each task; below them what was published."""
    rows = []
    for model in dict.fromkeys(run["model"] for run in runs):
        found = [[run["accuracy"] for run in runs if (run["model"], run["task"]) == (model, task)] for task in TASKS]
        seeds = sorted({len(values) for values in found if values})
        rows.append([model, *map(percent, found), "-".join(map(str, seeds))])
    rows.append(["a guess", *(percent([chance]) for _, chance in TASKS.values()), ""])
    rows += [[f"published: {name}", *(f"*{value:.1f}*" for value in row), ""] for name, row in PUBLISHED.items()]
    return markdown_table(["model", *(title for title, _ in TASKS.values()), "seeds"], rows)


def schedule_table(runs: list[dict]) -> str:
    """Return sizes and steps of the runs of each task."""
    rows = []
    for task, (title, _) in TASKS.items():
        mine = [run for run in runs if run["task"] == task]
        if not mine:
            continue
        run = mine[0]
        sizes = f"{run['num_layers']} of {run['hidden_dim']}, {run['num_heads']} heads"
        rate = f"{run['learning_rate']:g}"
        documents = f"{run['training_documents']:,} + {run['test_documents']:,}"
        tokens = f"{run['batch_tokens']:,}"
        rows.append([title, sizes, f"{run['max_length']:,}", documents, f"{run['steps']:,}", tokens, rate])
    header = ["task", "layers", "longest", "documents", "steps", "bytes a step", "rate"]
    return markdown_table(header, rows)


def seconds_table(runs: list[dict]) -> str:
    """Return the mean seconds of CPU of a run: a row for each model, a column for each task."""
    rows = []
    for model in dict.fromkeys(run["model"] for run in runs):
        found = [[run["cpu_seconds"] for run in runs if (run["model"], run["task"]) == (model, task)] for task in TASKS]
        rows.append([model, *(f"{np.mean(values):,.0f}" if values else "-" for values in found)])
    return markdown_table(["seconds of CPU", *(title for title, _ in TASKS.values())], rows)


def tables(runs: list[dict]) -> str:
    """Return everything between the markers."""
    versions = sorted({f"TensorFlow {run['versions']['tensorflow']}, keras {run['versions']['keras']}" for run in runs})
    parts = [f"{'; '.join(versions)}. {len(runs)} runs. Accuracy on the test part, in percent.\n"]
    if any(run["suite"] == "quick" for run in runs):
        parts.append("**A quick run: these numbers prove nothing.**\n")
    parts += [accuracy_table(runs), schedule_table(runs), seconds_table(runs)]
    return "\n".join(parts)


def pictures() -> Figure:
    """Draw some pictures of pathfinder with their answers."""
    images, labels = _pathfinder.generate(24, seed=0, batch=64)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for row, (label, title) in zip(figure.subplots(2, 6), enumerate(("apart", "connected")), strict=True):
        for axis, image in zip(row, images[labels == label], strict=False):
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    return figure


def curves(runs: list[dict]) -> Figure:
    """Plot the training loss of the first seed against steps, a panel for each task."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    models = list(dict.fromkeys(run["model"] for run in runs if run["curve"]))
    for axis, (task, (title, _)) in zip(figure.subplots(2, 2).flat, TASKS.items(), strict=True):
        for run in runs:
            if run["task"] == task and run["seed"] == 0 and run["curve"]:
                steps, losses, _ = zip(*run["curve"], strict=True)
                axis.plot(steps, losses, color=f"C{models.index(run['model'])}", label=run["model"])
        axis.set(title=title, xlabel="steps", ylabel="training loss, nats")
        axis.grid(alpha=0.3)
    if models:
        figure.axes[0].legend(fontsize=7)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the runs and write tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/arena"), help=f"the folder that holds {RUNS}")
    parser.add_argument("--publish", type=Path, metavar="DOCS", help="the docs folder to write to as well")
    options = parser.parse_args(arguments)
    runs = read_lines(options.output / RUNS)
    models = json.loads(CONFIG.read_text(encoding="utf-8"))["models"]
    runs.sort(key=lambda run: (models.index(run["model"]), run["seed"]))
    if not runs:
        raise SystemExit(f"--output must hold {RUNS}, run arena.py first. Received: {options.output}")
    text = tables(runs)
    save_figure(pictures(), options.output / PICTURES)
    save_figure(curves(runs), options.output / CURVES)
    if options.publish is None:
        (options.output / "arena.md").write_text(text, encoding="utf-8")
    else:
        replace_marked("arena", {options.publish / "long_range_arena.md": text})
        keep_files((RUNS, PICTURES, CURVES), options.output, options.publish / "figures" / "arena")
    print(text)


if __name__ == "__main__":
    main()
