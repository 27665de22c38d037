"""What a .tflite file costs in fresh processes: milliseconds and peak memory."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .process import python_command

# A run is repeated until both are reached.
ROUNDS = 5
SECONDS = 0.5


@dataclass(frozen=True)
class Measurement:
    """One signature in a fresh process: Python, numpy and LiteRT count in its memory.

    Attributes: `signature`; `length`, in tokens; `threads`; `milliseconds` of a run, the median after the first;
    `peak_mib`, the largest resident memory, None where the system does not tell.
    """

    signature: str
    length: int
    threads: int
    milliseconds: float
    peak_mib: float | None


class Worker:
    """A .tflite file in its own process, which runs one signature when asked.

    Args:
        path: The file.
        signature: The signature's name.
        threads: Threads of the interpreter.
        length: Stands for the free axes of the inputs.
    """

    def __init__(self, path: str | os.PathLike, signature: str, threads: int, length: int = 1):
        command = python_command("_worker.py", "run", path, signature, threads, length)
        pipe = subprocess.PIPE
        # A pipe would fill up, and stop the process, as nobody reads it before the end.
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed in `finish`
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._said, text=True, errors="replace"
        )

    def ask(self) -> float | None:
        """Run once; return the milliseconds, None if the process has ended."""
        try:
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.process.stdout.readline()
        return float(line) if line else None

    def finish(self) -> float | None:
        """End the process.

        Returns:
            Its peak memory in MiB, None where the system does not tell.

        Raises:
            RuntimeError: If the process failed; the message holds the end of what it said.
        """
        output, _ = self.process.communicate()
        with self._said as file:
            file.seek(0)
            said = file.read()
        if self.process.returncode:
            raise RuntimeError(f"the file failed in its own process ({self.process.returncode}): {said[-2000:]}")
        return json.loads(output)


def measure_signatures(
    path: str | os.PathLike, lengths: dict[str, int], threads: Sequence[int] = (1, 2), seconds: float = SECONDS
) -> list[Measurement]:
    """Time signatures, one process after the other.

    Args:
        path: The .tflite file.
        lengths: The signatures to run, and the length of their inputs in tokens.
        threads: The numbers of threads, each in a process of its own.
        seconds: How long to repeat a run, at least `ROUNDS` times.

    Returns:
        A measurement for each signature and number of threads.

    Raises:
        RuntimeError: If a process fails.
    """
    measurements = []
    for signature, length in lengths.items():
        for count in threads:
            worker = Worker(path, signature, count, length)
            worker.ask()  # The first run prepares the graph.
            taken, end = [], time.perf_counter() + seconds
            while len(taken) < ROUNDS or time.perf_counter() < end:
                taken.append(worker.ask())
                if taken[-1] is None:
                    break
            peak = worker.finish()
            rounded = None if peak is None else round(peak, 1)
            measurements.append(Measurement(signature, length, count, round(float(np.median(taken)), 2), rounded))
    return measurements
