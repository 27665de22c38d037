"""Runs the models of generation.py on the backend that Keras has: `python _keras_writers.py REQUESTS`.

REQUESTS is JSON, see `answer` of _turns.py.
"""

import keras
import numpy as np
from _turns import answer, forget_peak, memory_mib, time_in_turns
from _writers import OURS, SOFTMAX, CachedWriter, make_model
from keras import ops

from krpe_tf.models.generation import generate
from krpe_tf.models.programs import Program

# Tokens of a text that one call writes: enough that the copy of a cache, one a call, is a small part of the time.
WRITTEN = 100
MODES = {"tensorflow": "xla", "jax": "jit"}


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
        self.programs = {}
        random = np.random.default_rng(0)
        # Not zeros, which would be memory that is never touched. Ours: positive, as its features are.
        self.state = {
            name: ops.convert_to_tensor(np.abs(random.standard_normal(x.shape, "float32")))
            for name, x in self.source.initial_state(1).items()
        }

    def at(self, position: int) -> dict:
        """Return the state at a position, which only the cache has to know."""
        place = {} if self.source is self.model else {"position": ops.convert_to_tensor([position], "int32")}
        return {**self.state, **place}

    def write(self):
        """Return a call that writes tokens up to the end of the context, in one compiled loop, and how many."""
        state = self.at(self.n - self.written)
        return lambda: generate(self.source, [[7]], 1 + self.written, state=state), self.written

    def read(self, size: int):
        """Return a call that reads the last tokens of the context, and how many."""
        read, ids, state = self.reader(size), np.full((1, size), 7, "int32"), self.at(self.n - size)

        def call():
            after = read(ids, state)
            if keras.backend.backend() == "jax":
                import jax

                jax.block_until_ready(after)

        return call, size

    def reader(self, size: int) -> Program:
        """Return the program that reads a piece of a prompt, and gives the state behind it."""
        if size not in self.programs:
            self.programs[size] = self.compiled(lambda ids, state: self.source.step(ids, state)[1])
        return self.programs[size]

    def compiled(self, function) -> Program:
        """Return a program of this model, by XLA."""
        return Program(function, self.source.variables, [], jit_compile=True)

    def error(self, size: int) -> float:
        """Write greedily behind a piece of a prompt, with the programs that are timed.

        Returns:
            How far, at most, the parallel form's logit of what was written is below its largest, over max |logits|.
        """
        ids = np.random.default_rng(0).integers(1, self.model.encoder.vocabulary_size, (1, size + 1), "int32")
        state = self.reader(size)(ids[:, :size], self.source.initial_state(1))
        text = generate(self.source, ids[:, size:], 1 + self.written, state=state)
        text = np.concatenate([ids[:, :size], text], axis=1)
        parallel = self.compiled(lambda ids: self.model({"token_ids": ids, "padding_mask": ops.ones_like(ids)}))
        logits = np.asarray(parallel(text))[0, size:-1]
        written = np.take_along_axis(logits, text[0, size + 1 :, None], axis=-1)[:, 0]
        return float((logits.max(axis=-1) - written).max() / np.abs(logits).max())


# By name and context: a process that is asked twice compiles once.
WRITERS = {}


def writer_of(name: str, n: int, sizes: dict) -> Writer:
    """Return a contestant at a context."""
    if (name, n) not in WRITERS:
        WRITERS[name, n] = Writer(name, n, sizes)
    return WRITERS[name, n]


def time_models(n: int, pieces: list, sizes: dict, rounds: int, seconds: float) -> list:
    """Time both models in turn at a context, and compare each with its parallel form."""
    cases, calls = {}, {}
    for name in (OURS, SOFTMAX):
        writer = writer_of(name, n, sizes)
        case = {"contestant": name, "mode": MODES[keras.backend.backend()], "weights": "float32"}
        case |= {"max_error": writer.error(pieces[0]), "n": n}
        cases[name, 1], calls[name, 1] = {**case, "kind": "decode", "piece": 1}, writer.write()
        for size in pieces:
            cases[name, size], calls[name, size] = {**case, "kind": "prefill", "piece": size}, writer.read(size)
    for call, _ in calls.values():
        call()
    return [{**cases[name], **result} for name, result in time_in_turns(calls, rounds, seconds).items()]


def peak(name: str, n: int, sizes: dict) -> dict:
    """Write tokens up to the end of a context; return the memory of the process, and what it grew by since it began."""
    before = memory_mib()
    call, _ = writer_of(name, n, sizes).write()
    forget_peak()
    call()
    return {"peak_mib": memory_mib(), "grown_mib": round(memory_mib() - before, 1)}


TASKS = {"time": time_models, "peak": peak}
if __name__ == "__main__":
    answer(TASKS)
