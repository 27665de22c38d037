"""Answers per second where several threads ask: one `LiteRTIdsModel` that they share, beside a model for each of them.

    python benchmarks/threads.py --output build/bench

The encoder of on_device.py, one document of n tokens a call. The contestants of one length take turns of half a second,
and the best one counts; "per_cpu_second" is over all turns, and tells more on a machine that others use. The memory is
what loading and running the models added to the process.
"""

import ctypes
import itertools
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _measure import command_line, print_row, write_results
from on_device import ENCODER, FEATURES, write_file

from krpe_tf.export import LiteRTIdsModel
from krpe_tf.export.trace import litert_functions
from krpe_tf.models import Encoder

LENGTHS = (128, 512)
CALLERS = (1, 4)
# Models, the threads of one call, and the runtime.
CONTESTANTS = {
    "shared": (1, 1, "interpreter"),
    "shared, num_threads=2": (1, 2, "interpreter"),
    "one each": (max(CALLERS), 1, "interpreter"),
    "shared, compiled": (1, 1, "compiled"),
    "one each, compiled": (max(CALLERS), 1, "compiled"),
}


def resident_mib() -> float:
    """Return the memory that this process holds, without the pages of files and what it has freed."""
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def run(models: Sequence[LiteRTIdsModel], callers: int, inputs: dict, seconds: float) -> tuple[int, float, float]:
    """Let threads call their models, all the same one or each its own, for some seconds.

    Returns:
        The answers, the seconds that they took, and those of the CPUs.
    """
    start, counts, end = threading.Barrier(callers + 1), [0] * callers, [0.0]

    def ask(caller: int) -> None:
        model = models[caller % len(models)]
        start.wait()
        while not counts[caller] or time.perf_counter() < end[0]:
            model(inputs)
            counts[caller] += 1

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    began, used = time.perf_counter(), time.process_time()
    end[0] = began + seconds
    start.wait()
    for thread in threads:
        thread.join()
    return sum(counts), time.perf_counter() - began, time.process_time() - used


def measure(n: int, rounds: int, seconds: float) -> list[dict]:
    """Measure one length: a row for each contestant and number of threads that call."""
    ids = np.random.default_rng(0).integers(0, ENCODER["vocabulary_size"], (1, n))
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    models, memory = {}, {}
    with tempfile.TemporaryDirectory(prefix="krpe_tf_bench_") as folder:
        encoder = Encoder(**ENCODER, num_features=FEATURES, route="banded", seed=0)
        path = write_file(litert_functions(encoder, (n,), None), Path(folder) / "model.tflite")
        for name, (count, num_threads, runtime) in CONTESTANTS.items():
            before = resident_mib()
            models[name] = [LiteRTIdsModel(path, num_threads, runtime=runtime) for _ in range(count)]
            for model in models[name]:
                model(inputs)
            memory[name] = round(resident_mib() - before, 1)
        turns = {key: [] for key in itertools.product(CONTESTANTS, CALLERS)}
        for _ in range(rounds):
            for name, callers in turns:
                turns[name, callers].append(run(models[name], callers, inputs, seconds))
    rows = []
    best = {key: max(answers / wall for answers, wall, _ in each) for key, each in turns.items()}
    for (name, callers), each in turns.items():
        rate = best[name, callers]
        answers, cpu = (sum(turn[index] for turn in each) for index in (0, 2))
        row = {"contestant": name, "n": n, "callers": callers, "per_second": round(rate, 1), "ms": 1000 / rate}
        row |= {"ratio": round(rate / best["shared", 1], 2), "per_cpu_second": round(answers / cpu, 1)}
        row |= {"cores": round(max(cpu / wall for _, wall, cpu in each), 2), "mib": memory[name]}
        rows.append(row)
        print_row(row, "n", "contestant", "callers", "per_second", "ratio", "per_cpu_second", "cores", "mib")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write threads.json."""
    options = command_line(__doc__, arguments)
    rows = []
    for n in LENGTHS[:1] if options.quick else LENGTHS:
        rows += measure(n, options.rounds, 0.1 if options.quick else 0.5)
    write_results(options, "threads", rows, features=FEATURES, encoder=ENCODER)


if __name__ == "__main__":
    main()
