"""What LiteRT says of a .tflite file, in fresh processes: milliseconds, peak memory, what its delegates leave out."""

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .inspection import inspect, keep_signatures
from .process import python_command

# A run is repeated until both are reached.
ROUNDS = 5
SECONDS = 0.5
GPU_SECONDS = 120


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


@dataclass(frozen=True)
class GpuCheck:
    """What LiteRT's GPU delegate made of one signature.

    Attributes: `signature`; `adapter`, the device as its driver calls itself; `taken` and `left`, how many ops run on
    it and how many on the CPU, None where the delegate failed; `reasons`, what it said.
    """

    signature: str
    adapter: str
    taken: int | None
    left: int | None
    reasons: list[str]


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


def outside_xnnpack(content: bytes, signatures: Iterable[str]) -> dict[str, dict[str, int]]:
    """Ask the XNNPACK delegate, which LiteRT uses on every CPU, what it does not take; all signatures in one process.

    Args:
        content: The bytes of a .tflite file.
        signatures: Names of signatures without custom ops.

    Returns:
        For each signature the ops that stay with the interpreter, by kind and count.

    Raises:
        RuntimeError: If the process fails.
    """
    names = list(signatures)
    with tempfile.TemporaryDirectory(prefix="krpe_tf_measuring_") as folder:
        done = _ask("xnnpack", [_write_one(content, name, folder) for name in names])
    if done.returncode:
        raise RuntimeError(f"the file failed in its own process ({done.returncode}): {done.stderr[-2000:]}")
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(names, answers, strict=True))


def check_gpu(content: bytes, signature: str) -> GpuCheck | None:
    """Ask LiteRT's GPU delegate which ops of a signature it takes.

    It needs a Vulkan driver: a GPU's, or a software one such as SwiftShader. `tf.lite.experimental.Analyzer` is no
    substitute: TensorFlow 2.20's calls RFFT2D, UNIQUE and WHERE compatible (issue 77042 of tensorflow/tensorflow).

    Args:
        content: The bytes of a .tflite file.
        signature: The name of a signature of fixed length.

    Returns:
        What the delegate said; None where this machine has no adapter that it can use.
    """
    with tempfile.TemporaryDirectory(prefix="krpe_tf_measuring_") as folder:
        try:
            done = _ask("gpu", [_write_one(content, signature, folder)], timeout=GPU_SECONDS)
        except subprocess.TimeoutExpired:
            return GpuCheck(signature, "unknown", None, None, [f"no answer in {GPU_SECONDS} seconds"])
    adapter = re.search(r"Selected adapter: ([^,\n]*)", done.stderr)
    if adapter is None:
        return None
    reasons = re.search(r"not supported by GPU delegate:\n((?:[A-Z0-9_]+: .*\n)*)", done.stderr)
    counts = re.search(r"(\d+) operations will run on the GPU, and the remaining (\d+) ", done.stderr)
    reasons = reasons[1].splitlines() if reasons else []
    if done.returncode:
        taken = left = None
        reasons = reasons or done.stderr.splitlines()[-3:]
    elif counts:
        taken, left = int(counts[1]), int(counts[2])
    else:
        size = inspect(content).signature_ops[signature]
        taken, left = (size, 0) if done.stdout.split()[-1] == "true" else (0, size)
    return GpuCheck(signature, adapter[1], taken, left, reasons)


def _write_one(content: bytes, signature: str, folder: str) -> Path:
    path = Path(folder, f"{signature}.tflite")
    path.write_bytes(keep_signatures(content, [signature]))
    return path


def _ask(question: str, paths: Sequence[Path], timeout: float | None = None) -> subprocess.CompletedProcess:
    command = python_command("_worker.py", question, *paths)
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=timeout)
