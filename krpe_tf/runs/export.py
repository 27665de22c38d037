"""Export a finished run."""

import logging
import os
from pathlib import Path

from ..export import (
    GeneratorReport,
    LiteRTReport,
    TranslatorReport,
    check_lengths,
    export_generator,
    export_litertlm,
    export_saved_model,
    export_tflite,
    export_translator,
)
from ..files import make_directory
from ..models import CausalLM, EncoderDecoder
from ..tasks import Task
from ..text import PieceTokenizer, Tokenizer
from .folder import check_run, load_run, load_task, read_json, remove_caches

logger = logging.getLogger(__name__)

LENGTHS = (512, 2048, 8192)
# Of sources; most are sentences.
SOURCE_LENGTHS = (64, 512, 2048)


def export_run(
    run: str | os.PathLike,
    *,
    lengths=None,
    quantization: str | None = None,
    sample_texts: list[str] | None = None,
    bias_tolerance: float | None = None,
    measure: bool = True,
) -> LiteRTReport | GeneratorReport | TranslatorReport:
    """Export a run's model to saved_model/ and model.tflite in its folder, replacing earlier exports.

    What is exported is the task's choice: of masked LM it is the encoder, one vector per token, of distillation one per
    text. Of a task that writes it is a generator of text, in model.tflite and, with a `PieceTokenizer`, in
    model.litertlm for LiteRT-LM; of a task that translates it is a translator, in model.tflite. A model in half
    precision is exported as float32, with its weights; the log says so. The files take raw texts too, unless the
    tokenizer gives texts back (`reversible`): such a one runs outside of them.

    Args:
        run: The run folder.
        lengths: See `export_tflite`; 512, 2048 and 8192 if None. Of a translator those of sources, 64, 512 and 2048 if
            None, see `export_translator`. A generator has none: it writes at any length.
        quantization, measure: See `export_tflite`, `export_generator` and `export_translator`.
        sample_texts, bias_tolerance: See `export_tflite`; not of a task that writes.

    Returns:
        The report of the export, which writes it beside model.tflite too.

    Raises:
        ValueError: As these; for arguments that a task that writes does not take.
    """
    run = Path(run)
    options = {"lengths": lengths, "sample_texts": sample_texts, "bias_tolerance": bias_tolerance}
    check_run(run, "model.keras", "tokenizer.json", "training.json")
    task = load_task(run)
    _check_options(task, options)
    make_directory(run, argument="run")  # It can be written to: that is known before the work is done.
    trained, tokenizer, _ = load_run(run)
    if task.causal:
        return _export_generator(run, trained, tokenizer, quantization, measure)
    if task.translates:
        return _export_translator(run, trained, tokenizer, lengths, quantization, measure)
    lengths = LENGTHS if lengths is None else lengths
    model = task.exported(trained)
    if model is not trained:
        each = "token" if len(model.output.shape) > 2 else "text"
        logger.info("exporting the encoder of this %s run: one vector per %s", task.name, each)
    lengths = check_lengths(lengths, None)
    longest = read_json(run / "training.json")["max_length"]
    if max(length or 0 for length in lengths) > longest:
        logger.info("note: the model was trained on lengths up to %d", longest)
    if tokenizer.reversible:
        logger.info("the files take token ids: a %s runs outside of them", type(tokenizer).__name__)
        tokenizer = None
    logger.info("exporting to SavedModel, and comparing it with the Keras model")
    export_saved_model(model, run / "saved_model", tokenizer, sample_texts=sample_texts, overwrite=True)
    names = ", ".join(str(length or "any") for length in lengths)
    logger.info("exporting to LiteRT for lengths %s, and comparing each signature", names)
    return export_tflite(
        model,
        run / "model.tflite",
        lengths,
        quantization,
        tokenizer,
        sample_texts=sample_texts,
        bias_tolerance=bias_tolerance,
        measure=measure,
        overwrite=True,
    )


def _check_options(task: Task, options: dict) -> None:
    if not task.writes:
        return
    refused = options if task.causal else {name: value for name, value in options.items() if name != "lengths"}
    why = "a generator writes at any length, and exactly" if task.causal else "a translator is exact, and takes ids"
    for name, value in refused.items():
        if value is not None:
            raise ValueError(f"`{name}` must be left out for the task {task.name!r}: {why}. Received: {name}={value!r}")


def _export_translator(
    run: Path, model: EncoderDecoder, tokenizer: Tokenizer, lengths, quantization: str | None, measure: bool
) -> TranslatorReport:
    logger.info("exporting a translator to LiteRT, and comparing it with the Keras model")
    lengths = SOURCE_LENGTHS if lengths is None else lengths
    path = run / "model.tflite"
    return export_translator(model, path, lengths, quantization, tokenizer, measure=measure, overwrite=True)


def _export_generator(
    run: Path, model: CausalLM, tokenizer: Tokenizer, quantization: str | None, measure: bool
) -> GeneratorReport:
    logger.info("exporting a generator to LiteRT, and comparing it with the Keras model")
    file, packed = run / "model.tflite", run / "model.litertlm"
    report = export_generator(
        model, file, tokenizer=tokenizer, quantization=quantization, measure=measure, overwrite=True
    )
    if isinstance(tokenizer, PieceTokenizer):
        logger.info("packing it with its tokenizer for LiteRT-LM")
        export_litertlm(file, packed, tokenizer, overwrite=True)
        remove_caches(run)
    return report
