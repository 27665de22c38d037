"""What models and exported files predict for the held-out messages."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..data import Batches, LabelledTexts
from ..export import LiteRTModel
from ..text import Tokenizer
from ..training import class_probabilities


def predicted_classes(call: Callable, batches: Batches) -> np.ndarray:
    """Return the most likely class of each document of `batches`, in their order.

    Args:
        call: Gives one score a class for a batch of token ids, as a classifier or its .tflite file does.
        batches: Labelled documents, one epoch of them.
    """
    return np.concatenate([np.argmax(np.asarray(call(inputs)), -1) for inputs, _ in _documents(batches)])


def actual_classes(batches: Batches) -> np.ndarray:
    """Return the class of each document of `batches`, in their order."""
    return np.concatenate([labels for _, labels in _documents(batches)])


def _documents(batches: Batches):
    """Yield inputs and labels of each batch of the first epoch, without rows of padding."""
    for step in range(batches.steps_per_epoch):
        inputs, labels, weights = batches[step]
        real = weights > 0
        yield {name: values[real] for name, values in inputs.items()}, labels[real]


def fitting(tokenizer: Tokenizer, texts: list[str], length: int) -> list[int]:
    """Return the places of the texts of at most `length` tokens."""
    return [place for place, ids in enumerate(tokenizer.encode(texts)) if len(ids) <= length]


def answer(path: Path, test: LabelledTexts, place: int, classes: list[str]) -> dict:
    """Ask a .tflite file about one held-out message, as raw text.

    Args:
        path: The file.
        test: The held-out messages.
        place: Which of them to ask about.
        classes: The labels, in the order of the file's scores.

    Returns:
        `beginning` of the message, `probabilities` by label, the label `predicted`, and the `actual` one.
    """
    text = test.texts[place]
    probabilities = class_probabilities(LiteRTModel(path)([text]))[0]
    return {
        "beginning": " ".join(text.split()[:24]),
        "probabilities": {label: round(float(p), 4) for label, p in zip(classes, probabilities, strict=True)},
        "predicted": classes[int(np.argmax(probabilities))],
        "actual": test.labels[place],
    }
