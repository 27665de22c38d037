"""Continue texts with a finished run."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..checks import check_at_least
from ..export import LiteRTGenerator
from ..text import ReversibleTokenizer, load_tokenizer
from .folder import check_run, load_run, load_task
from .sampling import SAMPLERS, make_sampler, sampler_options


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
    if sampler == "beam":
        raise ValueError(
            "`sampler` must choose token by token; a beam search knows its text at the end: call the model's "
            "`generate` for it. Received: sampler='beam'"
        )
    options = sampler_options(sampler, {"temperature": temperature, "top_p": top_p, "top_k": top_k}, SAMPLERS)
    exported = run / "model.tflite"
    check_run(run, *(["tokenizer.json"] if exported.is_file() else ["model.keras", "tokenizer.json", "training.json"]))
    task = load_task(run)
    if not task.causal:
        hint = "" if task.answer is None else "; take `predict`, which answers with it"
        hint = "; take `translate`, which translates with it" if task.translates else hint
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
        stream = model.stream(ids, max_tokens, make_sampler(sampler, options), **shared)
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
