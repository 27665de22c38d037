"""The paper's Figure 1(a): one attention with relative positions, forward, 1 head of 64, against the length.

    python benchmarks/paper_figure.py --output build/bench

Its algorithm (route "fft", a whole table of 2n - 1 scalars) for several numbers of features against softmax attention
with the same bias; and banded with `DecayBias`, which the paper does not have.
"""

from collections.abc import Sequence

from _contestants import BIASES, count_gflop, inputs, kernelized, softmax, softmax_in_blocks
from _measure import command_line, graph_and_xla, machine, print_row, take_turns, write_results

from krpe_tf import LearnedBias

LENGTHS = (1000, 2000, 4000, 8000, 16_000, 16_384, 32_000, 40_000)
FEATURES = (2, 4, 8, 16, 32)
BANDED_FEATURES = 16
# The longest n at which all n x n scores are held at once.
LONGEST_WHOLE = 8000


def measure(n: int, features, rounds: int, matmul_rate: float) -> list[dict]:
    """Measure one length: a row for each contestant, mode and number of features."""
    table, decay, arguments = LearnedBias(1, max_distance=n - 1), BIASES["DecayBias(16, 2)"](1), inputs(n, heads=1)
    functions = {("fft", m): (kernelized(table, m, "fft"), table) for m in features}
    functions["softmax with bias, in blocks", 0] = softmax_in_blocks(table), table
    if n <= LONGEST_WHOLE:
        functions["softmax with bias", 0] = softmax(table), table
    functions["banded", BANDED_FEATURES] = kernelized(decay, BANDED_FEATURES, "banded"), decay
    calls = {}
    for (name, m), (function, _) in functions.items():
        for (_, mode), call in graph_and_xla(function, arguments, kinds=("forward",)).items():
            calls[name, m, mode] = call
    rows = []
    for (name, m, mode), result in take_turns(calls, rounds).items():
        row = {"contestant": name, "kind": "forward", "mode": mode, "n": n, "m": m, **result}
        if "ms" in row:
            row["gflop"] = count_gflop(name, "forward", n, m, functions[name, m][1], heads=1)
            row["share_of_matmul_rate"] = row["gflop"] / (row["ms"] / 1000) / matmul_rate
        rows.append(row)
        print_row(row, "n", "contestant", "mode", "m")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write paper_figure.json."""
    options = command_line(__doc__, arguments)
    about, rows = machine(), []
    for n in (200,) if options.quick else LENGTHS:
        rows += measure(n, FEATURES[:1] if options.quick else FEATURES, options.rounds, about["matmul_gflop_per_s"])
    write_results(options, "paper_figure", rows, about, heads=1, width=64)


if __name__ == "__main__":
    main()
