"""Make tables and plots from the JSON of the benchmarks.

    python benchmarks/summary.py --output build/bench
    python benchmarks/summary.py --output build/bench --publish docs

Reads every JSON in the folder and writes summary.md, attention_speed.png, litert_speed.png and paper_figure_1a.png
there. With `--publish` the tables also go between the markers of speed.md, two short ones between those of the README
beside the docs folder, the plots to figures/, and the JSON, from which this can be run again, to figures/speed/.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from _pages import keep_files, replace_marked, save_figure
from _tables import NAMED, SOFTMAX_WITH_BIAS, by_length, markdown_table, named_columns, target_rows
from matplotlib.figure import Figure

SCRIPTS = (
    "attention",
    "layers",
    "paper_figure",
    "training_step",
    "input_pipeline",
    "packing",
    "on_device",
    "generation",
    "memory",
    "compile_time",
    "routes",
)
PLOTS = ("attention_speed.png", "litert_speed.png", "paper_figure_1a.png")
# Of each runtime: a table's title, the rows that it shows, and what of them.
GENERATION = (
    ("Writing a token at the end of a context of n, ms", "decode", "ms"),
    ("Writing a token at the end of a context of n, CPU ms of all threads", "decode", "cpu_ms"),
    ("Reading a prompt at the end of a context of n, tokens a second", "prefill", "tokens_per_s"),
    ("Writing at the end of a context of n, peak MiB of the process", "decode", "peak_mib"),
)
ATTENTION = {
    "banded": "o-",
    "linear, no positions": "o--",
    "fft": "^-",
    "dense": "s-",
    "softmax with bias, in blocks": "x-",
    "softmax with bias": "x--",
    "softmax": "x:",
}


def read(folder: Path) -> dict:
    """Return the results by name of their script."""
    paths = {name: folder / f"{name}.json" for name in SCRIPTS}
    results = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}
    if not results:
        raise SystemExit(f"--output must hold JSON of the benchmarks, run one first. Received: {folder}")
    return results


def about(results: dict) -> str:
    """Describe what was measured on."""
    seen = next(iter(results.values()))["about"]
    versions = ", ".join(f"{name} {version}" for name, version in seen["versions"].items())
    rates = [content["about"]["matmul_gflop_per_s"] for content in results.values()]
    text = f"{seen['cpu'] or seen['machine']}, {seen['threads']} threads, {versions}; float32 matmuls of 2048 at "
    text += (
        f"{min(rates):.0f} to {max(rates):.0f} GFLOP/s. Each number is the median of rounds in turn, in the better of "
    )
    text += "a plain graph and XLA where TensorFlow runs; calls of over 5 s have 3 rounds, others 7.\n"
    if any(content["quick"] for content in results.values()):
        text += "\n**A quick run: these numbers prove nothing.**\n"
    return text


def targets(results: dict) -> str:
    """Return the table of targets."""
    return markdown_table(["case", "n", "measured", "target", ""], target_rows(results))


def tables(results: dict) -> str:
    """Return all tables."""
    rows = {name: content["rows"] for name, content in results.items()}
    parts = [about(results), "## Targets, and where softmax is faster\n", targets(results)]

    def section(title, name, column, value="ms", chosen=lambda row: True):
        kept = [row for row in rows.get(name, []) if chosen(row)]
        if kept:
            parts.extend([f"## {title}\n", by_length(kept, column, value)])

    for kind in ("forward", "forward+backward"):
        for bias in dict.fromkeys(row["bias"] for row in rows.get("attention", [])):
            section(
                f"One attention, 4 heads of 64, {kind}, {bias}, ms",
                "attention",
                lambda row: (
                    row["contestant"] if "softmax" in row["contestant"] else f"{row['contestant']}, m = {row['m']}"
                ),
                chosen=lambda row, kind=kind, bias=bias: (row["kind"], row["bias"]) == (kind, bias),
            )
        section(
            f"Whole layers on 256 channels, {kind}, ms",
            "layers",
            lambda row: row["contestant"],
            chosen=lambda row, kind=kind: row["kind"] == kind,
        )
    section("The paper's Figure 1(a), ms", "paper_figure", figure_label)
    section("A training step, preset small, ms", "training_step", lambda row: row["contestant"])
    section(
        "Input of masked LM beside the training step, preset small, ms",
        "input_pipeline",
        lambda row: f"{row['kind']}, {row['contestant']}",
        chosen=lambda row: row["kind"] != "prepare",
    )
    section(
        "A training step on short documents, a row each or packed, preset small, ms",
        "packing",
        lambda row: f"{row['contestant']}, {100 * row['padding']:.1f} % padding",
    )
    for model in ("attention", "encoder"):
        for value, unit in (("ms", "ms"), ("peak_mib", "peak MiB of the process")):
            section(
                f"LiteRT, {model}, {unit}",
                "on_device",
                lambda row: f"{row['contestant']}, {row['threads']} thread{'s' * (row['threads'] > 1)}",
                value,
                chosen=lambda row, model=model: row["model"] == model,
            )
    for runtimes, where in ((("LiteRT",), "LiteRT, 1 thread"), (("TensorFlow", "JAX"), "TensorFlow and JAX")):
        for title, kind, value in GENERATION:
            section(
                f"{title}, {where}",
                "generation",
                generation_column,
                value,
                chosen=lambda row, runtimes=runtimes, kind=kind: row["runtime"] in runtimes and row["kind"] == kind,
            )
    if "generation" in rows:
        text = [row for row in rows["generation"] if row["kind"] == "long text"]
        parts.extend(["## A long text of ours in LiteRT, 1 thread: a token behind n tokens\n", long_text_table(text)])
    section(
        "Peak memory of one attention, forward with backward, MiB of the process",
        "memory",
        lambda row: f"{row['contestant']}, {row['bias']}, m = {row['m']}",
        "peak_mib",
    )
    for value, title in (("trace_s", "Seconds to trace"), ("xla_s", "Seconds in XLA"), ("nodes", "Nodes of the graph")):
        section(
            f"{title}, banded models and routes",
            "compile_time",
            lambda row: f"{row.get('route', 'model')}, {row['kind']}",
            value,
        )
    if "routes" in results:
        cells = results["routes"]["cells"][:10]
        parts.extend(["## Where auto is furthest from the best route\n", markdown_table(*routes_table(cells))])
    return "\n".join(parts)


def readme_tables(results: dict) -> str:
    """Return the tables of the README: one attention, an encoder in LiteRT, and a token of a language model."""
    bias, m = NAMED[0]
    forward, training = ({"bias": bias, "kind": kind} for kind in ("forward", "forward+backward"))
    encoder = {"model": "encoder", "threads": 2}
    token = {"kind": "decode", "weights": "float32"}
    shown = {
        "attention": {
            "ours": ("banded", {"m": m, **forward}),
            "softmax, same bias": (SOFTMAX_WITH_BIAS, forward),
            "softmax, no positions": ("softmax", forward),
            "linear, no positions": ("linear, no positions", {"m": m, **forward}),
            "ours, training": ("banded", {"m": m, **training}),
            "softmax, same bias, training": (SOFTMAX_WITH_BIAS, training),
        },
        "on_device": {
            "LiteRT encoder, ours": ("banded", encoder),
            "its softmax twin": ("softmax twin", encoder),
            "`MultiHeadAttention`, no positions": ("MultiHeadAttention", encoder),
        },
        "generation": {
            f"a token in {runtime}, {contestant}": (contestant, {**token, "runtime": runtime})
            for runtime in ("LiteRT", "JAX")
            for contestant in ("ours", "softmax cache")
        },
    }
    return "\n".join(
        named_columns(results[name]["rows"], columns) for name, columns in shown.items() if name in results
    )


def generation_column(row: dict) -> str:
    """Return the column of a language model."""
    name = row["contestant"] if row["runtime"] == "LiteRT" else f"{row['runtime']}, {row['contestant']}"
    name += f", {row['mode']}" * (row["mode"] == "in place") + f", {row['weights']}" * (row["weights"] != "float32")
    return name + f", pieces of {row['piece']}" * (row["piece"] > 1)


def long_text_table(rows: list[dict]) -> str:
    """Return the table of a long text."""
    times = ("ms", "cpu_ms", "written_ms")
    header = ["n", "ms", "CPU ms", "ms, mean of all since the row above", "MiB of the process"]
    cells = [[f"{row['n']:,}", *(f"{row[name]:.3f}" for name in times), f"{row['rss_mib']:.1f}"] for row in rows]
    return markdown_table(header, cells)


def routes_table(cells: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the cells."""
    names = ["bias", "m", "kind", "n", "auto", "best"]
    return [*names, "ratio"], [[*(str(cell[name]) for name in names), f"{cell['ratio']:.2f}"] for cell in cells]


def figure_label(row: dict) -> str:
    """Return the label of a line of the paper's figure."""
    return f"{row['contestant']}, m = {row['m']}" if row["m"] else row["contestant"]


def panel(axis, title: str, rows: list[dict], label, styles: dict | None = None) -> None:
    """Draw the least milliseconds over modes against the length, a line for each label."""
    lines = {}
    for row in rows:
        if "ms" in row:
            line = lines.setdefault(label(row), {})
            line[row["n"]] = min(line.get(row["n"], float("inf")), row["ms"])
    for name, line in lines.items():
        lengths = sorted(line)
        style = (styles or {}).get(name, "o-")
        axis.loglog(lengths, [line[n] for n in lengths], style, base=2, markersize=4, label=name)
    axis.set(title=title, xlabel="n", ylabel="ms")
    axis.grid(alpha=0.3)
    if lines:
        axis.legend(fontsize="small")


def plots(results: dict, folder: Path) -> None:
    """Write the plots of the scripts that have results."""
    rows = {name: content["rows"] for name, content in results.items()}
    if "attention" in rows:
        figure = Figure(figsize=(12, 4.5), layout="constrained")
        for axis, kind in zip(figure.subplots(1, 2), ("forward", "forward+backward"), strict=True):
            chosen = [
                row
                for row in rows["attention"]
                if (row["kind"], row["bias"], row["m"]) == (kind, "DecayBias(16, 2)", 16)
            ]
            panel(axis, f"{kind}, 4 heads of 64, m = 16", chosen, lambda row: row["contestant"], ATTENTION)
        save_figure(figure, folder / PLOTS[0])
    if "on_device" in rows:
        figure = Figure(figsize=(12, 4.5), layout="constrained")
        most = max(row["threads"] for row in rows["on_device"])
        for axis, model in zip(figure.subplots(1, 2), ("attention", "encoder"), strict=True):
            chosen = [row for row in rows["on_device"] if (row["model"], row["threads"]) == (model, most)]
            title = {"attention": "one attention, 4 heads of 64", "encoder": "encoder, 4 layers of 256"}[model]
            panel(axis, f"LiteRT, {most} threads: {title}", chosen, lambda row: row["contestant"])
        save_figure(figure, folder / PLOTS[1])
    if "paper_figure" in rows:
        figure = Figure(figsize=(7, 5), layout="constrained")
        panel(figure.subplots(), "forward, 1 head of 64", rows["paper_figure"], figure_label)
        save_figure(figure, folder / PLOTS[2])


def publish(results: dict, folder: Path, docs: Path) -> None:
    """Put tables, plots and JSON into the docs folder, and short tables into the README beside it."""
    readme = docs.resolve().parent / "README.md"
    replace_marked("speed", {docs / "speed.md": tables(results), readme: readme_tables(results)})
    keep_files(PLOTS, folder, docs / "figures")
    keep_files([f"{name}.json" for name in results], folder, docs / "figures" / "speed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the JSON and write tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="the folder that holds the JSON")
    parser.add_argument("--publish", type=Path, metavar="DOCS", help="the docs folder to write to as well")
    options = parser.parse_args(arguments)
    results = read(options.output)
    (options.output / "summary.md").write_text(tables(results), encoding="utf-8")
    plots(results, options.output)
    if options.publish is not None:
        publish(results, options.output, options.publish)
    print(targets(results))


if __name__ == "__main__":
    main()
