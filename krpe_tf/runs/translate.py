"""Translate with a finished run, and say how well it does."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..checks import check_at_least
from ..data import PAIRS, Source, open_source
from ..export import LiteRTTranslator
from ..models import EncoderDecoder
from ..tasks import TASKS, score, translate
from ..text import ReversibleTokenizer, check_texts
from .folder import check_run, load_run, load_task
from .sampling import BEAM, SAMPLERS, make_sampler, sampler_options

# The paper's beam search, section 4.3, ended as fairseq ends it.
SEARCH = {"num_beams": 5, "length_penalty": 1.2, "patience": 1.0}


# Long: what the command line offers.
def translate_run(
    run: str | os.PathLike,
    texts: Sequence[str | bytes],
    *,
    sampler: str = "beam",
    num_beams: int | None = None,
    length_penalty: float | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
) -> list[str]:
    """Translate texts, with model.tflite if the run has been exported and with model.keras otherwise.

    The file searches and takes the likeliest tokens; what is drawn at random is drawn by model.keras.

    Args:
        run: The run folder, of a task that translates.
        texts: Sources. One that shows nothing, an empty line, has an empty translation.
        sampler: "beam", "greedy", "random", "top_k" or "top_p".
        num_beams, length_penalty: Of "beam", see `krpe_tf.models.samplers.Beam`; the paper's 5 and 1.2 if None.
        temperature, top_p, top_k: See `generate_run`.
        max_tokens: The most tokens of a translation; None for about twice as many as its source has.
        seed: An integer for the same random texts again.

    Returns:
        A translation for each text.

    Raises:
        ValueError: For a folder without a run, a run of a task that does not translate, texts that are none, or
            arguments out of range; before the model is loaded. For a text with more tokens than model.tflite reads.
    """
    given = {"num_beams": num_beams, "length_penalty": length_penalty}
    given |= {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    options = _check(run, sampler, given, max_tokens, seed)
    texts = check_texts(texts, visible=False)
    if (exported := _exported(run, sampler)) is not None:
        return LiteRTTranslator(exported)(texts, sampler=sampler, max_tokens=max_tokens, **options)
    model, tokenizer = _load(run)
    return translate(model, tokenizer, texts, make_sampler(sampler, options), max_tokens, seed)


def evaluate_run(
    run: str | os.PathLike,
    data: Source | str | os.PathLike | Sequence[str | os.PathLike],
    *,
    names: Mapping[str, str] | None = None,
    tokenize: str = "13a",
    **options,
) -> dict[str, tuple[float, str]]:
    """Translate the sources of pairs, and compare with the targets.

    Args:
        run: The run folder, of a task that translates.
        data: Pairs, or the path of some, or the paths of two aligned files; see `open_source`.
        names: What the file calls its columns, where it is another name.
        tokenize: How BLEU finds words, see `krpe_tf.tasks.score`.
        **options: Those of `translate_run`.

    Returns:
        By "bleu" and "chrf" each score, and its signature of sacrebleu.

    Raises:
        ValueError: As `translate_run`; for pairs that cannot be read, or none; without sacrebleu.
    """
    score([""], [""], tokenize)  # What it refuses is refused before anything is translated.
    if not isinstance(data, Source):
        data = open_source(data, PAIRS.columns, names, argument="data", optional=PAIRS.optional)
    pairs = [(row["source"], row["target"]) for row in data]
    if not pairs:
        raise ValueError(f"`data` must hold pairs. Received: none in {data.path}")
    sources, targets = zip(*pairs, strict=True)
    return score(translate_run(run, sources, **options), targets, tokenize)


def _check(run: str | os.PathLike, sampler: str, given: dict, max_tokens: int | None, seed: int | None) -> dict:
    """Check all that can be checked before the model is loaded; return the options of the sampler."""
    if max_tokens is not None:
        check_at_least(1, max_tokens=max_tokens)
    if seed is not None:
        check_at_least(0, seed=seed)
    options = sampler_options(sampler, given, {**BEAM, **SAMPLERS})
    check_run(
        Path(run), *(["model.keras", "tokenizer.json", "training.json"] if _exported(run, sampler) is None else [])
    )
    task = load_task(run)
    if not task.translates:
        names = ", ".join(each.name for each in TASKS.values() if each.translates)
        raise ValueError(f"`run` must be of a task that translates: {names}. Received: {task.name!r} in {str(run)!r}")
    return {**SEARCH, **options} if sampler in BEAM else options


def _exported(run: str | os.PathLike, sampler: str) -> Path | None:
    """Return the file that translates with this sampler; None where model.keras does."""
    path = Path(run) / "model.tflite"
    return path if sampler in ("beam", "greedy") and path.is_file() else None


def _load(run: str | os.PathLike) -> tuple[EncoderDecoder, ReversibleTokenizer]:
    model, tokenizer, _ = load_run(run)
    if not model.can_decode:
        raise ValueError(
            "`run` must hold a model that decodes: its decoder needs a bias with a near band and tails. "
            f"Received: run={str(run)!r}"
        )
    return model, tokenizer
