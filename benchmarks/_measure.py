"""What the benchmarks share: timings in turn, plain graphs and XLA, the machine, peak memory, and results as JSON."""

import argparse
import functools
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from krpe_tf.files import make_directory, write_json

# TensorFlow warns of functions that are traced again and again; here each contestant is a new one.
tf.get_logger().setLevel("ERROR")

KINDS = ("forward", "forward+backward")
MODES = ("graph", "xla")
# A call longer than this is measured in fewer rounds, or a run would take hours.
SLOW_SECONDS, SLOW_ROUNDS = 5.0, 3


def command_line(description: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options of a benchmark: where results go, how often each call runs, and whether sizes are tiny.

    Args:
        description: What `--help` says.
        arguments: The command line; that of the process if None.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="build/bench", help="the folder to write (default: build/bench)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes that prove nothing: see it run")
    parser.add_argument("--rounds", type=int, help="timings of each call (default: 7, quick: 2)")
    parser.add_argument("--one-case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = 2 if options.quick else 7
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1. Received: {options.rounds}")
    if options.one_case is None:
        try:
            options.output = make_directory(options.output)
        except ValueError as error:
            parser.error(str(error))
    return options


def wait(result) -> None:
    """Wait until a result is there: read one number of it."""
    tf.reshape(tf.nest.flatten(result)[0], [-1])[:1].numpy()


def seconds_of(call) -> float:
    """Return the seconds until the result of a call is there."""
    start = time.perf_counter()
    wait(call())
    return time.perf_counter() - start


def take_turns(calls: dict, rounds: int) -> dict[object, dict]:
    """Time warm calls in turn, so that all meet the same noise of the machine.

    Returns:
        For each name the milliseconds: median, least, most, and the rounds; {"error": why} for a call that TensorFlow
        cannot build or run.
    """
    taken, wanted, results = {}, {}, {}
    for name, call in calls.items():
        try:
            wait(call())
            warm = seconds_of(call)
        except tf.errors.OpError as error:
            results[name] = {"error": f"{type(error).__name__}: {(error.message or '').splitlines()[0][:200]}"}
            continue
        taken[name] = []
        wanted[name] = min(rounds, SLOW_ROUNDS) if warm > SLOW_SECONDS else rounds
    for turn in range(rounds):
        for name, values in taken.items():
            if turn < wanted[name]:
                values.append(1000 * seconds_of(calls[name]))
    for name, values in taken.items():
        results[name] = spread(values)
    gc.collect()
    return results


def spread(milliseconds: list[float]) -> dict:
    """Return the median, least and most of the rounds."""
    return {
        "ms": float(np.median(milliseconds)),
        "ms_min": float(np.min(milliseconds)),
        "ms_max": float(np.max(milliseconds)),
        "rounds": len(milliseconds),
    }


def graph_and_xla(function, arguments, variables=(), kinds=KINDS, modes=MODES) -> dict[tuple[str, str], object]:
    """Return calls of a function by (kind, mode), kinds of `KINDS`, modes of `MODES`.

    The backward pass is the gradient, for the arguments and the variables, of the output's sum with fixed weights; the
    output has the shape of the last argument.
    """
    weights = normal(arguments[-1].shape, seed=99)
    variables = [variable.value if isinstance(variable, keras.Variable) else variable for variable in variables]

    def forward(weights, *arguments):
        return function(*arguments)

    def forward_and_backward(weights, *arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            loss = tf.reduce_sum(function(*arguments) * weights)
        return tape.gradient(loss, [*arguments, *variables])

    def call_of(traced):
        return lambda: traced(weights, *arguments)

    functions = dict(zip(KINDS, (forward, forward_and_backward), strict=True))
    return {
        (kind, mode): call_of(tf.function(functions[kind], jit_compile=mode == "xla", autograph=False))
        for kind in kinds
        for mode in modes
    }


def normal(shape, seed: int):
    """Draw standard normal numbers, a function of shape and seed."""
    return tf.random.stateless_normal(shape, seed=(seed, 0))


def peak_memory(script: str, case: dict) -> dict:
    """Return the peak memory of a case in a process of its own: `script --one-case CASE`, which calls `print_peak`."""
    command = [sys.executable, script, "--one-case", json.dumps(case)]
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [""]
        return {"error": f"exit status {process.returncode}: {lines[-1][:200]}"}
    return json.loads(process.stdout.splitlines()[-1])


def print_peak(call) -> None:
    """Run a call and print, as JSON, the peak memory in MiB: of the whole process, and beyond what was there."""
    before = peak_rss_mib()
    wait(call())
    peak = peak_rss_mib()
    print(json.dumps({"peak_mib": round(peak, 1), "peak_mib_beyond_inputs": round(peak - before, 1)}))


def peak_rss_mib() -> float:
    """Return the most memory that this process has held."""
    # Not getrusage: its ru_maxrss starts at what the parent held when it forked.
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("peak memory is read from /proc/self/status: VmHWM, which is not there")


@functools.cache
def machine() -> dict:
    """Describe what the numbers are measured on, with the rate of a large float32 matmul."""
    a, b = normal((2048, 2048), 0), normal((2048, 2048), 1)
    multiply = tf.function(tf.matmul)
    best = min(seconds_of(lambda: multiply(a, b)) for _ in range(6))
    return {
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0)),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "matmul_gflop_per_s": round(2 * 2048**3 / best / 1e9, 1),
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def write_results(options, name: str, rows: list[dict], about: dict | None = None, **more) -> None:
    """Write name.json into the output folder: the machine, what else is to know, and the rows."""
    content = {"about": about or machine(), "quick": options.quick, "rounds": options.rounds, **more, "rows": rows}
    write_json(options.output / f"{name}.json", content)
    print(f"{options.output / name}.json", flush=True)


def print_row(row: dict, *names: str) -> None:
    """Print a line for a finished case."""
    case = "  ".join(str(row[name]) for name in names)
    result = row["error"] if "error" in row else f"{row['ms']:10.1f} ms"
    print(f"{case:80s} {result}", flush=True)
