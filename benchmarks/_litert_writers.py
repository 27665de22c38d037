"""Runs the files of generation.py where there is LiteRT and no TensorFlow: `python _litert_writers.py REQUESTS`.

REQUESTS is JSON, see `answer` of _turns.py. The softmax twin's files keep to the names of `export_generator`, so that
`LiteRTGenerator` runs them too.
"""

import runpy
import time
from pathlib import Path

import numpy as np
from _turns import answer, forget_peak, memory_mib, time_in_turns

GENERATOR = Path(__file__).parent.parent / "export" / "litert_generator.py"


def open_file(path: str):
    """Return a generator, of the one file that an app copies."""
    return runpy.run_path(str(GENERATOR))["LiteRTGenerator"](path)


def open_session(path: str, mode: str):
    """Return a session; "in place": what goes in and what comes out is one buffer."""
    session = open_file(path).session()
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
        contestants: Dicts of `contestant`, `mode`, `weights` and `path`.
        n: The context.
        check: An .npz file that holds ids, and under each contestant's name the logits behind them.
        rounds, seconds: As in `time_in_turns`.
    """
    expected, cases, calls = np.load(check), {}, {}
    for case in contestants:
        session = open_session(case.pop("path"), case["mode"])
        case["max_error"] = error_of(session, expected["ids"], expected[case["contestant"]])
        fill(session, n)
        for size in (1, *session._generator.prefill):
            kind, name = "decode" if size == 1 else "prefill", len(calls)
            cases[name] = {**case, "kind": kind, "n": n, "piece": size}
            calls[name] = (call_of(session, n, size), size)
    for call, _ in calls.values():
        call()
    return [{**cases[name], **result} for name, result in time_in_turns(calls, rounds, seconds).items()]


def call_of(session, n: int, size: int):
    """Return a call that reads the last tokens of a context: one with logits, or a piece of a prompt."""

    def decode():
        session.position = n - 1
        session.decode(7)

    def prefill():
        session.position = n - size
        session.read([7] * size)

    return decode if size == 1 else prefill


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
    forget_peak()
    for _ in range(20):
        session.decode(7)
    return {"peak_mib": memory_mib()}


def write_long_text(path: str, marks: list, rounds: int, seconds: float) -> list:
    """Write one text of greedy tokens, and say at each of the marks what memory the process holds.

    The text as it was at each mark is kept, and goes on from there when it is done: the times of the tokens behind the
    marks are taken in turn.

    Returns:
        For each mark the memory, `written_ms`, the mean of all tokens since the mark before, and what `time_in_turns`
        gives for those behind it.
    """
    generator = open_file(path)
    text, kept = generator.session(), {mark: generator.session() for mark in marks}
    token, rows, start, last = 7, {}, time.perf_counter(), 0
    while text.position < marks[-1]:
        token = int(np.argmax(text.decode(token)))
        if text.position in kept:
            mark, now = text.position, time.perf_counter()
            memory = {"rss_mib": memory_mib("VmRSS"), "peak_mib": memory_mib()}
            rows[mark] = {"n": mark, **memory, "written_ms": 1000 * (now - start) / (mark - last)}
            copy(text, kept[mark])
            start, last = time.perf_counter(), mark
    calls = {mark: (lambda session=session: session.decode(7), 1) for mark, session in kept.items()}
    for mark, result in time_in_turns(calls, rounds, seconds).items():
        rows[mark] |= result
    return list(rows.values())


def copy(session, other) -> None:
    """Bring another session to where this one is."""
    for name, shape in session._generator._shapes.items():
        other._states[0][name].write(session._states[0][name].read(int(np.prod(shape)), np.float32).reshape(shape))
    other.position = session.position


if __name__ == "__main__":
    answer({"time": time_files, "peak": peak, "long": write_long_text})
