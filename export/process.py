"""Runs an exported file in a process of its own, which sees nothing of this one."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def run_in_own_process(
    kind: str, path: str | os.PathLike, calls: Sequence[tuple[str, dict]], with_text_ops: bool
) -> list[dict]:
    """Run an exported file in a fresh Python, all calls one after the other.

    Args:
        kind: "litert" or "saved_model".
        path: The exported file or folder.
        calls: (signature, inputs) pairs: integers as arrays or lists, `text` as a list of strings.
        with_text_ops: Load tensorflow-text's ops, which a SavedModel with a tokenizer needs whatever is called. Without
            them a .tflite file runs where there is LiteRT alone.

    Returns:
        For each call its outputs by name, numpy arrays, and "milliseconds", what the call took.

    Raises:
        RuntimeError: If the process fails; the message names the signature that it was at and holds the end of what it
            said.
    """
    ops = "text" if with_text_ops else "builtin"
    arrays, _ = _run("_runner.py", [kind, path, ops], calls)
    results: list[dict] = [{} for _ in calls]
    for key, value in arrays.items():
        index, _, name = key.partition("/")
        results[int(index)][name] = value
    return results


def run_writer(
    path: str | os.PathLike, readings: dict[str, dict], measure: bool
) -> tuple[dict[str, np.ndarray], dict | None]:
    """Run an exported generator or translator in a fresh Python.

    Args:
        path: The .tflite file.
        readings: What it reads, see `make_readings` of generator.py and of translator.py.
        measure: Whether to time it too.

    Returns:
        For each reading the logits behind every token that it decodes, `(rows, tokens, vocabulary_size)`; and what the
        file costs, by the names of `GeneratorCosts`, or None.

    Raises:
        RuntimeError: If the process fails; the message names the reading that it was at.
    """
    arrays, printed = _run("_generator.py", [path], {"readings": readings, "measure": measure})
    return arrays, json.loads(printed[-1])


def _run(script: str, arguments: Sequence, request) -> tuple[dict[str, np.ndarray], list[str]]:
    """Run a script of this folder on a request; return the arrays that it writes and the lines that it prints."""
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory(prefix="krpe_tf_parity_") as folder:
        file, answer = Path(folder, "request.json"), Path(folder, "answer.npz")
        file.write_text(json.dumps(request, default=np.ndarray.tolist), encoding="utf-8")
        command = python_command(script, *arguments, file, answer)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            at = done.stdout.splitlines() or ["none, it did not load"]
            raise RuntimeError(
                f"the exported file failed in its own process (signature {at[-1]}, exit status {done.returncode}): "
                f"{done.stderr[-2000:]}"
            )
        with np.load(answer) as arrays:
            return dict(arrays), done.stdout.splitlines()


def python_command(script: str, *arguments) -> list[str]:
    """Return the command that runs a script of this folder; -P keeps the folder's modules out of its import path."""
    return [sys.executable, "-P", str(Path(__file__).with_name(script)), *map(str, arguments)]
