"""Runs the models of generation.py on the backend that Keras has: `python _keras_writers.py TASK REQUEST`.

A script, never imported. REQUEST is JSON, the arguments of the task; it prints the answer as JSON.
"""

import json
import sys

import keras
import numpy as np
from _turns import memory_mib, time_in_turns
from _writers import OURS, SOFTMAX, CachedWriter, make_model
from keras import ops

from krpe_tf.models.generation import generate
from krpe_tf.models.programs import Program

# Tokens of a text that one call writes, and pieces in which a prompt is read.
WRITTEN, PIECES = 50, (256, 1024)
# Tokens of the text that steps and the parallel form are compared on.
CHECKED = 200
MODES = {"tensorflow": {"graph": False, "xla": True}, "jax": {"jit": True}}


class Writer:
    """One contestant at one context: what the tasks call.

    Args:
        name: `OURS` or `SOFTMAX`.
        n: The context.
        sizes: Arguments of `make_model`.
    """

    def __init__(self, name: str, n: int, sizes: dict):
        self.model, self.n = make_model(name, sizes), n
        self.source = self.model if name == OURS else CachedWriter(self.model, n)
        self.written = min(WRITTEN, n // 2)
        random = np.random.default_rng(0)
        # Not zeros, which would be memory that is never touched. Ours: positive, as its features are.
        state = {
            name: np.abs(random.standard_normal(x.shape, "float32")) for name, x in self.source.initial_state(1).items()
        }
        self.state = {**state, **self._position(n - self.written)}
        self.state = {name: ops.convert_to_tensor(x) for name, x in self.state.items()}

    def _position(self, value: int) -> dict:
        return {"position": np.array([value], "int32")} if self.source is not self.model else {}

    def write(self, xla: bool):
        """Return a call that writes tokens up to the end of the context, in one compiled loop."""

        def call():
            self.source.jit_compile = xla
            generate(self.source, [[7]], 1 + self.written, state=self.state)

        return call, self.written

    def read(self, xla: bool, size: int):
        """Return a call that reads the last tokens of the context."""
        program = Program(lambda ids, state: self.source.step(ids, state)[1], self.source.variables, [], xla)
        ids = np.full((1, size), 7, "int32")
        state = {**self.state, **{k: ops.convert_to_tensor(x) for k, x in self._position(self.n - size).items()}}

        def call():
            after = program(ids, state)
            if keras.backend.backend() == "jax":
                import jax

                jax.block_until_ready(after)

        return call, size

    def error(self) -> float:
        """Return |difference| over max |logits| between steps and the parallel form."""
        size = self.model.encoder.vocabulary_size
        ids = np.random.default_rng(0).integers(1, size, (1, min(self.n, CHECKED)), "int32")
        expected = np.asarray(self.model({"token_ids": ids, "padding_mask": np.ones_like(ids)}))[0]
        state, found, first = self.source.initial_state(1), [], ids.shape[1] - 8
        for begin, end in [(0, first), *((i, i + 1) for i in range(first, ids.shape[1]))]:
            logits, state = self.source.step(ids[:, begin:end], state)
            found.append(ops.convert_to_numpy(logits)[0])
        return float(np.abs(np.concatenate(found) - expected).max() / np.abs(expected).max())


def time_models(lengths: list, sizes: dict, rounds: int, seconds: float) -> list:
    """Time both models in turn at each context, in every mode; and compare each with its parallel form."""
    rows = []
    for n in lengths:
        writers = {name: Writer(name, n, sizes) for name in (OURS, SOFTMAX)}
        errors, calls = {name: writer.error() for name, writer in writers.items()}, {}
        for name, writer in writers.items():
            for mode, xla in MODES[keras.backend.backend()].items():
                calls[name, mode, "decode", 1] = writer.write(xla)
                for size in {min(size, n) for size in PIECES}:
                    calls[name, mode, "prefill", size] = writer.read(xla, size)
        for call, _ in calls.values():
            call()
        for (name, mode, kind, size), result in time_in_turns(calls, rounds, seconds).items():
            row = {"contestant": name, "mode": mode, "kind": kind, "n": n, "piece": size, **result}
            rows.append({**row, "max_error": errors[name]})
    return rows


def peak(name: str, mode: str, n: int, sizes: dict) -> dict:
    """Write tokens up to the end of a context; return the memory of the process, and what it grew by since it began."""
    before = memory_mib()
    call, _ = Writer(name, n, sizes).write(MODES[keras.backend.backend()][mode])
    call()
    return {"peak_mib": memory_mib(), "grown_mib": round(memory_mib() - before, 1)}


if __name__ == "__main__":
    task = {"time": time_models, "peak": peak}[sys.argv[1]]
    print(json.dumps(task(**json.loads(sys.argv[2]))))
