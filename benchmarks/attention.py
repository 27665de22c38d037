"""One attention against its peers, from projected query, key and value (1, 4 heads, n, 64) to the output.

    python benchmarks/attention.py --output build/bench

Forward, and forward with backward, each as a plain TensorFlow graph and compiled by XLA; all that is timed at one
length and bias takes turns in one process. "softmax with bias" and "softmax" hold n x n scores, so memory ends them at
the lengths of `LONGEST`; "softmax with bias, in blocks" ends where a call takes too long.
"""

from collections.abc import Sequence

from _contestants import BIASES, HEADS, WIDTH, contestants, count_gflop, inputs
from _measure import KINDS, command_line, graph_and_xla, machine, print_row, take_turns, write_results

LENGTHS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
FEATURES = (16, 32, 64)
# Beyond this, only the pairs of bias and features that the targets name.
WHOLE_GRID = 16_384
NAMED = {"DecayBias(16, 2)": 16, "BucketedBias(32, 128)": 32}
# The longest n of the others, timed with the first features alone: forward, and forward with backward.
LONGEST = {
    "fft": (16_384, 4096),
    "dense": (8192, 4096),
    "softmax with bias, in blocks": (16_384, 8192),
    "softmax with bias": (8192, 8192),
    "softmax": (8192, 8192),
}
# Which of them depend on the bias enough to be timed with another than the first.
WITH_BUCKETS = {"softmax with bias, in blocks": 8192, "softmax with bias": 8192}


def cases(n: int, bias_name: str, features) -> list[tuple[str, str, int]]:
    """Return (contestant, kind, features) of what is timed together at a length, with a bias."""
    chosen_features = [m for m in features if n <= WHOLE_GRID or m == NAMED.get(bias_name)]
    first = bias_name == "DecayBias(16, 2)"
    linear = ("banded", "linear, no positions") if first else ("banded",)
    chosen = [(name, kind, m) for name in linear for kind in KINDS for m in chosen_features]
    for name, limits in LONGEST.items():
        most = n if first else WITH_BUCKETS.get(name, 0) if bias_name == "BucketedBias(32, 128)" else 0
        for kind, limit in zip(KINDS, limits, strict=True):
            if n <= min(limit, most):
                chosen.append((name, kind, features[0]))
    return chosen


def measure(n: int, bias_name: str, features, rounds: int, matmul_rate: float) -> list[dict]:
    """Measure one length and bias: a row for each contestant, kind, mode and number of features."""
    bias = BIASES[bias_name](HEADS)
    arguments, calls = inputs(n), {}
    for name, kind, m in cases(n, bias_name, features):
        function, variables = contestants(bias, m)[name]
        for (_, mode), call in graph_and_xla(function, arguments, variables, kinds=(kind,)).items():
            calls[name, kind, mode, m] = call
    rows = []
    for (name, kind, mode, m), result in take_turns(calls, rounds).items():
        gflop = count_gflop(name, kind, n, m, bias)
        row = {"contestant": name, "kind": kind, "mode": mode, "n": n, "m": m, "bias": bias_name, **result}
        if "ms" in row:
            row |= {"gflop": gflop, "share_of_matmul_rate": gflop / (row["ms"] / 1000) / matmul_rate}
        rows.append(row)
        print_row(row, "n", "bias", "contestant", "kind", "mode", "m")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write attention.json."""
    options = command_line(__doc__, arguments)
    about, rows = machine(), []
    for n in (128,) if options.quick else LENGTHS:
        for bias_name in list(BIASES)[:1] if options.quick else BIASES:
            features = FEATURES[:1] if options.quick else FEATURES
            rows += measure(n, bias_name, features, options.rounds, about["matmul_gflop_per_s"])
    write_results(options, "attention", rows, about, heads=HEADS, width=WIDTH)


if __name__ == "__main__":
    main()
