"""Export a finished run, and predict with it."""

import json
import logging
import os
from pathlib import Path

import numpy as np

from ..export import LiteRTModel, LiteRTReport, check_lengths, export_saved_model, export_tflite
from ..text import check_texts, load_tokenizer
from .folder import check_run, load_labels, load_run, load_task

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

    What is exported is the task's choice: of masked LM it is the encoder, one vector per token.

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
    longest = json.loads((run / "training.json").read_text(encoding="utf-8"))["max_length"]
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


def predict_run(run: str | os.PathLike, texts: list[str]) -> list:
    """Answer for texts, with model.tflite if the run has been exported and with model.keras otherwise.

    Args:
        run: The run folder.
        texts: Raw texts.

    Returns:
        One answer per text, as the task gives it. Of text classification: the probability of every label in a dict, the
        most likely first.

    Raises:
        ValueError: For a folder without a run, a run of a task without answers, bad texts, or, once exported, a text
            longer than the file's largest signature. A run that has not been exported takes any length.
    """
    run = Path(run)
    texts = check_texts(texts)
    exported = run / "model.tflite"
    check_run(run, *(["tokenizer.json"] if exported.is_file() else ["model.keras", "tokenizer.json", "training.json"]))
    task = load_task(run)
    if task.answer is None:
        raise ValueError(f"`run` must be of a task that answers, {task.name!r} does not. Received: run={str(run)!r}")
    if exported.is_file():
        model, tokenizer, labels = LiteRTModel(exported), load_tokenizer(run / "tokenizer.json"), load_labels(run)
        outputs = [model([text])[0] for text in texts]
    else:
        model, tokenizer, labels = load_run(run)
        outputs = [np.asarray(model(tokenizer([text])))[0] for text in texts]
    return task.answer(outputs, texts, tokenizer, labels)


def show_answers(run: str | os.PathLike, answers: list) -> list[str]:
    """Return a line for each answer of `predict_run`."""
    return [load_task(run).show(answer) for answer in answers]
