"""Export an encoder and decoder to LiteRT: one file that reads a source at once and writes its target by token."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checks import check_at_least
from ..files import companion, staged
from ..models import EncoderDecoder
from .checks import check_backend, check_lengths, check_tokenizer
from .compare import check_errors
from .convert import working_folder
from .delegates import outside_xnnpack
from .generator import GENERATOR_COMPANIONS, as_float32, check_options, logits_error, make_file
from .generator_report import GeneratorCosts, TranslatorReport, write_generator_report
from .inspection import inspect
from .process import run_writer
from .translator_trace import decode_name, encode_name, translator_functions
from .vocabulary import vocabulary_files

if TYPE_CHECKING:
    from ..text import Tokenizer

# Tokens of the longest target that the file and the model are compared on, and of the others.
COMPARED, SHORT = 1000, 40


# Long: one call describes the whole file.
def export_translator(
    model: EncoderDecoder,
    path: str | os.PathLike,
    lengths: Sequence[int] = (64, 512),
    quantization: str | None = None,
    tokenizer: "Tokenizer | None" = None,
    *,
    num_beams: int = 5,
    tolerance: float | None = None,
    measure: bool = True,
    overwrite: bool = False,
) -> TranslatorReport:
    """Export a model of translation to one .tflite file, and compare it, in its own process, with the Keras model.

    Signatures, on the same weights, each for one source. All hold builtin ops alone:
    - `encode_n`, for each n of `lengths`: int32 `source_ids` and `source_mask` `(1, n)` to `cross_0` and so on, all
      that the decoder's layers need of the source: `(1, heads, m, d + 1)` numbers each, whatever n is.
    - `decode`: int32 `tokens` `(1, 1)`, these and the state to `logits`, float32 `(1, 1, vocabulary_size)`, and the
      state after the token. A state of zeros has read nothing; the first token is the tokenizer's start.
    - `decode_k`, k being `num_beams`: the same for k targets of the source, as a beam search reads them.

    The state is a few arrays, `kv_cache_k_0` and so on, of a size that does not grow.

    `LiteRTTranslator` translates with it.

    Args:
        model: An `EncoderDecoder`, linear in the decoder's attentions. One in half precision is exported, and compared,
            as `krpe_tf.models.in_float32` returns it.
        path: The file to make. It appears only when everything is checked.
        lengths: Of sources, distinct: a source is read by the shortest that holds it, and padded.
        quantization: None for float32; "float16" or "int8" for the weights of dense layers and of the embedding. The
            attention between its projections stays float32.
        tokenizer: What makes the ids of both sides: its files are written beside, for `LiteRTTranslator`.
        num_beams: How many targets `decode_k` reads; a search of another width runs too, at more calls or idle rows.
        tolerance, measure, overwrite: As for `export_generator`.

    Returns:
        A `TranslatorReport`. It is written beside the file too: `model.report.json` and the page `model.report.md` for
        `model.tflite`.

    Raises:
        ValueError: For wrong arguments, a model whose memory grows with what it decodes (the exact kernel, or a bias
            without tails, in the decoder) or that counts positions (`absolute_positions`), an op that is not builtin,
            an existing or unwritable `path`, or an error above the tolerance.
        RuntimeError: If the file does not run in the other process.
    """
    plan = _check(model, lengths, quantization, tokenizer, num_beams, tolerance, measure)
    written = ("report.json", "report.md", *plan.vocabulary)
    beside = (each for each in GENERATOR_COMPANIONS if each in written or companion(path, "report.json").exists())
    with staged(path, overwrite, beside) as target:
        functions = translator_functions(plan.model, plan.lengths, plan.rows)
        content = make_file(functions, working_folder(target), plan.quantization, plan.model)
        target.write_bytes(content)
        for suffix, each in plan.vocabulary.items():
            companion(target, suffix).write_bytes(each)
        report = _verify(plan, target, content, os.path.abspath(path))
        write_generator_report(report, target)
    return report


@dataclass(frozen=True)
class _Plan:
    """The checked arguments of `export_translator`; see `_Plan` of generator.py. `rows`: 1, and `num_beams`."""

    model: EncoderDecoder
    model_dtypes: list[str]
    lengths: list[int]
    rows: list[int]
    vocabulary: dict[str, bytes]
    quantization: str | None
    tolerance: float
    measure: bool


def _check(model, lengths, quantization, tokenizer, num_beams, tolerance, measure) -> _Plan:
    check_backend()
    _check_decoder(model)
    if model.length is not None:
        raise ValueError(f"`model` must write any length. Received: an EncoderDecoder with length={model.length}")
    lengths = check_lengths(lengths, model.source_length, any_length=False)
    if tokenizer is not None:
        if model.source_vocabulary_size is not None:
            raise ValueError(
                "`tokenizer` must be None for a model with two vocabularies. "
                f"Received: source_vocabulary_size={model.source_vocabulary_size}"
            )
        check_tokenizer(tokenizer, model, reversible=True)
    check_at_least(1, num_beams=num_beams)
    tolerance = check_options(quantization, tolerance, measure)
    exported, dtypes = as_float32(model)
    rows = sorted({1, int(num_beams)})
    return _Plan(exported, dtypes, lengths, rows, vocabulary_files(tokenizer), quantization, tolerance, measure)


def _check_decoder(model: EncoderDecoder) -> None:
    """Raise a ValueError, which says why, for a model that cannot be exported as a translator."""
    if not isinstance(model, EncoderDecoder):
        raise ValueError(f"`model` must be an EncoderDecoder. Received: model={model!r}")
    maps = {name: getattr(model, name) for name in ("decoder_feature_map", "cross_feature_map")}
    if "softmax" in maps.values() or not model.can_decode or model.absolute_positions is not None:
        biases = model.position_biases[model.num_encoder_layers :]
        raise ValueError(
            "`model` must decode in memory that depends on no length: linear attention in its decoder, over itself and "
            'over the source (the encoder\'s own may be "softmax"), a bias with tails and no `absolute_positions`. '
            f"Received: {', '.join(f'{name}={value!r}' for name, value in maps.items())}, "
            f"absolute_positions={model.absolute_positions}, decoder_position_bias={biases[0]!r}"
        )


def make_readings(lengths: Sequence[int], rows: Sequence[int], sizes: dict[str, int]) -> dict[str, dict]:
    """Make what the file is compared on: sources, whole ones and padded ones, and their targets.

    Args:
        lengths, rows: Of the signatures.
        sizes: Numbers of ids, `EncoderDecoder.vocabulary_sizes`.

    Returns:
        By name: `source` and `decode`, signatures; `source_ids` and `source_mask`, `(1, n)`; `targets`, `(rows, k)`.
    """
    random, found, shortest = np.random.default_rng(0), {}, min(lengths)
    cases = {f"{COMPARED} tokens": (shortest, shortest, 1, COMPARED)}
    for n in lengths:
        cases |= {f"{encode_name(n)} of {count}": (n, count, 1, SHORT) for count in (n, max(1, n // 2))}
    cases |= {decode_name(r): (shortest, shortest, r, SHORT) for r in rows if r > 1}
    for name, (n, count, r, tokens) in cases.items():
        mask = (np.arange(n) < count).astype(int)
        found[name] = {
            "source": encode_name(n),
            "decode": decode_name(r),
            "source_ids": [(random.integers(0, sizes["source_ids"], n) * mask).tolist()],
            "source_mask": [mask.tolist()],
            "targets": random.integers(0, sizes["token_ids"], (r, tokens)).tolist(),
        }
    return found


def _verify(plan: _Plan, file: Path, content: bytes, path: str) -> TranslatorReport:
    model = plan.model
    readings = make_readings(plan.lengths, plan.rows, model.vocabulary_sizes)
    logits, costs = run_writer(file, readings, plan.measure)
    errors = {name: logits_error(logits[name], _expected(model, reading)) for name, reading in readings.items()}
    check_errors(errors, plan.tolerance)
    contents = inspect(content)
    sizes = {each.name: 4 * int(np.prod(each.shape(batch=1))) for each in model.interface.state}
    kept = sum(size for name, size in sizes.items() if "_cross_" in name)
    return TranslatorReport(
        path=path,
        bytes=len(content),
        weight_bytes=contents.weight_bytes,
        state_bytes=sum(sizes.values()) - kept,
        vocabulary_size=model.vocabulary_size,
        model_dtypes=plan.model_dtypes,
        quantization=plan.quantization,
        signature_ops=contents.signature_ops,
        ops=contents.ops,
        outside_xnnpack=outside_xnnpack(content, contents.signature_ops),
        highest_rank=contents.highest_rank,
        max_error=errors,
        tolerance=plan.tolerance,
        costs=None if costs is None else GeneratorCosts(**costs),
        lengths=plan.lengths,
        rows=plan.rows,
        source_bytes=kept,
    )


def _expected(model: EncoderDecoder, reading: dict) -> np.ndarray:
    """Return the logits of the model's parallel form, for all targets of a source."""
    targets = np.array(reading["targets"], "int32")
    source = {
        name: np.repeat(np.array(reading[name], "int32"), len(targets), 0) for name in reading if "source_" in name
    }
    inputs = {**source, "token_ids": targets, "padding_mask": np.ones_like(targets)}
    return np.asarray(model(inputs, training=False))
