"""Export to LiteRT: one .tflite file, a signature per length."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import companion, staged
from ..toeplitz import override
from .checks import Source, check_any_length, check_lengths, check_places, check_source
from .compare import check_errors, relative_errors
from .compression import certificates_by_name, check_bound, compress_biases
from .convert import convert, working_folder
from .delegates import check_gpu, outside_xnnpack
from .inspection import Contents, check_contents, drop_names, inspect
from .measuring import Measurement, measure_signatures
from .process import run_in_own_process
from .quantization import check_quantization, quantize
from .report import LiteRTReport, write_report
from .samples import SAMPLE_TEXTS, Document, Sample, make_documents, run_model
from .trace import litert_functions, signature_name
from .vocabulary import vocabulary_files

if TYPE_CHECKING:
    import keras

    from ..text import Tokenizer

# All that may lie beside a file: none of an earlier export stays.
COMPANIONS = ("report.json", "report.md", "vocab.txt", "spiece.model", "tokenizer_config.json")
# The longest that is measured on the dense route, whose time is quadratic.
LONGEST_DENSE = 4096
TOLERANCES = {None: 1e-4, "float16": 5e-3, "int8": 1e-1, "int8_static": 2e-1}


# Long: ten arguments, eight of them optional: one call describes the whole file.
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
    """Export a model to one .tflite file, and compare each signature, run in another process, with the Keras model.

    Signatures, for each length n, all on the same weights, each for one document:
    - `ids_n`: int32 `token_ids` and `padding_mask` `(1, n)` to float32 `output`. Builtin ops only.
    - with a tokenizer `text_n`: string `text` `(1,)` to `output` and int32 `token_count` `(1,)`. The text is truncated
      to n tokens: a caller must refuse the output where `token_count` is above n. Needs tensorflow-text's custom ops.
    - with a tokenizer `tokenize`: `text` `(1,)` to int32 `token_ids` `(1, count)`, all of them.

    Each refuses another number of documents with an error of LiteRT's RESHAPE.

    None among the lengths makes `ids_any` and `text_any`, for any n: nothing is truncated, nothing need be padded.
    Runtimes give memory to each new length when it comes, and delegates for phone GPUs and NPUs take fixed shapes only.

    `LiteRTModel` calls them.

    Args:
        model: A functional model from int `token_ids` and `padding_mask` `(batch, n)` to one float tensor. One in half
            precision is exported, and compared, as `krpe_tf.models.in_float32` returns it. Attention on route "fft" is
            exported by forward transforms of powers of two, which LiteRT has; measured on two cores, it is slower than
            "dense" up to 4096 positions and faster from 8192 on.
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
        RuntimeError: If the file does not run in the other process.
    """
    plan = _check(model, lengths, quantization, tokenizer, sample_texts, bias_tolerance, tolerance, measure)
    # A generator: `path` is checked before it gives names. Where no export left its report, nothing else is its own.
    written = ("report.json", "report.md", *plan.vocabulary)
    beside = (each for each in COMPANIONS if each in written or companion(path, "report.json").exists())
    with staged(path, overwrite, beside) as target:
        made = _make(plan, target)
        errors = _verify(plan, target, made)
        report = _describe(plan, target, made, os.path.abspath(path), errors)
        write_report(report, target)
    return report


@dataclass(frozen=True)
class _Plan:
    """The checked arguments of `export_tflite`; `vocabulary`, the files of the tokenizer by their suffix."""

    source: Source
    lengths: list[int | None]
    quantization: str | None
    bias_tolerance: float | None
    conversion_tolerance: float
    tolerance: float
    measure: bool
    vocabulary: dict[str, bytes]


@dataclass(frozen=True)
class _Made:
    """What `_make` wrote.

    Attributes: `content`, the file's bytes; `contents`, what `inspect` finds in them; `signatures`, their names;
    `compressed`, for every bias that was replaced the new one and its certificate; `replaced_biases`, the same without
    the certificates.
    """

    content: bytes
    contents: Contents
    signatures: list[str]
    compressed: dict
    replaced_biases: dict


def _check(model, lengths, quantization, tokenizer, sample_texts, bias_tolerance, tolerance, measure) -> _Plan:
    check_quantization(quantization)
    if bias_tolerance is not None:
        check_bound(bias_tolerance=bias_tolerance)
        bias_tolerance = float(bias_tolerance)
    conversion_tolerance = TOLERANCES[quantization] if tolerance is None else tolerance
    tolerance = conversion_tolerance + (bias_tolerance or 0) if tolerance is None else tolerance
    source = check_source(model, tokenizer, sample_texts, tolerance)
    lengths = check_lengths(lengths, source.length)
    check_places(model, lengths)
    if None in lengths:
        check_any_length(model)
    if not isinstance(measure, bool):
        raise ValueError(f"`measure` must be True or False. Received: measure={measure!r}")
    vocabulary = vocabulary_files(tokenizer)
    return _Plan(source, lengths, quantization, bias_tolerance, conversion_tolerance, tolerance, measure, vocabulary)


def _make(plan: _Plan, target: Path) -> _Made:
    """Write the file and its vocabulary."""
    source = plan.source
    compressed = compress_biases(source.model, plan.lengths, plan.bias_tolerance)
    replaced_biases = {bias: new for bias, (new, _) in compressed.items()}
    with override(forward_transforms=True, replaced_biases=replaced_biases):
        functions = litert_functions(source.model, plan.lengths, source.tokenizer)
    content = convert(functions, working_folder(target))
    if plan.quantization is not None:
        length = _calibration_length(plan.lengths)
        documents = make_documents(source, length) if plan.quantization == "int8_static" else []
        content = quantize(content, plan.quantization, source.model, signature_name("ids", length), documents)
    content = drop_names(content)
    contents = inspect(content)
    check_contents(contents, with_text=source.tokenizer is not None)
    target.write_bytes(content)
    for suffix, each in plan.vocabulary.items():
        companion(target, suffix).write_bytes(each)
    return _Made(content, contents, list(functions), compressed, replaced_biases)


def _verify(plan: _Plan, file: Path, made: _Made) -> tuple[dict[str, float], dict[str, float]]:
    """Compare the file with the Keras model; return the largest error of every signature, and the mean ones.

    There are two processes: the signatures that take ids run where there is LiteRT alone, and those that take text
    where tensorflow-text's ops are known. They run beside Keras.
    """
    source = plan.source
    documents = {length: make_documents(source, length) for length in plan.lengths}
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = [pool.submit(_run_ids, file, documents)]
        if source.tokenizer is not None:
            running.append(pool.submit(_run_texts, file, documents, source))
        samples = _run_keras(source, documents)
        outputs = {name: each for future in running for name, each in future.result().items()}
    errors = {name: relative_errors(samples[name], outputs[name]) for name in samples}
    max_error, mean_error = ({name: each[index] for name, each in errors.items()} for index in (0, 1))
    check_errors(max_error, plan.tolerance)
    if made.replaced_biases:
        # Beside the same biases in Keras: what `bias_tolerance` allows must hide no fault of the conversion.
        with override(replaced_biases=made.replaced_biases):
            samples = _run_keras(source, documents)
        exact = {name: relative_errors(samples[name], outputs[name])[0] for name in samples}
        check_errors(exact, plan.conversion_tolerance)
    return max_error, mean_error


def _run_ids(file: os.PathLike, documents: dict[int | None, list[Document]]) -> dict[str, list[np.ndarray]]:
    calls = [(signature_name("ids", n), each.inputs) for n, group in documents.items() for each in group]
    return _outputs(calls, run_in_own_process("litert", file, calls, with_text_ops=False))


def _run_texts(
    file: os.PathLike, documents: dict[int | None, list[Document]], source: Source
) -> dict[str, list[np.ndarray]]:
    """Run the signatures that take text, and check that the file's tokenizer gives the ids of `source.tokenizer`."""
    texts = source.texts or [*SAMPLE_TEXTS, " ".join(SAMPLE_TEXTS * 30)]
    calls = [("tokenize", {"text": [text]}) for text in texts]
    counts = []
    for length, group in documents.items():
        with_text = [each for each in group if each.text is not None]
        calls += [(signature_name("text", length), {"text": [each.text]}) for each in with_text]
        counts += [each.token_count for each in with_text]
    results = run_in_own_process("litert", file, calls, with_text_ops=True)
    for text, result in zip(texts, results, strict=False):
        expected = source.tokenizer([text])["token_ids"]
        if not np.array_equal(result["token_ids"], expected):
            raise ValueError(
                f"`tokenizer` must give the same ids in the file. Received: {text[:80]!r}, ids {expected.tolist()}, in "
                f"the file {result['token_ids'].tolist()}"
            )
    calls, results = calls[len(texts) :], results[len(texts) :]
    for (name, inputs), result, count in zip(calls, results, counts, strict=True):
        if result["token_count"].tolist() != [count]:
            raise ValueError(
                f"signature {name} must count all tokens of a text, {count}. Received: token_count "
                f"{result['token_count'].tolist()} for {inputs['text'][0][:80]!r}"
            )
    return _outputs(calls, results)


def _outputs(calls: list[tuple[str, dict]], results: list[dict]) -> dict[str, list[np.ndarray]]:
    outputs = {name: [] for name, _ in calls}
    for (name, _), result in zip(calls, results, strict=True):
        outputs[name].append(result["output"])
    return outputs


def _run_keras(source: Source, documents: dict[int | None, list[Document]]) -> dict[str, list[Sample]]:
    """Return the samples of every signature: those with a text are of the one that takes text too."""
    samples = {}
    for length, group in documents.items():
        samples[signature_name("ids", length)] = found = run_model(source, group)
        with_text = [each for each in found if each.document.text is not None]
        if with_text:
            samples[signature_name("text", length)] = with_text
    return samples


def _describe(plan: _Plan, file: Path, made: _Made, path: str, errors: tuple[dict, dict]) -> LiteRTReport:
    """Ask the runtime about the file, measure it, and report all."""
    fixed = [length for length in plan.lengths if length is not None]
    # A signature for any length costs what its inputs ask: it runs at the longest of the others.
    runs = {signature_name("ids", length): length or max(fixed, default=512) for length in plan.lengths}
    dense = plan.measure and "RFFT2D" in made.contents.ops
    return LiteRTReport(
        path=path,
        bytes=len(made.content),
        lengths=plan.lengths,
        model_dtypes=plan.source.model_dtypes,
        quantization=plan.quantization,
        signatures=made.signatures,
        outside_xnnpack=outside_xnnpack(made.content, runs),
        gpu=check_gpu(made.content, signature_name("ids", min(fixed))) if fixed else None,
        max_error=errors[0],
        mean_error=errors[1],
        tolerance=plan.tolerance,
        certificates=certificates_by_name(made.compressed) if made.compressed else None,
        measurements=measure_signatures(file, runs) if plan.measure else None,
        dense_measurements=_measure_dense(plan.source.model, fixed, working_folder(file)) if dense else None,
        **asdict(made.contents),
    )


def _calibration_length(lengths: Sequence[int | None]) -> int | None:
    """Return the shortest length of 512 or more, else the longest: activations of longer documents range no further."""
    fixed = sorted(n for n in lengths if n is not None)
    return next((n for n in fixed if n >= 512), fixed[-1] if fixed else None)


def _measure_dense(
    model: "keras.Model", lengths: Sequence[int], working_folder: os.PathLike
) -> list[Measurement] | None:
    """Measure the same model on the dense route, in float32; None where every length would take it too long."""
    lengths = [length for length in lengths if length <= LONGEST_DENSE]
    if not lengths:
        return None
    with tempfile.TemporaryDirectory(dir=working_folder) as folder:
        path = os.path.join(folder, "dense.tflite")
        with open(path, "wb") as file, override(route="dense"):
            file.write(drop_names(convert(litert_functions(model, lengths, tokenizer=None), folder)))
        return measure_signatures(path, {signature_name("ids", length): length for length in lengths})
