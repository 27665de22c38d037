"""Export a finished run."""

import logging
import os
from pathlib import Path

from ..export import LiteRTReport, check_lengths, export_saved_model, export_tflite
from .folder import load_run, load_task, read_json

logger = logging.getLogger(__name__)


def export_run(
    run: str | os.PathLike,
    *,
    lengths=(512, 2048, 8192),
    quantization: str | None = None,
    sample_texts: list[str] | None = None,
    bias_tolerance: float | None = None,
    measure: bool = True,
) -> LiteRTReport:
    """Export a run's model to saved_model/ and model.tflite in its folder, replacing earlier exports.

    What is exported is the task's choice: of masked LM it is the encoder, one vector per token. A model in half
    precision is exported as float32, with its weights; the log says so.

    Args:
        run: The run folder.
        lengths, quantization, sample_texts, bias_tolerance, measure: See `export_tflite`.

    Returns:
        The report of `export_tflite`, which writes it beside model.tflite too.
    """
    run = Path(run)
    trained, tokenizer, _ = load_run(run)
    task = load_task(run)
    model = task.exported(trained)
    if model is not trained:
        logger.info("exporting the encoder of this %s run: one vector per token", task.name)
    lengths = check_lengths(lengths, None)
    longest = read_json(run / "training.json")["max_length"]
    if max(length or 0 for length in lengths) > longest:
        logger.info("note: the model was trained on lengths up to %d", longest)
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
