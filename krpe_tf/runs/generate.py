"""Continue texts with a finished run."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from .. import models
from ..checks import check_at_least, check_one_of
from ..export import LiteRTGenerator
from ..text import ReversibleTokenizer, load_tokenizer
from .folder import check_run, load_run, load_task

# By the sampler's name, what may be set of it.
SAMPLERS = {
    "greedy": (),
    "random": ("temperature",),
    "top_k": ("temperature", "top_k"),
    "top_p": ("temperature", "top_k", "top_p"),
}

TEMPERATURE = 0.8

WITHIN = {"temperature": lambda x: 1e-6 <= x <= 1e6, "top_p": lambda x: 0 < x <= 1}
RULES = {
    "temperature": "from 1e-6 to 1e6; sampler 'greedy' takes the likeliest token",
    "top_p": "above 0 and at most 1",
}


# Long: what the command line offers.
def generate_run(
    run: str | os.PathLike,
    prompt: str | bytes = "",
    *,
    max_tokens: int = 200,
    sampler: str = "top_p",
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
) -> "GeneratedText":
    """Continue a text, with model.tflite if the run has been exported and with model.keras otherwise.

    Args:
        run: The run folder, of a task that writes.
        prompt: What the text begins with; an empty one leaves even that to the model.
        max_tokens: The most tokens to generate; fewer if the model ends the text.
        sampler: "greedy", "random", "top_k" or "top_p".
        temperature: Of all but "greedy"; 0.8 if None.
        top_p, top_k: Of "top_p" and "top_k", see `krpe_tf.models.samplers`; their defaults if None.
        seed: An integer for the same text again; None for another one each time.

    Returns:
        An iterator over the text that follows the prompt, as it comes: no part ends within a character.

    Raises:
        ValueError: For a folder without a run, a run of a task that does not write, a prompt that is no UTF-8, or
            arguments out of range; before the model is loaded.
    """
    run, prompt = Path(run), _check_prompt(prompt)
    check_at_least(1, max_tokens=max_tokens)
    if seed is not None:
        check_at_least(0, seed=seed)
    options = _options(sampler, {"temperature": temperature, "top_p": top_p, "top_k": top_k})
    exported = run / "model.tflite"
    check_run(run, *(["tokenizer.json"] if exported.is_file() else ["model.keras", "tokenizer.json", "training.json"]))
    task = load_task(run)
    if not task.causal:
        hint = "" if task.answer is None else "; take `predict`, which answers with it"
        raise ValueError(
            f"`run` must be of a task that writes, {task.name!r} does not{hint}. Received: run={str(run)!r}"
        )
    tokenizer = load_tokenizer(run / "tokenizer.json")
    ids = tokenizer.encode([prompt])[0][:-1]
    shared = {"stop_token_ids": [tokenizer.end_id], "seed": seed}
    if exported.is_file():
        stream = LiteRTGenerator(exported).stream(ids, max_tokens, sampler, **options, **shared)
    else:
        model = load_run(run)[0]
        if not model.can_decode:
            raise ValueError(
                '`run` must hold a model that decodes: of a feature map other than "softmax", and a bias with a near '
                f"band and tails. Received: run={str(run)!r} with feature_map={model.encoder.feature_map!r}"
            )
        stream = model.stream(ids, max_tokens, _sampler(sampler, options), **shared)
    return GeneratedText(stream, tokenizer)


class GeneratedText:
    """Text as it is generated, to iterate over once.

    Attributes: `tokens`, how many there are so far, the end among them; `seconds`, how long they took; `first_seconds`,
    how long the first of them took, with reading the prompt and, on Keras, compiling.

    Args:
        ids: The ids, as they come.
        tokenizer: Turns them into text.
    """

    def __init__(self, ids: Iterable[int], tokenizer: ReversibleTokenizer):
        self.tokens, self.seconds, self.first_seconds = 0, 0.0, 0.0
        self._text = self._decode(ids, tokenizer)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the parts of the text."""
        return self._text

    @property
    def tokens_per_second(self) -> float | None:
        """How fast tokens came after the first; None before there are two."""
        return (self.tokens - 1) / (self.seconds - self.first_seconds) if self.tokens > 1 else None

    def _decode(self, ids: Iterable[int], tokenizer: ReversibleTokenizer) -> Iterator[str]:
        decoder, ids, ended = tokenizer.decoder(), iter(ids), object()
        while True:
            start = time.perf_counter()
            if (each := next(ids, ended)) is ended:
                break
            self.tokens += 1
            self.seconds += time.perf_counter() - start  # What the reader of the text takes is not counted.
            if self.tokens == 1:
                self.first_seconds = self.seconds
            if part := decoder.push(each):
                yield part
        if part := decoder.finish():
            yield part


def _check_prompt(prompt: str | bytes) -> str:
    if not isinstance(prompt, (str, bytes)):
        raise ValueError(f"`prompt` must be a text. Received: prompt={prompt!r:.80}")
    try:
        prompt = prompt.decode() if isinstance(prompt, bytes) else prompt
        prompt.encode()  # Of a command line, bytes that are no UTF-8 are lone surrogates.
    except UnicodeError as error:
        raise ValueError(f"`prompt` must be valid UTF-8 ({error.reason}). Received: prompt={prompt!r:.80}") from error
    return prompt


def _options(sampler: str, options: dict) -> dict:
    """Check the options of a sampler, and return those that it takes."""
    if sampler == "beam":
        raise ValueError(
            "`sampler` must choose token by token; a beam search knows its text at the end: call the model's "
            "`generate` for it. Received: sampler='beam'"
        )
    check_one_of(tuple(SAMPLERS), sampler=sampler)
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name not in SAMPLERS[sampler]:
            raise ValueError(f"`{name}` must be left out with sampler={sampler!r}. Received: {name}={value!r}")
        if name == "top_k":
            check_at_least(1, top_k=value)
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not WITHIN[name](value):
            raise ValueError(f"`{name}` must be a number {RULES[name]}. Received: {name}={value!r}")
    return {"temperature": TEMPERATURE, **given} if "temperature" in SAMPLERS[sampler] else given


def _sampler(name: str, options: dict) -> models.samplers.Sampler:
    return models.samplers.SAMPLERS[name](**{name.removeprefix("top_"): value for name, value in options.items()})
