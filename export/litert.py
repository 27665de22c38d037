"""Export to LiteRT: one .tflite file, a signature per length."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import companion, staged
from ..toeplitz import override
from .compression import certificates_by_name, check_bound, compress_biases
from .inspection import check_contents, drop_names, inspect
from .measuring import Measurement, check_gpu, measure_signatures, outside_xnnpack
from .parity import (
    SAMPLE_TEXTS,
    Sample,
    check_arguments,
    check_errors,
    make_samples,
    relative_errors,
    run_in_own_process,
)
from .quantization import check_quantization, quantize
from .report import LiteRTReport, write_report
from .signatures import all_layers, check_any_length, litert_functions, save_functions, signature_name
from .vocabulary import vocabulary_files

if TYPE_CHECKING:
    import keras

    from ..text import Tokenizer

# All that may lie beside a file: none of an earlier export stays.
COMPANIONS = ("report.json", "report.md", "vocab.txt", "spiece.model", "tokenizer_config.json")
# The longest that is measured on the dense route, whose time is quadratic.
LONGEST_DENSE = 4096
TOLERANCES = {None: 1e-4, "float16": 5e-3, "int8": 1e-1, "int8_static": 2e-1}


def export_tflite(
    model: "keras.Model",
    path: str | os.PathLike,
    lengths: Sequence[int | None] = (512,),
    quantization: str | None = None,
    tokenizer: "Tokenizer | None" = None,
    *,
    sample_texts: Iterable[str] | None = None,
    bias_tolerance: float | None = None,
    tolerance: float | None = None,
    measure: bool = True,
    overwrite: bool = False,
) -> LiteRTReport:
    """Export a model to one .tflite file, and compare each signature, in a process of its own, with the Keras model.

    Signatures, for each length n, all on the same weights, each for one document:
    - `ids_n`: int32 `token_ids` and `padding_mask` `(1, n)` to float32 `output`. Builtin ops only.
    - with a tokenizer `text_n`: string `text` `(1,)` to `output` and int32 `token_count` `(1,)`. The text is cut to n
      tokens: a caller must refuse the output where `token_count` is above n. Needs tensorflow-text's custom ops.
    - with a tokenizer `tokenize`: `text` `(1,)` to int32 `token_ids` `(1, count)`, not cut.

    None among the lengths makes `ids_any` and `text_any`, for any n: nothing is cut, nothing need be padded. Runtimes
    give memory to each new length when it comes, and delegates for phone GPUs and NPUs take fixed shapes only.

    `LiteRTModel` calls them.

    Args:
        model: A functional model from int `token_ids` and `padding_mask` `(batch, n)` to one float tensor. Attention on
            route "fft" is exported by forward transforms of powers of two, which LiteRT has; measured on two cores,
            it is slower than "dense" up to 4096 positions and faster from 8192 on.
        path: The file to make. It appears only when everything is checked.
        lengths: Sequence lengths, distinct; None for a signature that takes any. A model built for one length takes
            that one only.
        quantization: None for float32. Otherwise for dense layers and embeddings, while the attention between its
            projections stays float32: "float16" weights; "int8" weights, with arithmetic whose range is found at every
            call (dynamic range); "int8_static", with ranges fixed by calibration on the sample texts.
        tokenizer: Put into the file, to take text.
        sample_texts: Texts to compare on; by default built-in ones. Needs a tokenizer.
        bias_tolerance: Replace every position bias over one axis by a near band and few exponentials, and compute with
            them in linear time, whatever the model's route: see `compress_bias`, whose tolerance this is, for the
            longest of `lengths`. Above all for a model trained with a full table, `LearnedBias(max_distance=n - 1)`.
        tolerance: The largest error accepted: max |difference| over max |output| at valid positions; by default 1e-4,
            5e-3 for float16, 1e-1 for int8, 2e-1 for int8_static. The comparison is with the model as it was given, so
            `bias_tolerance` is added; no certificate bounds this error, as the layers behind an attention may enlarge
            what it bounds.
        measure: Run every signature that takes ids in fresh processes with 1 and 2 threads, for the report's
            milliseconds and memory: seconds for each length.
        overwrite: Replace a file that lies at `path`, and what lies beside it.

    Returns:
        A `LiteRTReport`. It is written beside the file too: `model.report.json` and the page `model.report.md` for
        `model.tflite`. A tokenizer adds `model.vocab.txt`, one token a line (SentencePiece: `model.spiece.model`),
        and `model.tokenizer_config.json`, its settings, for runtimes without the tokenizer's ops.

    Raises:
        ValueError: For wrong arguments, an existing or unwritable `path`, a model that needs ops that are not builtin,
            or an error above the tolerance.
        RuntimeError: If the file does not run in its own process.
    """
    check_quantization(quantization)
    if bias_tolerance is not None:
        check_bound(bias_tolerance=bias_tolerance)
        bias_tolerance = float(bias_tolerance)
    conversion_tolerance = TOLERANCES[quantization] if tolerance is None else tolerance
    tolerance = conversion_tolerance + (bias_tolerance or 0) if tolerance is None else tolerance
    only_length, texts = check_arguments(model, tokenizer, sample_texts, tolerance)
    lengths = check_lengths(lengths, only_length)
    if None in lengths:
        check_any_length(model)
    half = sorted({layer.compute_dtype for layer in all_layers(model)} - {"float32"})
    if half:
        raise ValueError(
            "`model` must compute in float32, LiteRT has no other builtin ops: build it with dtype='float32' and load "
            f"the weights. Received: a model that computes in {', '.join(half)}"
        )
    if not isinstance(measure, bool):
        raise ValueError(f"`measure` must be True or False. Received: measure={measure!r}")
    vocabulary = vocabulary_files(tokenizer)
    # A generator: `path` is checked before it gives names. Where no export left its report, nothing else is its own.
    written = ("report.json", "report.md", *vocabulary)
    beside = (each for each in COMPANIONS if each in written or companion(path, "report.json").exists())
    with staged(path, overwrite, beside) as target:
        for suffix, each in vocabulary.items():
            companion(target, suffix).write_bytes(each)
        compressed = compress_biases(model, lengths, bias_tolerance)
        replacements = {bias: new for bias, (new, _) in compressed.items()}
        with override(forward_transforms=True, replaced_biases=replacements):
            functions = litert_functions(model, lengths, tokenizer)
        # What a killed export leaves here goes with the next one.
        working_folder = target.parent.parent
        content = _convert(functions, working_folder)
        if quantization is not None:
            length = _calibration_length(lengths)
            samples = make_samples(model, length, tokenizer, texts) if quantization == "int8_static" else []
            content = quantize(content, quantization, model, signature_name("ids", length), samples)
        content = drop_names(content)
        contents = inspect(content)
        check_contents(contents, with_text=tokenizer is not None)
        target.write_bytes(content)
        if tokenizer is not None:
            _check_tokens(target, tokenizer, texts or [*SAMPLE_TEXTS, " ".join(SAMPLE_TEXTS * 30)])
        max_error, mean_error = _errors(target, model, lengths, tokenizer, texts)
        check_errors(max_error, tolerance)
        if replacements:
            # Beside the same biases in Keras: what `bias_tolerance` allows must hide no fault of the conversion.
            with override(replaced_biases=replacements):
                check_errors(_errors(target, model, lengths, tokenizer, texts)[0], conversion_tolerance)
        fixed = [length for length in lengths if length is not None]
        # A signature for any length costs what its inputs ask: it runs at the longest of the others.
        runs = {signature_name("ids", length): length or max(fixed, default=512) for length in lengths}
        report = LiteRTReport(
            path=os.path.abspath(path),
            bytes=len(content),
            lengths=lengths,
            quantization=quantization,
            signatures=list(functions),
            outside_xnnpack=outside_xnnpack(content, runs),
            gpu=check_gpu(content, signature_name("ids", min(fixed))) if fixed else None,
            max_error=max_error,
            mean_error=mean_error,
            tolerance=tolerance,
            certificates=certificates_by_name(compressed) if compressed else None,
            measurements=measure_signatures(target, runs) if measure else None,
            dense_measurements=_measure_dense(model, fixed, working_folder)
            if measure and "RFFT2D" in contents.ops
            else None,
            **asdict(contents),
        )
        write_report(report, target)
    return report


def check_lengths(lengths: Sequence[int | None], only_length: int | None) -> list[int | None]:
    """The lengths as a list, or a ValueError; `only_length`: the one that the model takes, None for any."""
    values = list(lengths) if isinstance(lengths, Iterable) and not isinstance(lengths, (str, bytes)) else []
    fixed = [n for n in values if n is not None]
    wrong = [n for n in fixed if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1]
    if not values or wrong or len(set(values)) < len(values):
        raise ValueError(
            f"`lengths` must hold distinct integers of 1 or more, or None for any length. Received: lengths={lengths!r}"
        )
    if only_length is not None and values != [only_length]:
        raise ValueError(
            f"`lengths` must be ({only_length},), the one length that the model takes. Received: lengths={lengths!r}"
        )
    return [None if n is None else int(n) for n in values]


def _calibration_length(lengths: Sequence[int | None]) -> int | None:
    """The shortest length of 512 or more, else the longest: activations of longer documents range no further."""
    fixed = sorted(n for n in lengths if n is not None)
    return next((n for n in fixed if n >= 512), fixed[-1] if fixed else None)


def _convert(functions: dict[str, Any], working_folder: os.PathLike) -> bytes:
    import tensorflow as tf

    with tempfile.TemporaryDirectory(dir=working_folder) as folder:
        save_functions(functions, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        # Every op without a builtin becomes a custom op of its name; `check_contents` then says which are wrong.
        converter.allow_custom_ops = True
        return converter.convert()


def _check_tokens(path: os.PathLike, tokenizer: "Tokenizer", texts: list[str]) -> None:
    calls = [("tokenize", {"text": [text]}) for text in texts]
    results = run_in_own_process("litert", path, calls, with_text_ops=True)
    for text, result in zip(texts, results, strict=True):
        expected = tokenizer([text])["token_ids"]
        if not np.array_equal(result["token_ids"], expected):
            raise ValueError(
                f"`tokenizer` must give the same ids in the file. Received: {text[:80]!r}, ids {expected.tolist()}, in "
                f"the file {result['token_ids'].tolist()}"
            )


def _measure_dense(
    model: "keras.Model", lengths: Sequence[int], working_folder: os.PathLike
) -> list[Measurement] | None:
    """What the same model costs on the dense route, in float32; None where every length would take it too long."""
    lengths = [length for length in lengths if length <= LONGEST_DENSE]
    if not lengths:
        return None
    with tempfile.TemporaryDirectory(dir=working_folder) as folder:
        path = os.path.join(folder, "dense.tflite")
        with open(path, "wb") as file, override(route="dense"):
            file.write(drop_names(_convert(litert_functions(model, lengths, tokenizer=None), folder)))
        return measure_signatures(path, {signature_name("ids", length): length for length in lengths})


def _errors(
    path: os.PathLike,
    model: "keras.Model",
    lengths: Sequence[int | None],
    tokenizer: "Tokenizer | None",
    texts: list[str] | None,
) -> tuple[dict[str, float], dict[str, float]]:
    """The largest error of every signature, and the mean ones; the processes run beside Keras."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = {}
        for length in lengths:
            samples = make_samples(model, length, tokenizer, texts)
            ids = [{"token_ids": s.token_ids.tolist(), "padding_mask": s.padding_mask.tolist()} for s in samples]
            name = signature_name("ids", length)
            futures[name] = pool.submit(_error, path, name, samples, ids)
            with_text = [s for s in samples if s.text is not None]
            if with_text:
                name = signature_name("text", length)
                futures[name] = pool.submit(_error, path, name, with_text, [{"text": [s.text]} for s in with_text])
        errors = {name: future.result() for name, future in futures.items()}
    return {name: each[0] for name, each in errors.items()}, {name: each[1] for name, each in errors.items()}


def _error(path: os.PathLike, name: str, samples: list[Sample], inputs: list[dict]) -> tuple[float, float]:
    with_text_ops = name.startswith("text")
    results = run_in_own_process("litert", path, [(name, each) for each in inputs], with_text_ops)
    for sample, result in zip(samples, results, strict=True):
        if "token_count" in result and result["token_count"].tolist() != [sample.token_count]:
            return float("inf"), float("inf")
    return relative_errors(samples, [result["output"] for result in results])
