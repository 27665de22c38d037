"""Export to a SavedModel."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..files import staged
from .checks import Source, check_places, check_source
from .compare import check_errors, max_error
from .process import run_in_own_process
from .samples import Document, Sample, make_documents, run_model
from .trace import save_functions, saved_model_functions

if TYPE_CHECKING:
    import keras

    from ..text import Tokenizer


# Tokens of the one document that is timed, where the model takes any length; and how often it runs.
LATENCY_LENGTHS = (128, 512, 2048)
ROUNDS = 7


@dataclass(frozen=True)
class SavedModelReport:
    """What `export_saved_model` wrote and how it was checked; `dataclasses.asdict` makes it JSON.

    Attributes: `path`; `model_dtypes`, what the layers of the model compute in, while those of the file do in float32;
    `max_error` of each signature, max |difference| over max |output|; `tolerance`; `milliseconds` for one document, by
    its length in tokens: medians of the signature `token_ids` in the process that ran the comparison, None where the
    export did not measure.
    """

    path: str
    model_dtypes: list[str]
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
        model: A functional model from int `token_ids` and `padding_mask` `(batch, n)` to one float tensor. One in half
            precision is exported, and compared, as `krpe_tf.models.in_float32` returns it.
        path: The folder to make. It appears only when everything is checked.
        tokenizer: Put into the SavedModel, to take text.
        sample_texts: Texts to compare on; by default built-in ones. Needs a tokenizer.
        tolerance: The largest error accepted: max |difference| over max |output| at valid positions.
        measure: Time one document in the process of the comparison, for the report: a few seconds.
        overwrite: Replace a SavedModel that lies at `path`.

    Returns:
        A `SavedModelReport`.

    Raises:
        ValueError: For wrong arguments, an existing or unwritable `path`, or an error above the tolerance.
        OSError: If writing fails, the disk being full for one; nothing is left then.
        RuntimeError: If the SavedModel does not run in the other process.
    """
    source = check_source(model, tokenizer, sample_texts, tolerance)
    check_places(model, [source.length])
    with staged(path, overwrite) as target:
        save_functions(saved_model_functions(source.model, source.length, tokenizer), target)
        errors, milliseconds = _verify(source, target, measure)
        check_errors(errors, tolerance)
    return SavedModelReport(os.path.abspath(path), source.model_dtypes, errors, tolerance, milliseconds)


def _verify(source: Source, path: os.PathLike, measure: bool) -> tuple[dict[str, float], dict[int, float] | None]:
    """Compare all signatures with the Keras model, and time `token_ids`, in one process.

    Returns:
        The largest error of every signature, and the milliseconds of a document by its length.
    """
    compared = _compared_calls(source)
    documents = {id(each): each for _, _, group in compared for each in group}
    samples = dict(zip(documents, run_model(source, documents.values()), strict=True))
    lengths = ([source.length] if source.length else LATENCY_LENGTHS) if measure else []
    timed = [("token_ids", {"token_ids": [[0] * n], "padding_mask": [[1] * n]}) for n in lengths]
    calls = [(name, inputs) for name, inputs, _ in compared] + [each for each in timed for _ in range(1 + ROUNDS)]
    results = run_in_own_process("saved_model", path, calls, with_text_ops=source.tokenizer is not None)
    errors: dict[str, float] = {}
    for (name, _, group), result in zip(compared, results, strict=False):
        expected = [samples[id(each)] for each in group]
        outputs = [_padded(row[np.newaxis], sample) for row, sample in zip(result["output"], expected, strict=True)]
        errors[name] = max(errors.get(name, 0.0), max_error(expected, outputs))
    taken = [float(result["milliseconds"]) for result in results[len(compared) :]]
    rounds = np.reshape(taken, (-1, 1 + ROUNDS))[:, 1:]  # The first round prepares the graph.
    medians = {n: round(float(np.median(row)), 2) for n, row in zip(lengths, rounds, strict=True)}
    return errors, medians if measure else None


def _compared_calls(source: Source) -> list[tuple[str, dict, list[Document]]]:
    """Make the calls to compare: signature, inputs, and the documents in them."""
    # One length holds every text given: those are compared as text too.
    longest = max((len(ids) for ids in source.tokenizer.encode(source.texts)), default=0) if source.texts else 0
    calls = []
    for length in [source.length] if source.length else [129, max(512, longest)]:
        documents = make_documents(source, length)
        inputs = {name: np.concatenate([each.inputs[name] for each in documents]) for name in documents[0].inputs}
        for name in ["token_ids"] if source.tokenizer else ["token_ids", "serving_default"]:
            calls.append((name, inputs, documents))
        # Text is padded to the longest of the batch, which the documents are not: one text a call, all in the last.
        fitting = [each for each in documents if each.text is not None and each.token_count <= length]
        for batch in [[each] for each in fitting] + [fitting] * (len(fitting) > 1):
            calls.append(("serving_default", {"text": [each.text for each in batch]}, batch))
    return calls


def _padded(output: np.ndarray, sample: Sample) -> np.ndarray:
    """Pad the length axis of an output `(1, ...)`, if it has one, to the sample's: what follows is padding."""
    if sample.valid is None or output.shape == sample.output.shape:
        return output
    padded = np.zeros_like(sample.output)
    padded[:, : output.shape[1]] = output
    return padded
