"""Writes text with a .tflite file from krpe_tf's `export_generator`, with numpy and ai-edge-litert alone.

This one file imports nothing else: an app may copy it. It reads and gives token ids.

    generator = LiteRTGenerator("model.tflite")
    for token in generator.stream([1, 17, 9], max_tokens=100, sampler="top_p", temperature=0.8, seed=0):
        ...

Memory and the time of a token do not depend on how many came before.
"""

import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

# `top_k` and `top_p` where a sampler needs them and none is given.
TOP_K, TOP_P = 40, 0.9
# By sampler, the arguments that it takes.
USES = {
    "greedy": (),
    "random": ("temperature",),
    "top_k": ("temperature", "top_k"),
    "top_p": ("temperature", "top_k", "top_p"),
}
# How far below the largest logit a sampler looks for tokens, until it has found enough.
LOGITS_BELOW = (5.0, 10.0, 20.0, np.inf)


class LiteRTGenerator:
    """An exported language model.

    Each text has a `session` of its own: the model's memory of it. Threads may share a generator; LiteRT runs one call
    at a time.

    Attributes: `prefill`, the lengths of the pieces in which a prompt is read, ascending; `vocabulary_size`;
    `state_names`, the arrays that a text carries from token to token, and `state_bytes`, their size.

    Args:
        path: The .tflite file.
        num_threads: Threads that one call may use.

    Raises:
        ValueError: If `path` is not a file that `export_generator` wrote, or another argument is out of range.
    """

    def __init__(self, path: str | os.PathLike, num_threads: int = 1):
        from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Options
        from ai_edge_litert.interpreter import Interpreter

        if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
            raise ValueError(f"`num_threads` must be an integer of 1 or more. Received: num_threads={num_threads!r}")
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(f"`path` must be the path of a .tflite file. Received: path={path!r}")
        path = os.fspath(path)
        try:
            interpreter = Interpreter(model_path=path)  # Knows the shapes, and never runs.
        except ValueError as error:
            raise ValueError(f"`path` must be a .tflite file ({error}). Received: path={path!r}") from error
        names = list(interpreter.get_signature_list())
        self.prefill = sorted(int(name[8:]) for name in names if re.fullmatch(r"prefill_\d+", name))
        if not self.prefill or "decode" not in names:
            raise ValueError(
                "`path` must be a file that `export_generator` wrote, with signatures prefill_N and decode. "
                f"Received: path={path!r}, signatures {', '.join(names)}"
            )
        runner = interpreter.get_signature_runner("decode")
        self.vocabulary_size = int(runner.get_output_details()["logits"]["shape"][-1])
        inputs = runner.get_input_details()
        self._shapes = {name: tuple(map(int, inputs[name]["shape"])) for name in inputs if name.startswith("kv_cache_")}
        self.state_names = list(self._shapes)
        self.state_bytes = sum(4 * int(np.prod(shape)) for shape in self._shapes.values())
        self._model = CompiledModel.from_file(path, options=Options(cpu_options=CpuOptions(num_threads)))
        self._lock = threading.Lock()

    def session(self) -> "Session":
        """Begin a text."""
        return Session(self)

    # Long: what `CausalLM.stream` and its samplers take, in one call.
    def stream(
        self,
        token_ids: Sequence[int],
        max_tokens: int,
        sampler: str = "greedy",
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop_token_ids: Iterable[int] | None = None,
        seed: int | None = None,
    ) -> Iterator[int]:
        """Continue a prompt, and give each token as soon as it is chosen.

        The same seed gives the tokens that `CausalLM.stream` gives, as far as float32 rounding does not decide.

        Args:
            token_ids: The prompt, one id or more; the first is not 0.
            max_tokens: How many tokens to write at most.
            sampler: "greedy"; "random", by the model's probabilities; "top_k" or "top_p", among the most probable ones.
            temperature: Divides the logits before a token is drawn, from 1e-6 to 1e6.
            top_k: How many tokens "top_k" keeps, 40 by default; "top_p" keeps no more than these, if it is given.
            top_p: Which share of the probability "top_p" keeps, 0.9 by default.
            stop_token_ids: The text ends with the first of these.
            seed: Of what is drawn; None for another text each time.

        Returns:
            An iterator of ids.

        Raises:
            ValueError: For arguments out of range; before anything runs.
        """
        choose = make_sampler(sampler, temperature, top_k, top_p)
        prompt = self._check_ids("token_ids", token_ids, starts=True)
        if not len(prompt):
            raise ValueError("`token_ids` must hold at least one token. Received: none")
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, (int, np.integer)) or max_tokens < 1:
            raise ValueError(f"`max_tokens` must be an integer of at least 1. Received: max_tokens={max_tokens!r}")
        stops = set(self._check_ids("stop_token_ids", () if stop_token_ids is None else stop_token_ids).tolist())
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0):
            raise ValueError(f"`seed` must be None or an integer of at least 0. Received: seed={seed!r}")
        return self._stream(prompt, max_tokens, choose, stops, np.random.default_rng(seed))

    def _stream(self, prompt, max_tokens, choose, stops, random) -> Iterator[int]:
        session = self.session()
        session.read(prompt[:-1])
        # A uniform for each position of the prompt too: `CausalLM.generate` has one for every place.
        random.random(len(prompt), "float32")
        token = int(prompt[-1])
        for _ in range(max_tokens):
            token = choose(session.decode(token), random.random(1, "float32")[0])
            yield token
            if token in stops:
                return

    def _check_ids(self, name: str, values, starts: bool = False) -> np.ndarray:
        """Check ids; `starts` says whether a text begins with them."""
        try:
            ids = np.asarray(values)
        except ValueError as error:  # Lists of different lengths.
            raise ValueError(f"`{name}` must be a list of integers. Received: {name}={values!r:.80}") from error
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise ValueError(f"`{name}` must be a list of integers. Received: {name}={values!r:.80}")
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocabulary_size):
            raise ValueError(
                f"`{name}` must lie in the vocabulary, from 0 to {self.vocabulary_size - 1}. "
                f"Received: ids from {ids.min()} to {ids.max()}"
            )
        if starts and ids.size and ids[0] == 0:
            raise ValueError(f"`{name}` must not start a text with 0, which is padding there. Received: 0 first")
        return ids.astype(np.int32)


class Session:
    """One text: what the model remembers of it, in memory that does not grow. Made by `LiteRTGenerator.session`."""

    def __init__(self, generator: LiteRTGenerator):
        self._generator = generator
        self.position = 0
        model = generator._model
        # Two of each: what goes in, and what comes out.
        self._states = [
            {name: model.create_input_buffer_by_name("decode", name) for name in generator._shapes} for _ in range(2)
        ]
        for name, buffer in self._states[0].items():
            buffer.write(np.zeros(generator._shapes[name], np.float32))
        self._logits = model.create_output_buffer_by_name("decode", "logits")
        self._inputs = {
            signature: [model.create_input_buffer_by_name(signature, name) for name in ("tokens", "input_pos")]
            for signature in ("decode", *(f"prefill_{n}" for n in generator.prefill))
        }

    def read(self, token_ids: Sequence[int]) -> None:
        """Read tokens, without logits.

        Raises:
            ValueError: For ids outside of the vocabulary, or a text whose first token is 0.
        """
        ids = self._check(token_ids)
        sizes = self._generator.prefill
        while len(ids):
            # The smallest piece that holds the rest, or the largest of all.
            size = next((n for n in sizes if n >= len(ids)), sizes[-1])
            self._run(f"prefill_{size}", size, ids[:size], {})
            ids = ids[size:]

    def decode(self, token_id: int) -> np.ndarray:
        """Read one token.

        Returns:
            The logits of the next, float32 `(vocabulary_size,)`.

        Raises:
            ValueError: As `read`.
        """
        self._run("decode", 1, self._check([token_id]), {"logits": self._logits})
        return self._logits.read(self._generator.vocabulary_size, np.float32)

    def _check(self, token_ids) -> np.ndarray:
        return self._generator._check_ids("token_ids", token_ids, starts=not self.position)

    def _run(self, signature: str, size: int, ids: np.ndarray, outputs: dict) -> None:
        tokens, positions = np.zeros((1, size), np.int32), np.zeros(size, np.int32)
        tokens[0, : len(ids)] = ids
        # All that counts is whether a position is 0, so that a text may be longer than an int32 says.
        positions[: len(ids)] = np.minimum(np.arange(self.position, self.position + len(ids)), 2**31 - 1)
        before, after = self._states
        tokens_buffer, positions_buffer = self._inputs[signature]
        tokens_buffer.write(tokens)
        positions_buffer.write(positions)
        inputs = {"tokens": tokens_buffer, "input_pos": positions_buffer, **before}
        with self._generator._lock:
            self._generator._model.run_by_name(signature, inputs, {**outputs, **after})
        self._states.reverse()
        self.position += len(ids)


def make_sampler(sampler: str, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None):
    """Return `choose(logits, uniform)`, which gives the next token; see `LiteRTGenerator.stream`.

    Tokens are ordered by descending probability, of equal ones the lower id first; the token is the first whose
    cumulative share of what is kept exceeds the uniform.

    Raises:
        ValueError: For an unknown sampler, or numbers out of range.
    """
    if sampler not in USES:
        raise ValueError(f"`sampler` must be one of {', '.join(map(repr, USES))}. Received: sampler={sampler!r}")
    if not _is_number(temperature) or not 1e-6 <= temperature <= 1e6:
        raise ValueError(f"`temperature` must be a number from 1e-6 to 1e6. Received: temperature={temperature!r}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1):
        raise ValueError(f"`top_k` must be an integer of at least 1. Received: top_k={top_k!r}")
    if top_p is not None and not (_is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"`top_p` must be a number above 0 and at most 1. Received: top_p={top_p!r}")
    given = {"temperature": None if temperature == 1 else temperature, "top_k": top_k, "top_p": top_p}
    unused = {name: x for name, x in given.items() if x is not None and name not in USES[sampler]}
    if unused:
        raise ValueError(
            f"{' and '.join(f'`{name}`' for name in unused)} must be left out with sampler={sampler!r}. "
            f"Received: {', '.join(f'{name}={x!r}' for name, x in unused.items())}"
        )
    if sampler == "greedy":
        return lambda logits, uniform: int(np.argmax(logits))
    if sampler == "top_k":
        top_k = TOP_K if top_k is None else top_k
    if sampler == "top_p":
        top_p = TOP_P if top_p is None else top_p

    def choose(logits: np.ndarray, uniform: float) -> int:
        logits = (logits - logits.max()) / np.float32(temperature)
        wanted = np.float32(np.inf) if top_p is None else np.float32(top_p) * np.exp(logits).sum()
        kept, cumulative = _most_probable(logits, top_k, wanted)
        # A token is kept if those before it have less than is wanted.
        cumulative = cumulative[: 1 + np.searchsorted(cumulative[:-1], wanted)]
        place = np.searchsorted(cumulative, np.float32(uniform) * cumulative[-1], side="right")
        same = np.searchsorted(-kept, -kept[place])  # The place of the first that is as probable.
        return int(np.flatnonzero(logits == kept[place])[place - same])

    return choose


def _most_probable(logits: np.ndarray, top_k: int | None, wanted: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest logits, 0 first, and their cumulative mass: `top_k` of them, or as many as have `wanted`."""
    # Most tokens are improbable, and to sort them would take longer than the model does.
    for below in LOGITS_BELOW if top_k is not None or wanted < np.inf else LOGITS_BELOW[-1:]:
        kept = logits[logits >= -below]
        if top_k is not None and len(kept) > top_k:
            kept = np.partition(kept, -top_k)[-top_k:]
        kept = -np.sort(-kept)
        cumulative = np.cumsum(np.exp(kept))
        if len(kept) == top_k or cumulative[-1] >= wanted:
            break
    return kept, cumulative


def _is_number(x) -> bool:
    return isinstance(x, (int, float, np.number)) and not isinstance(x, bool)
