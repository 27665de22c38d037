"""Peak memory of one attention, forward with backward, each case in a process of its own.

    python benchmarks/memory.py --output build/bench

4 heads of 64, as a plain graph and compiled by XLA, whose compiler's own memory counts.
"""

from collections.abc import Sequence

from _contestants import BIASES, HEADS, contestants, inputs
from _measure import KINDS, MODES, command_line, graph_and_xla, peak_memory, print_peak, write_results

DECAY, BUCKETS = ("DecayBias(16, 2)", 16), ("BucketedBias(32, 128)", 32)
# (contestant, (bias, features), lengths)
CASES = (
    ("banded", DECAY, (8192, 16_384, 32_768, 65_536)),
    ("banded", BUCKETS, (8192, 16_384, 32_768, 65_536)),
    ("linear, no positions", DECAY, (8192, 65_536)),
    ("softmax with bias", DECAY, (2048, 4096)),
    ("softmax with bias, in blocks", DECAY, (4096, 8192)),
)
QUICK_CASES = (("banded", DECAY, (256,)),)


def run_case(contestant: str, mode: str, n: int, m: int, bias: str) -> None:
    """Print the peak memory of one case; for a process of its own."""
    layer, arguments = BIASES[bias](HEADS), inputs(n)
    function, variables = contestants(layer, m)[contestant]
    print_peak(graph_and_xla(function, arguments, variables)[KINDS[1], mode])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write memory.json."""
    options = command_line(__doc__, arguments)
    if options.one_case is not None:
        run_case(**options.one_case)
        return
    rows = []
    for contestant, (bias, m), lengths in QUICK_CASES if options.quick else CASES:
        for n in lengths:
            for mode in MODES[:1] if options.quick else MODES:
                case = {"contestant": contestant, "mode": mode, "n": n, "m": m, "bias": bias}
                rows.append({"kind": KINDS[1], **case, **peak_memory(__file__, case)})
                result = rows[-1].get("error") or f"{rows[-1]['peak_mib']:8.0f} MiB"
                print(f"{n:6d}  {contestant:30s} {bias:22s} {mode:6s} {result}", flush=True)
    write_results(options, "memory", rows)


if __name__ == "__main__":
    main()
