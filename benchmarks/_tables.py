"""Turn rows of results into ratios, into the table of targets of `summary.py`, and into Markdown."""

from collections.abc import Iterable, Sequence

SOFTMAX_WITH_BIAS = ("softmax with bias", "softmax with bias, in blocks")
# The two cases that the targets name: bias and features.
NAMED = (("DecayBias(16, 2)", 16), ("BucketedBias(32, 128)", 32))


def best(rows: list[dict], contestant, **where) -> float | None:
    """Return the least milliseconds over modes and contestants of the rows that agree, None where there are none."""
    names = (contestant,) if isinstance(contestant, str) else contestant
    found = [row["ms"] for row in rows if row["contestant"] in names and "ms" in row and _agrees(row, where)]
    return min(found, default=None)


def _agrees(row, where) -> bool:
    return all(row.get(name) == value for name, value in where.items())


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Return a quotient, None where a part was not measured."""
    return None if numerator is None or denominator is None else numerator / denominator


def judged(case: str, n, measured: float | None, at_least=None, at_most=None, unit: str = "x") -> list[str]:
    """Return a row of the table of targets."""
    digits = 1 if unit != "x" or (measured or 0) < 100 else 0
    if measured is not None and measured < 10 and unit == "x":
        digits = 2
    value = "not measured" if measured is None else f"{measured:,.{digits}f} {unit}".replace(" x", "x")
    target, verdict = "-", "-"
    if at_least is not None or at_most is not None:
        target = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}"
        target += "x" if unit == "x" else f" {unit}"
        if measured is not None:
            met = measured >= at_least if at_least is not None else measured <= at_most
            verdict = "ok" if met else "**missed**"
    return [case, f"{n:,}" if isinstance(n, int) else n, value, target, verdict]


def target_rows(results: dict) -> list[list[str]]:
    """Return all targets, and the same ratios at the other lengths, also where softmax attention is faster.

    Scripts without results have no rows.
    """
    rows = {name: content["rows"] for name, content in results.items()}
    makers = {
        "attention": lambda rows: _attention_targets(rows) + _growth_targets(rows),
        "memory": _memory_targets,
        "paper_figure": _figure_targets,
        "training_step": _step_targets,
        "layers": _layer_targets,
        "on_device": _litert_targets,
        "generation": _generation_targets,
        "compile_time": _build_targets,
    }
    table = [row for name, make in makers.items() if name in rows for row in make(rows[name])]
    return table + (_route_targets(results["routes"]) if "routes" in results else [])


def _attention_targets(rows):
    table, targets = [], {4096: 30, 8192: 60, 16_384: 120}
    lengths = sorted({row["n"] for row in rows} | set(targets))
    (bias, m), (buckets, buckets_m) = NAMED
    for kind, wanted in (("forward", targets), ("forward+backward", {8192: 50})):
        for n in lengths:
            where = {"kind": kind, "n": n, "bias": bias}
            peer, ours = best(rows, SOFTMAX_WITH_BIAS, **where), best(rows, "banded", m=m, **where)
            if n in wanted or ratio(peer, ours) is not None:
                case = f"{kind}: softmax with bias / banded, {bias}, m = {m}"
                table.append(judged(case, n, ratio(peer, ours), at_least=wanted.get(n)))
    for kind, wanted in (("forward", 40), ("forward+backward", 30)):
        where = {"kind": kind, "n": 8192, "bias": buckets}
        peer, ours = best(rows, SOFTMAX_WITH_BIAS, **where), best(rows, "banded", m=buckets_m, **where)
        case = f"{kind}: softmax with bias / banded, {buckets}, m = {buckets_m}"
        table.append(judged(case, 8192, ratio(peer, ours), at_least=wanted))
    for kind, wanted in (("forward", 1.5), ("forward+backward", 2.5)):
        where = {"kind": kind, "n": 8192, "bias": bias, "m": m}
        measured = ratio(best(rows, "banded", **where), best(rows, "linear, no positions", **where))
        table.append(
            judged(f"{kind}: banded / linear without positions, {bias}, m = {m}", 8192, measured, at_most=wanted)
        )
    return table


def _growth_targets(rows):
    table = []
    for bias, m in NAMED:
        for kind in ("forward", "forward+backward"):
            where = {"kind": kind, "bias": bias, "m": m}
            grown = []
            for n in sorted({row["n"] for row in rows if row["n"] >= 4096}):
                grown.append((ratio(best(rows, "banded", n=2 * n, **where), best(rows, "banded", n=n, **where)), n))
            worst, n = max((each for each in grown if each[0] is not None), default=(None, None))
            place = "-" if n is None else f"{n:,} to {2 * n:,}"
            table.append(judged(f"{kind}: banded, n to 2n at worst, {bias}, m = {m}", place, worst, at_most=2.1))
    return table


def _memory_targets(rows):
    table = []
    for bias, m in NAMED:
        peaks = [
            row["peak_mib"] / 1024
            for row in rows
            if "peak_mib" in row and _agrees(row, {"contestant": "banded", "n": 65_536, "bias": bias, "m": m})
        ]
        case = f"peak memory of the process, forward+backward: banded, {bias}, m = {m}"
        table.append(judged(case, 65_536, min(peaks, default=None), at_most=3, unit="GiB"))
    return table


def _figure_targets(rows):
    measured = ratio(best(rows, "fft", n=16_384, m=16), best(rows, SOFTMAX_WITH_BIAS, n=16_384))
    return [judged("forward, 1 head: fft / softmax with bias, m = 16", 16_384, measured, at_most=1)]


def _step_targets(rows):
    table = []
    for n in sorted({row["n"] for row in rows} | {4096}):
        measured = ratio(best(rows, "softmax twin", n=n), best(rows, "banded", n=n))
        if n == 4096 or measured is not None:
            case = "training step, preset small: softmax twin / ours"
            table.append(judged(case, n, measured, at_least=3 if n == 4096 else None))
    return table


def _layer_targets(rows):
    table = []
    for peer in ("MultiHeadAttention", "KernelAttention"):
        for kind in ("forward", "forward+backward"):
            for n in sorted({row["n"] for row in rows}):
                where = {"kind": kind, "n": n}
                measured = ratio(best(rows, peer, **where), best(rows, "KernelizedRPEAttention", **where))
                if measured is not None:
                    table.append(judged(f"layer, {kind}: {peer} (no positions) / ours", n, measured))
    return table


def _litert_targets(rows):
    table = []
    two = {"model": "attention", "n": 8192, "threads": 2}
    softmax, ours, linear = (best(rows, name, **two) for name in ("softmax", "banded", "linear, no positions"))
    table.append(
        judged("LiteRT, 2 threads, one attention: softmax without bias / ours", 8192, ratio(softmax, ours), 20)
    )
    case = "LiteRT, 2 threads, one attention: ours / linear without positions"
    table.append(judged(case, 8192, ratio(ours, linear), at_most=2))
    for peer, wanted in (("softmax twin", {4096: 5, 8192: 10}), ("MultiHeadAttention", {})):
        for n in sorted({row["n"] for row in rows} | set(wanted)):
            two = {"model": "encoder", "n": n, "threads": 2}
            measured = ratio(best(rows, peer, **two), best(rows, "banded", **two))
            if n in wanted or measured is not None:
                case = f"LiteRT, 2 threads, encoder of 4 layers: {peer} / ours"
                table.append(judged(case, n, measured, at_least=wanted.get(n)))
    for name, wanted in (("banded", 1), ("softmax twin", None)):
        where = {"model": "encoder", "contestant": name, "n": 16_384}
        peaks = [row["peak_mib"] / 1024 for row in rows if "peak_mib" in row and _agrees(row, where)]
        case = f"LiteRT, encoder of 4 layers: peak memory, {name}"
        table.append(judged(case, 16_384, max(peaks, default=None), at_most=wanted, unit="GiB"))
    return table


def _generation_targets(rows):
    table = []
    lengths = sorted({row["n"] for row in rows if row["kind"] == "decode"} | {2048, 8192, 32_768})
    for runtime, weights, wanted in (
        ("LiteRT", "float32", {2048: 7, 8192: 45, 32_768: 200}),
        ("LiteRT", "int8", {}),
        ("TensorFlow", "float32", {}),
        ("JAX", "float32", {}),
    ):
        for n in lengths:
            where = {"kind": "decode", "runtime": runtime, "weights": weights, "n": n}
            measured = ratio(best(rows, "softmax cache", **where), best(rows, "ours", **where))
            if n in wanted or measured is not None:
                case = f"a token, {runtime}, {weights} weights: softmax cache / ours"
                table.append(judged(case, n, measured, at_least=wanted.get(n)))
    text = {row["n"]: row for row in rows if row["kind"] == "long text"}
    if text:
        # Right at its beginning a process still fills its caches.
        (first, second), last = sorted(text)[:2], max(text)
        case = f"LiteRT, ours: a token behind the last / behind token {first:,}"
        table.append(judged(case, last, ratio(text[last]["ms"], text[first]["ms"]), at_most=1.1))
        grown = text[last]["rss_mib"] - text[second]["rss_mib"]
        case = f"LiteRT, ours: memory that the process grows by, behind token {second:,}"
        table.append(judged(case, last, grown, at_most=1, unit="MiB"))
    return table


def _build_targets(rows):
    table = []
    for kind in ("forward", "training step"):
        built = [row for row in rows if "trace_s" in row]  # The rows of routes hold nodes alone.
        took = [row["trace_s"] + row["xla_s"] for row in built if row["kind"] == kind and row["n"] == 16_384]
        case = f"tracing and XLA, preset small, {kind}"
        table.append(judged(case, 16_384, max(took, default=None), at_most=20, unit="s"))
    nodes = {}
    for row in rows:
        nodes.setdefault((row.get("route", "model"), row["kind"]), {})[row["n"]] = row["nodes"]
    grown = [max(counts.values()) / counts[min(counts)] for counts in nodes.values()]
    table.append(judged("nodes of any graph, longest / shortest", "all", max(grown, default=None), at_most=1.01))
    return table


def _route_targets(routes):
    worst = max(routes["cells"], key=lambda cell: cell["ratio"], default={"ratio": None, "n": "all"})
    return [judged("auto / best route, at worst", worst["n"], worst["ratio"], at_most=routes["accepted_ratio"])]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. Not krpe_tf's: importing that would import Keras, which nothing here needs."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def by_length(rows: list[dict], column, value="ms") -> str:
    """Return a table with a row for each length: of each column the least value, over modes."""
    cells = {}
    for row in rows:
        if value in row:
            key = (column(row), row["n"])
            cells[key] = min(cells.get(key, float("inf")), row[value])
    columns = list(dict.fromkeys(name for name, _ in cells))
    table = []
    for n in sorted({n for _, n in cells}):
        table.append([f"{n:,}", *(_number(cells.get((name, n))) for name in columns)])
    return markdown_table(["n", *columns], table)


def named_columns(rows: list[dict], columns: dict) -> str:
    """Return a table with a row for each length and a column for each name.

    Args:
        rows: The results.
        columns: By name, the contestant and what its rows must agree with.
    """
    table = []
    for n in sorted({row["n"] for row in rows}):
        values = [best(rows, contestant, n=n, **where) for contestant, where in columns.values()]
        if any(value is not None for value in values):
            table.append([f"{n:,}", *map(_number, values)])
    return markdown_table(["n", *columns], table)


def _number(value) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
