"""Timings of the routes of one attention, and the one that `route="auto"` takes: its cost model is fitted to them.

    python benchmarks/routes.py --output build/bench

Plain graphs, 4 heads of 64, forward and forward with backward. A cell is a bias, a length, a number of features and a
kind; in each the routes take turns.
"""

from collections.abc import Sequence

from _contestants import BIASES, HEADS, WIDTH, inputs, kernelized
from _measure import KINDS, command_line, graph_and_xla, print_row, take_turns, write_results

from krpe_tf import LearnedBias
from krpe_tf.toeplitz import choose_route

ROUTES = ("dense", "fft", "banded")
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
FEATURES = (16, 64)
WHOLE_TABLE = "LearnedBias(n - 1)"
# The near band of a whole table holds n x 3n weights: the longest n that banded is timed at with it.
LONGEST_BAND = 2048
# A route is left out once, at half the length, it was this much slower than the best and took this long.
HOPELESS_RATIO, HOPELESS_MS = 6, 500
# What `auto` may cost beside the best route.
ACCEPTED_RATIO = 1.3


def make_bias(name: str, n: int):
    """Return the bias of a cell."""
    return LearnedBias(HEADS, max_distance=n - 1) if name == WHOLE_TABLE else BIASES[name](HEADS)


def candidates(bias_name: str, n: int, chosen: str, at_half: dict) -> list[str]:
    """Return the routes to time: the chosen one, and those that their milliseconds at half the length give a chance."""
    kept = []
    for route in ROUTES:
        half = at_half.get(route)
        hopeless = bool(at_half) and (
            half is None or (half > HOPELESS_MS and half > HOPELESS_RATIO * min(at_half.values()))
        )
        too_large = route == "banded" and bias_name == WHOLE_TABLE and n > LONGEST_BAND
        if route == chosen or not (hopeless or too_large):
            kept.append(route)
    return kept


def measure(bias_name: str, m: int, kind: str, lengths, rounds: int) -> list[dict]:
    """Measure one bias, number of features and kind: a row for each route and length."""
    rows, at_half = [], {}
    for n in lengths:
        bias, arguments = make_bias(bias_name, n), inputs(n)
        chosen = choose_route(bias, n, n, m, WIDTH)
        calls = {}
        for route in candidates(bias_name, n, chosen, at_half):
            function = kernelized(bias, m, route)
            made = graph_and_xla(function, arguments, bias.trainable_variables, kinds=(kind,), modes=("graph",))
            calls[route] = made[kind, "graph"]
        results = take_turns(calls, rounds)
        at_half = {route: result["ms"] for route, result in results.items() if "ms" in result}
        for route, result in results.items():
            row = {"bias": bias_name, "m": m, "kind": kind, "n": n, "route": route, "chosen": route == chosen}
            rows.append({**row, **result})
            print_row(
                {**rows[-1], "auto": "<- auto" if route == chosen else ""}, "bias", "m", "kind", "n", "route", "auto"
            )
    return rows


def judge(rows: list[dict]) -> list[dict]:
    """Return for every cell the route of `auto`, the best one, and how much slower `auto` is, the worst first."""
    cells = {}
    for row in rows:
        if "ms" in row:
            cells.setdefault((row["bias"], row["m"], row["kind"], row["n"]), []).append(row)
    judged = []
    for (bias, m, kind, n), timed in cells.items():
        best = min(timed, key=lambda row: row["ms"])
        for row in timed:
            if row["chosen"]:
                cell = {"bias": bias, "m": m, "kind": kind, "n": n, "auto": row["route"], "best": best["route"]}
                judged.append({**cell, "ratio": row["ms"] / best["ms"]})
    return sorted(judged, key=lambda cell: -cell["ratio"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, report the cells where `auto` is too slow, and write routes.json."""
    options = command_line(__doc__, arguments)
    lengths, features = ((128, 256), (16,)) if options.quick else (LENGTHS, FEATURES)
    names = (
        ("DecayBias(16, 2)", WHOLE_TABLE)
        if options.quick
        else ("DecayBias(16, 2)", "BucketedBias(32, 128)", WHOLE_TABLE)
    )
    rows = []
    for bias_name in names:
        for m in features:
            for kind in KINDS[:1] if options.quick else KINDS:
                rows += measure(bias_name, m, kind, lengths, options.rounds)
    cells = judge(rows)
    exceeding = [cell for cell in cells if cell["ratio"] > ACCEPTED_RATIO]
    print(f"auto is above {ACCEPTED_RATIO} times the best route in {len(exceeding)} of {len(cells)} cells")
    for cell in exceeding:
        print("  {bias}, m = {m}, {kind}, n = {n}: {auto} instead of {best}, {ratio:.2f} times".format(**cell))
    write_results(options, "routes", rows, cells=cells, accepted_ratio=ACCEPTED_RATIO)


if __name__ == "__main__":
    main()
