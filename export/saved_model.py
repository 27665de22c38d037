"""Export to a SavedModel."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..files import staged
from .parity import Sample, check_arguments, check_errors, make_samples, max_error, run_in_own_process
from .signatures import save_functions, saved_model_functions

if TYPE_CHECKING:
    import keras

    from ..text import Tokenizer


# Tokens of the one document that is timed, where the model takes any length; and how often it runs.
LATENCY_LENGTHS = (128, 512, 2048)
ROUNDS = 7


@dataclass(frozen=True)
class SavedModelReport:
    """What `export_saved_model` wrote and how it was checked; `dataclasses.asdict` makes it JSON.

    Attributes: `path`; `max_error` of each signature, max |difference| over max |output|; `tolerance`; `milliseconds`
    for one document, by its length in tokens: medians of the signature `token_ids` in a fresh process, None where the
    export did not measure.
    """

    path: str
    max_error: dict[str, float]
    tolerance: float
    milliseconds: dict[int, float] | None


def export_saved_model(
    model: "keras.Model",
    path: str | os.PathLike,
    tokenizer: "Tokenizer | None" = None,
    *,
    sample_texts: Iterable[str] | None = None,
    tolerance: float = 1e-4,
    measure: bool = True,
    overwrite: bool = False,
) -> SavedModelReport:
    """Export a model to a SavedModel that loads without krpe_tf, and check it there.

    Signatures, for any batch and, where the model takes any length, any length:
    - `token_ids`: int32 `token_ids` and `padding_mask` `(batch, n)` to float32 `output`.
    - `serving_default`: with a tokenizer string `text` `(batch,)` to `output`; without one the same as `token_ids`.

    A process that loads a SavedModel with a tokenizer must `import tensorflow_text` first, whichever signature it
    calls. There ids outside the vocabulary, a mask of another shape, empty texts, invalid UTF-8, and a text longer than
    the model's one length fail with InvalidArgumentError, whose message says which.

    Args:
        model: A functional model from int `token_ids` and `padding_mask` `(batch, n)` to one float tensor.
        path: The folder to make. It appears only when everything is checked.
        tokenizer: Put into the SavedModel, to take text.
        sample_texts: Texts to compare on; by default built-in ones. Needs a tokenizer.
        tolerance: The largest error accepted: max |difference| over max |output| at valid positions.
        measure: Time one document in a fresh process, for the report: a few seconds.
        overwrite: Replace a SavedModel that lies at `path`.

    Returns:
        A `SavedModelReport`.

    Raises:
        ValueError: For wrong arguments, an existing or unwritable `path`, or an error above the tolerance.
        OSError: If writing fails, the disk being full for one; nothing is left then.
        RuntimeError: If the SavedModel does not run in its own process.
    """
    length, texts = check_arguments(model, tokenizer, sample_texts, tolerance)
    with staged(path, overwrite) as target:
        save_functions(saved_model_functions(model, length, tokenizer), target)
        errors = _errors(model, target, length, tokenizer, texts)
        check_errors(errors, tolerance)
        lengths = [length] if length else LATENCY_LENGTHS
        milliseconds = _milliseconds(target, lengths, tokenizer is not None) if measure else None
    return SavedModelReport(os.path.abspath(path), errors, tolerance, milliseconds)


def _milliseconds(path: os.PathLike, lengths: Iterable[int], with_text_ops: bool) -> dict[int, float]:
    """One document of each length, the median after the first round, which prepares the graph."""
    calls = [
        ("token_ids", {"token_ids": [[0] * length], "padding_mask": [[1] * length]})
        for length in lengths
        for _ in range(1 + ROUNDS)
    ]
    taken = [float(result["milliseconds"]) for result in run_in_own_process("saved_model", path, calls, with_text_ops)]
    rounds = np.reshape(taken, (-1, 1 + ROUNDS))[:, 1:]
    return {length: round(float(np.median(row)), 2) for length, row in zip(lengths, rounds, strict=True)}


def _errors(
    model: "keras.Model",
    path: os.PathLike,
    length: int | None,
    tokenizer: "Tokenizer | None",
    texts: list[str] | None,
) -> dict[str, float]:
    # One length holds every text given: those are compared as text too.
    longest = max((len(ids) for ids in tokenizer.encode(texts)), default=0) if texts else 0
    lengths = [length] if length else [129, max(512, longest)]
    groups = [make_samples(model, n, tokenizer, texts) for n in lengths]
    calls, expected = [], []
    for samples in groups:
        for name in ["token_ids"] if tokenizer else ["token_ids", "serving_default"]:
            calls.append((name, _batch(samples)))
            expected.append(samples)
        # Text is padded to the longest of the batch, which the samples are not: one text a call, all in the last.
        fitting = [s for s in samples if s.text is not None and s.token_count <= s.token_ids.shape[1]]
        for batch in [[s] for s in fitting] + [fitting] * (len(fitting) > 1):
            calls.append(("serving_default", {"text": [s.text for s in batch]}))
            expected.append(batch)
    errors: dict[str, float] = {}
    results = run_in_own_process("saved_model", path, calls, with_text_ops=tokenizer is not None)
    for (name, _), samples, result in zip(calls, expected, results, strict=True):
        outputs = [_padded(row[np.newaxis], sample) for row, sample in zip(result["output"], samples, strict=True)]
        errors[name] = max(errors.get(name, 0.0), max_error(samples, outputs))
    return errors


def _batch(samples: list[Sample]) -> dict[str, list]:
    return {
        "token_ids": np.concatenate([s.token_ids for s in samples]).tolist(),
        "padding_mask": np.concatenate([s.padding_mask for s in samples]).tolist(),
    }


def _padded(output: np.ndarray, sample: Sample) -> np.ndarray:
    """An output `(1, ...)` with its length axis, if it has one, as long as the sample's: what follows is padding."""
    if output.ndim < 3 or output.shape == sample.output.shape:
        return output
    padded = np.zeros_like(sample.output)
    padded[:, : output.shape[1]] = output
    return padded
