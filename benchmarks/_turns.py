"""Times calls in turn, in processes that import neither TensorFlow nor JAX, and says what memory a process holds."""

import json
import sys
import time
from pathlib import Path

import numpy as np


def time_in_turns(calls: dict, rounds: int, seconds: float) -> dict:
    """Time calls in turns, so that all meet the same noise of the machine.

    Other programs take slices of some milliseconds: a short call may run between them, a long one never does. So a turn
    lasts as long for either, and the CPU's time is taken too, of which those slices are no part.

    Args:
        calls: By name, a function that is already warm, and how many tokens it reads or writes.
        rounds: Turns of each.
        seconds: How long a turn repeats its call, once or more.

    Returns:
        For each name milliseconds a token: `ms`, `ms_max` the median and the most of the turns, `ms_min` the fastest
        call, `cpu_ms` and `cpu_ms_min` the median and the least of the turns in the CPU's time, of all threads; and
        `rounds`.
    """
    wall, cpu, fastest = ({name: [] for name in calls} for _ in range(3))
    for _ in range(rounds):
        for name, (call, tokens) in calls.items():
            taken, used = [], time.process_time()
            end = time.perf_counter() + seconds
            while not taken or time.perf_counter() < end:
                start = time.perf_counter()
                call()
                taken.append(1000 * (time.perf_counter() - start) / tokens)
            cpu[name].append(1000 * (time.process_time() - used) / tokens / len(taken))
            wall[name].append(float(np.mean(taken)))
            fastest[name].append(min(taken))
    return {
        name: {
            "ms": float(np.median(wall[name])),
            "ms_min": min(fastest[name]),
            "ms_max": max(wall[name]),
            "cpu_ms": float(np.median(cpu[name])),
            "cpu_ms_min": min(cpu[name]),
            "rounds": rounds,
        }
        for name in calls
    }


def memory_mib(name: str = "VmHWM") -> float:
    """Return the most memory that this process has held, or "VmRSS", what it holds."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return round(int(status.partition(f"{name}:")[2].split()[0]) / 1024, 1)


def forget_peak() -> None:
    """Begin `VmHWM` anew: what was held before, to make ready, is not counted."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def answer(tasks: dict) -> None:
    """Print, as JSON, what the tasks answer to the requests of the command line: JSON, [task, arguments] of each."""
    print(json.dumps([tasks[task](**arguments) for task, arguments in json.loads(sys.argv[1])]))
