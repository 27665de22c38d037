"""Export to LiteRT: one .tflite file, a signature per length."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..toeplitz import replaced_biases
from ..toeplitz.fft import forward_transforms
from ._files import staged
from .compression import Certificate, certificates_by_name, check_bound, compress_biases
from .inspection import check_contents, drop_names, inspect
from .parity import (
    SAMPLE_TEXTS,
    Sample,
    check_arguments,
    check_errors,
    make_samples,
    max_error,
    run_in_own_process,
)
from .signatures import all_layers, litert_functions, save_functions

if TYPE_CHECKING:
    import keras

    from ..text import WordPieceTokenizer

TOLERANCES = {None: 1e-4, "float16": 5e-3, "int8": 1e-1}


@dataclass(frozen=True)
class LiteRTReport:
    """What `export_tflite` wrote and how it was checked; `dataclasses.asdict` makes it JSON.

    Attributes: `path`; `bytes` of the file; `lengths`; `quantization`; `signatures`, the names; `ops` and `custom_ops`,
    by kind and count, all signatures together; `recomputed`, ops that give the same at every call, which the converter
    did not fold into constants; `highest_rank` of any tensor; `max_error` of each signature that calls the model,
    max |difference| over max |output|; `tolerance`; `certificates`, with `bias_tolerance`: for each bias that was
    replaced, by its name, how far that can bring the output of one attention, as `compress_bias` proves it.
    """

    path: str
    bytes: int
    lengths: list[int]
    quantization: str | None
    signatures: list[str]
    ops: dict[str, int]
    custom_ops: dict[str, int]
    recomputed: dict[str, int]
    highest_rank: int
    max_error: dict[str, float]
    tolerance: float
    certificates: dict[str, Certificate] | None = None


def export_tflite(
    model: "keras.Model",
    path: str | os.PathLike,
    lengths: Sequence[int] = (512,),
    quantization: str | None = None,
    tokenizer: "WordPieceTokenizer | None" = None,
    *,
    sample_texts: Iterable[str] | None = None,
    bias_tolerance: float | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> LiteRTReport:
    """Export a model to one .tflite file, and compare each signature, in a process of its own, with the Keras model.

    Signatures, for each length n, all on the same weights, each for one document:
    - `ids_n`: int32 `token_ids` and `padding_mask` `(1, n)` to float32 `output`. Builtin ops only.
    - with a tokenizer `text_n`: string `text` `(1,)` to `output` and int32 `token_count` `(1,)`. The text is cut to n
      tokens: a caller must refuse the output where `token_count` is above n. Needs tensorflow-text's custom ops.
    - with a tokenizer `tokenize`: `text` `(1,)` to int32 `token_ids` `(1, count)`, not cut.

    `LiteRTModel` calls them.

    Args:
        model: A functional model from int `token_ids` and `padding_mask` `(batch, n)` to one float tensor. Attention on
            route "fft" is exported by forward transforms of powers of two, which LiteRT has; measured on two cores,
            it is slower than "dense" up to 4096 positions and faster from 8192 on.
        path: The file to make. It appears only when everything is checked.
        lengths: Sequence lengths, distinct. A model built for one length takes that one only.
        quantization: None for float32; "float16" weights; "int8" weights (dynamic range), the rest float32.
        tokenizer: Put into the file, to take text.
        sample_texts: Texts to compare on; by default built-in ones. Needs a tokenizer.
        bias_tolerance: Replace every position bias over one axis by a near band and few exponentials, and compute with
            them in linear time, whatever the model's route: see `compress_bias`, whose tolerance this is, for the
            longest of `lengths`. Above all for a model trained with a full table, `LearnedBias(max_distance=n - 1)`.
        tolerance: The largest error accepted: max |difference| over max |output| at valid positions; by default 1e-4,
            5e-3 for float16, 1e-1 for int8. The comparison is with the model as it was given, so `bias_tolerance` is
            added; no certificate bounds this error, as the layers behind an attention may enlarge what it bounds.
        overwrite: Replace a file that lies at `path`.

    Returns:
        A `LiteRTReport`.

    Raises:
        ValueError: For wrong arguments, an existing or unwritable `path`, a model that needs ops that are not builtin,
            or an error above the tolerance.
        RuntimeError: If the file does not run in its own process.
    """
    if quantization not in TOLERANCES:
        raise ValueError(f"`quantization` must be None, 'float16' or 'int8'. Received: quantization={quantization!r}")
    if bias_tolerance is not None:
        check_bound(bias_tolerance=bias_tolerance)
    tolerance = TOLERANCES[quantization] + (bias_tolerance or 0) if tolerance is None else tolerance
    only_length, texts = check_arguments(model, tokenizer, sample_texts, tolerance)
    lengths = check_lengths(lengths, only_length)
    half = sorted({layer.compute_dtype for layer in all_layers(model)} - {"float32"})
    if half:
        raise ValueError(
            "`model` must compute in float32, LiteRT has no other builtin ops: build it with dtype='float32' and load "
            f"the weights. Received: a model that computes in {', '.join(half)}"
        )
    with staged(path, overwrite) as target:
        compressed = compress_biases(model, lengths, bias_tolerance)
        with forward_transforms(), replaced_biases({bias: new for bias, (new, _) in compressed.items()}):
            functions = litert_functions(model, lengths, tokenizer)
        content = drop_names(_convert(functions, quantization))
        contents = inspect(content)
        check_contents(contents, with_text=tokenizer is not None)
        target.write_bytes(content)
        if tokenizer is not None:
            _check_tokens(target, tokenizer, texts or [*SAMPLE_TEXTS, " ".join(SAMPLE_TEXTS * 30)])
        errors = _errors(target, (make_samples(model, length, tokenizer, texts) for length in lengths))
        check_errors(errors, tolerance)
    return LiteRTReport(
        path=os.path.abspath(path),
        bytes=len(content),
        lengths=lengths,
        quantization=quantization,
        signatures=list(functions),
        max_error=errors,
        tolerance=tolerance,
        certificates=certificates_by_name(compressed) if compressed else None,
        **asdict(contents),
    )


def check_lengths(lengths: Sequence[int], only_length: int | None) -> list[int]:
    """The lengths as a list, or a ValueError; `only_length`: the one that the model takes, None for any."""
    values = list(lengths) if isinstance(lengths, Iterable) and not isinstance(lengths, (str, bytes)) else []
    wrong = [n for n in values if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1]
    if not values or wrong or len(set(values)) < len(values):
        raise ValueError(f"`lengths` must hold distinct integers of 1 or more. Received: lengths={lengths!r}")
    if only_length is not None and values != [only_length]:
        raise ValueError(
            f"`lengths` must be ({only_length},), the one length that the model takes. Received: lengths={lengths!r}"
        )
    return [int(n) for n in values]


def _convert(functions: dict[str, Any], quantization: str | None) -> bytes:
    import tensorflow as tf

    with tempfile.TemporaryDirectory(prefix="krpe_tf_export_") as folder:
        save_functions(functions, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        # Every op without a builtin becomes a custom op of its name; `check_contents` then says which are wrong.
        converter.allow_custom_ops = True
        if quantization is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantization == "float16":
            converter.target_spec.supported_types = [tf.float16]
        return converter.convert()


def _check_tokens(path: os.PathLike, tokenizer: "WordPieceTokenizer", texts: list[str]) -> None:
    calls = [("tokenize", {"text": [text]}) for text in texts]
    results = run_in_own_process("litert", path, calls, with_text_ops=True)
    for text, result in zip(texts, results, strict=True):
        expected = tokenizer([text])["token_ids"]
        if not np.array_equal(result["token_ids"], expected):
            raise ValueError(
                f"`tokenizer` must give the same ids in the file. Received: {text[:80]!r}, ids {expected.tolist()}, in "
                f"the file {result['token_ids'].tolist()}"
            )


def _errors(path: os.PathLike, groups: Iterable[list[Sample]]) -> dict[str, float]:
    """The error of every signature, from the samples of each length; the processes run beside the model."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = {}
        for samples in groups:
            length = samples[0].token_ids.shape[1]
            ids = [{"token_ids": s.token_ids.tolist(), "padding_mask": s.padding_mask.tolist()} for s in samples]
            futures[f"ids_{length}"] = pool.submit(_error, path, f"ids_{length}", samples, ids)
            if samples[0].text is not None:
                text = [{"text": [s.text]} for s in samples]
                futures[f"text_{length}"] = pool.submit(_error, path, f"text_{length}", samples, text)
        return {name: future.result() for name, future in futures.items()}


def _error(path: os.PathLike, name: str, samples: list[Sample], inputs: list[dict]) -> float:
    with_text_ops = name.startswith("text")
    results = run_in_own_process("litert", path, [(name, each) for each in inputs], with_text_ops)
    for sample, result in zip(samples, results, strict=True):
        if "token_count" in result and result["token_count"].tolist() != [sample.token_count]:
            return float("inf")
    return max_error(samples, [result["output"] for result in results])
