"""Export a causal language model to LiteRT: one file that reads a prompt in pieces and writes token by token."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import companion, staged
from ..models import CausalLM, compute_dtypes, in_float32
from .checks import check_backend, check_lengths, check_tokenizer
from .compare import check_errors
from .convert import convert, working_folder
from .delegates import outside_xnnpack
from .generator_report import GeneratorCosts, GeneratorReport, write_generator_report
from .generator_trace import generator_functions, prefill_name
from .inspection import check_contents, drop_names, inspect
from .process import run_writer
from .quantization import check_quantization, quantize
from .vocabulary import vocabulary_files

if TYPE_CHECKING:
    import keras

    from ..text import Tokenizer

logger = logging.getLogger(__name__)

# All that may lie beside a file: none of an earlier export stays.
GENERATOR_COMPANIONS = ("report.json", "report.md", "spiece.model", "tokenizer_config.json")
TOLERANCES = {None: 1e-4, "float16": 5e-3, "int8": 1e-1}
# Tokens of the longest text that the file and the model are compared on.
COMPARED = 1000


# Long: one call describes the whole file.
def export_generator(
    model: CausalLM,
    path: str | os.PathLike,
    prefill: Sequence[int] = (64,),
    tokenizer: "Tokenizer | None" = None,
    quantization: str | None = None,
    *,
    tolerance: float | None = None,
    measure: bool = True,
    overwrite: bool = False,
) -> GeneratorReport:
    """Export a language model to one .tflite file, and compare it, in a process of its own, with the Keras model.

    Signatures, on the same weights, each for one text. All hold builtin ops alone:
    - `prefill_n`, for each n of `prefill`: int32 `tokens` `(1, n)` and `input_pos` `(n,)`, and the state, to the state
      after them. What follows the last token is token 0 at position 0.
    - `decode`: `tokens` `(1, 1)`, `input_pos` `(1,)` and the state to `logits`, float32 `(1, 1, vocabulary_size)`, and
      the state.

    The state is a few arrays, `kv_cache_k_0` and so on, of a size that does not grow; what it holds where a text
    starts, at position 0, is ignored, as long as it is finite. No text starts with token 0.

    `LiteRTGenerator` writes text with it; `export_litertlm` packs it for LiteRT-LM.

    Args:
        model: A `CausalLM`. One in half precision is exported, and compared, as `krpe_tf.models.in_float32` returns it.
        path: The file to make. It appears only when everything is checked.
        prefill: Lengths of the pieces in which a prompt is read, distinct; 64 is a good one on phones.
        tokenizer: What makes its token ids: its files are written beside, for runtimes in other languages.
        quantization: None for float32; "float16" or "int8" for the weights of dense layers and of the embedding. The
            attention between its projections stays float32.
        tolerance: The largest error accepted, |difference| over max |logits|; by default 1e-4, 5e-3 for float16 and
            1e-1 for int8.
        measure: Time the file in that process, for the report.
        overwrite: Replace a file that lies at `path`, and what lies beside it.

    Returns:
        A `GeneratorReport`. It is written beside the file too: `model.report.json` and the page `model.report.md` for
        `model.tflite`.

    Raises:
        ValueError: For wrong arguments, a model that cannot decode, an existing or unwritable `path`, or an error above
            the tolerance.
        RuntimeError: If the file does not run in the other process.
    """
    plan = _check(model, prefill, tokenizer, quantization, tolerance, measure)
    written = ("report.json", "report.md", *plan.vocabulary)
    beside = (each for each in GENERATOR_COMPANIONS if each in written or companion(path, "report.json").exists())
    with staged(path, overwrite, beside) as target:
        functions = generator_functions(plan.model, plan.prefill)
        content = make_file(functions, working_folder(target), plan.quantization, plan.model)
        target.write_bytes(content)
        for suffix, each in plan.vocabulary.items():
            companion(target, suffix).write_bytes(each)
        report = _verify(plan, target, content, os.path.abspath(path))
        write_generator_report(report, target)
    return report


@dataclass(frozen=True)
class _Plan:
    """The checked arguments of `export_generator`.

    Attributes: `model`, in float32; `model_dtypes`, what the layers of the one that was given compute in; `vocabulary`,
    the files of the tokenizer by their suffix; and the arguments.
    """

    model: CausalLM
    model_dtypes: list[str]
    prefill: list[int]
    vocabulary: dict[str, bytes]
    quantization: str | None
    tolerance: float
    measure: bool


def _check(model, prefill, tokenizer, quantization, tolerance, measure) -> _Plan:
    check_backend()
    if not isinstance(model, CausalLM):
        raise ValueError(f"`model` must be a CausalLM. Received: model={model!r}")
    model.initial_state(1)  # Says why a model cannot decode.
    if model.encoder.length is not None:
        raise ValueError(f"`model` must take any length. Received: an Encoder with length={model.encoder.length}")
    prefill = check_lengths(prefill, None, "prefill", any_length=False)
    if tokenizer is not None:
        check_tokenizer(tokenizer, model, reversible=True)
    tolerance = check_options(quantization, tolerance, measure)
    exported, dtypes = as_float32(model)
    return _Plan(exported, dtypes, prefill, vocabulary_files(tokenizer), quantization, tolerance, measure)


def check_options(quantization: str | None, tolerance: float | None, measure: bool) -> float:
    """Check what all exports of models that write have in common; return the tolerance.

    Raises:
        ValueError: For what is out of range.
    """
    check_quantization(quantization)
    if quantization not in TOLERANCES:
        raise ValueError(
            "`quantization` of a language model must be None, 'float16' or 'int8': ranges that are measured ahead do "
            f"not hold for a state that goes on. Received: quantization={quantization!r}"
        )
    tolerance = TOLERANCES[quantization] if tolerance is None else tolerance
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not tolerance > 0:
        raise ValueError(f"`tolerance` must be a number above 0. Received: tolerance={tolerance!r}")
    if not isinstance(measure, bool):
        raise ValueError(f"`measure` must be True or False. Received: measure={measure!r}")
    return tolerance


def as_float32(model: "keras.Model") -> "tuple[keras.Model, list[str]]":
    """Return a model as it is exported, and what the layers of the one that is given compute in."""
    dtypes, exported = compute_dtypes(model), in_float32(model)
    if exported is not model:
        logger.info("the model computes in %s; the file gets its weights and computes in float32", ", ".join(dtypes))
    return exported, dtypes


def make_file(functions: dict, folder: Path, quantization: str | None, model: "keras.Model") -> bytes:
    """Convert the signatures of a model that writes, and check that any LiteRT runs the file; return its bytes."""
    content = convert(functions, folder)
    if quantization is not None:
        content = quantize(content, quantization, model, "decode", [])
    content = drop_names(content)
    check_contents(inspect(content), with_text=False)
    return content


def logits_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over the largest logit; infinity where the file's are none."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def make_readings(prefill: Sequence[int], vocabulary_size: int) -> dict[str, dict]:
    """Make what the file is compared on: texts, and how they are read.

    Returns:
        By name: `text`, ids; `pieces`, how many tokens each prefill reads, by signature; `begin`, what the state holds
        at first: "zeros", "garbage", or "before", what the last reading left; `nothing`, whether token 0 at position 0
        is decoded behind the pieces, which must change nothing. What the pieces leave is decoded.
    """
    random = np.random.default_rng(0)

    def text(length):
        return random.integers(1, vocabulary_size, length).tolist()

    readings = {"decode": {"text": text(40), "pieces": [], "begin": "garbage", "nothing": True}}
    for n in prefill:
        name, part = prefill_name(n), max(1, n // 2)
        pieces = [[name, count] for count in (n, n, part)]
        readings[name] = {"text": text(2 * n + part + 40), "pieces": pieces, "nothing": True, "begin": "before"}
    readings[f"{COMPARED} tokens"] = {"text": text(COMPARED), "pieces": [], "begin": "before", "nothing": False}
    return readings


def _verify(plan: _Plan, file: Path, content: bytes, path: str) -> GeneratorReport:
    readings = make_readings(plan.prefill, plan.model.encoder.vocabulary_size)
    logits, costs = run_writer(file, readings, plan.measure)
    errors = {}
    for name, reading in readings.items():
        ids = np.array([reading["text"]], "int32")
        expected = np.asarray(plan.model({"token_ids": ids, "padding_mask": np.ones_like(ids)}, training=False))
        errors[name] = logits_error(logits[name], expected[:, sum(count for _, count in reading["pieces"]) :])
    check_errors(errors, plan.tolerance)
    contents = inspect(content)
    return GeneratorReport(
        path=path,
        bytes=len(content),
        weight_bytes=contents.weight_bytes,
        state_bytes=sum(4 * int(np.prod(x.shape)) for x in plan.model.initial_state(1).values()),
        vocabulary_size=plan.model.encoder.vocabulary_size,
        prefill=plan.prefill,
        model_dtypes=plan.model_dtypes,
        quantization=plan.quantization,
        signature_ops=contents.signature_ops,
        ops=contents.ops,
        outside_xnnpack=outside_xnnpack(content, ["decode", *map(prefill_name, plan.prefill)]),
        highest_rank=contents.highest_rank,
        max_error=errors,
        tolerance=plan.tolerance,
        costs=None if costs is None else GeneratorCosts(**costs),
    )
