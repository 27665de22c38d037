"""What LiteRT's delegates leave to the interpreter: XNNPACK, which runs on every CPU, and that of GPUs."""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .inspection import inspect, keep_signatures
from .process import python_command

GPU_SECONDS = 120


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
    with tempfile.TemporaryDirectory(prefix="krpe_tf_delegates_") as folder:
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
    with tempfile.TemporaryDirectory(prefix="krpe_tf_delegates_") as folder:
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
