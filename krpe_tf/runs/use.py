"""Exports a finished run and predicts with it."""

import json
import logging
import os
from pathlib import Path

import numpy as np

from ..export import LiteRTModel, LiteRTReport, export_saved_model, export_tflite
from ..export.litert import check_lengths
from ..models import MaskedLM
from ..text import check_texts
from ..training import class_probabilities
from .folder import _check_run, _labels, load_run

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
    """Exports a run's model to saved_model/ and model.tflite in its folder, replacing earlier exports.

    Of a run with masked LM alone it exports the encoder: one vector a token.

    Args:
        run: the run folder.
        lengths, quantization, sample_texts, bias_tolerance, measure: see `export_tflite`.

    Returns:
        The report of `export_tflite`, which writes it beside model.tflite too.
    """
    run = Path(run)
    model, tokenizer, _ = load_run(run)
    if isinstance(model, MaskedLM):
        logger.info("a run without labels: what is exported is the encoder, one vector a token")
        model = model.encoder
    lengths = check_lengths(lengths, None)
    trained = json.loads((run / "training.json").read_text(encoding="utf-8"))["max_length"]
    if max(length or 0 for length in lengths) > trained:
        logger.info("note: lengths past %d were not trained on", trained)
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


def predict_run(run: str | os.PathLike, texts: list[str]) -> list[dict[str, float]]:
    """Classifies texts, with model.tflite where the run has been exported and with model.keras otherwise.

    Args:
        run: the run folder.
        texts: raw texts.

    Returns:
        One dict a text: the probability of every label, the most likely first.

    Raises:
        ValueError: for a folder without a run, a run with masked LM alone, bad texts, or, once exported, a text longer
            than the file's largest signature. A run that has not been exported takes any length.
    """
    run = Path(run)
    texts = check_texts(texts)
    if (run / "model.keras").is_file() and not (run / "labels.json").is_file():
        raise ValueError(f"run must be of labelled texts, this one has no labels to choose from. Received: run={run}")
    if (run / "model.tflite").is_file():
        _check_run(run, "labels.json")
        labels, logits = _labels(run), LiteRTModel(run / "model.tflite")(texts)
    else:
        model, tokenizer, labels = load_run(run)
        logits = np.concatenate([np.asarray(model(tokenizer([text]))) for text in texts])
    answers = []
    for row in class_probabilities(logits):
        answers.append({labels[index]: float(row[index]) for index in np.argsort(-row)})
    return answers
