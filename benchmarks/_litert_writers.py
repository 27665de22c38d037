"""Runs the files of generation.py where there is LiteRT and no TensorFlow: `python _litert_writers.py TASK REQUEST`.

A script, never imported. REQUEST is JSON, the arguments of the task; it prints the answer as JSON. The softmax twin's
files keep to the names of `export_generator`, so that `LiteRTGenerator` runs them too.
"""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
from _turns import memory_mib, time_in_turns

GENERATOR = Path(__file__).parent.parent / "export" / "litert_generator.py"


def open_session(path: str, mode: str):
    """Return a session; "in place": what goes in and what comes out is one buffer."""
    session = runpy.run_path(str(GENERATOR))["LiteRTGenerator"](path).session()
    if mode == "in place":
        session._states[1] = session._states[0]
    return session


def fill(session, n: int) -> None:
    """Bring a session to position n - 1: nothing of a cache may be memory that was never touched."""
    random = np.random.default_rng(0)
    for states in session._states:
        for name, buffer in states.items():
            shape = session._generator._shapes[name]
            buffer.write(np.abs(random.standard_normal(shape, np.float32)))
    session.position = n - 1


def time_files(contestants: list, n: int, check: str, rounds: int, seconds: float) -> list:
    """Time files in turn, and compare each with the parallel form of its model.

    Args:
        contestants: [name, mode, path] of each.
        n: The context.
        check: An .npz file that holds ids, and under each name the logits behind them.
        rounds, seconds: As in `time_in_turns`.
    """
    sessions = {(name, mode): open_session(path, mode) for name, mode, path in contestants}
    expected = np.load(check)
    errors, calls = {}, {}
    for (name, mode), session in sessions.items():
        errors[name, mode] = error_of(session, expected["ids"], expected[name])
        fill(session, n)

        def write(session=session):
            session.position = n - 1
            session.decode(7)

        calls[name, mode, "decode", 1] = (write, 1)
        for size in session._generator.prefill:
            if size > n:
                continue

            def read(session=session, size=size):
                session.position = n - size
                session.read([7] * size)

            calls[name, mode, "prefill", size] = (read, size)
    for call, _ in calls.values():
        call()
    rows = []
    for (name, mode, kind, size), result in time_in_turns(calls, rounds, seconds).items():
        row = {"contestant": name, "mode": mode, "kind": kind, "n": n, "piece": size, **result}
        rows.append({**row, "max_error": errors[name, mode]})
    return rows


def error_of(session, ids, expected) -> float:
    """Return |difference| over max |logits| of what is decoded behind a piece of a prompt."""
    first = len(ids) // 2
    session.read(ids[:first])
    found = np.stack([session.decode(token) for token in ids[first:]])
    return float(np.abs(found - expected[first:]).max() / np.abs(expected).max())


def peak(path: str, mode: str, n: int) -> dict:
    """Write 20 tokens at the end of a context; return the memory that it took."""
    session = open_session(path, mode)
    fill(session, n - 19)
    for _ in range(20):
        session.decode(7)
    return {"peak_mib": memory_mib()}


def long_text(path: str, lengths: list) -> list:
    """Write one text of greedy tokens; return the memory at each of the lengths."""
    session, token, seen = open_session(path, "swapped"), 7, []
    while len(seen) < len(lengths):
        token = int(np.argmax(session.decode(token)))
        if session.position == lengths[len(seen)]:
            seen.append({"tokens": session.position, "rss_mib": memory_mib("VmRSS"), "peak_mib": memory_mib()})
    return seen


if __name__ == "__main__":
    task = {"time": time_files, "peak": peak, "long": long_text}[sys.argv[1]]
    print(json.dumps(task(**json.loads(sys.argv[2]))))
