"""Predict with a finished run."""

import os
from pathlib import Path

import numpy as np

from ..export import LiteRTModel
from ..text import check_texts, load_tokenizer
from .folder import check_run, load_labels, load_run, load_task


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
        hint = "; take `generate`, which continues a text with it" if task.causal else ""
        hint = "; take `translate`, which translates with it" if task.translates else hint
        raise ValueError(
            f"`run` must be of a task that answers, {task.name!r} does not{hint}. Received: run={str(run)!r}"
        )
    labels = load_labels(run, task)
    if exported.is_file():
        model, tokenizer = LiteRTModel(exported), load_tokenizer(run / "tokenizer.json")
        outputs = [model(tokenizer([text]) if tokenizer.reversible else [text])[0] for text in texts]
    else:
        model, tokenizer, _ = load_run(run)
        outputs = [np.asarray(model(tokenizer([text])))[0] for text in texts]
    return task.answer(outputs, texts, tokenizer, labels)


def show_answers(run: str | os.PathLike, answers: list) -> list[str]:
    """Return a line for each answer of `predict_run`."""
    return [load_task(run).show(answer) for answer in answers]
