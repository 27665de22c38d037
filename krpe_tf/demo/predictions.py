"""What models and exported files predict for the words of the held-out messages."""

from collections.abc import Callable, Iterable

import numpy as np

from ..data import Batches, Ragged, buckets
from ..tasks import TOKEN_CLASSIFICATION
from ..text import Tokenizer


def word_batches(
    rows: Iterable[dict], tokenizer: Tokenizer, classes: list[str], max_length: int, batch_tokens: int
) -> Batches:
    """Make batches of rows of "tokens" and "labels" as the task does: long messages are split, and no word is lost."""
    fields = TOKEN_CLASSIFICATION.encoding.encode(list(rows), tokenizer, classes)
    batches, _ = buckets(
        {name: Ragged.join(values) for name, values in fields.items()},
        max_length,
        batch_tokens,
        tokenizer=tokenizer,
        target="labels",
        split_long=True,
        shuffle=False,
    )
    return batches


def predicted_classes(call: Callable, batches: Batches) -> np.ndarray:
    """Return the most likely class of each word of `batches`, in their order.

    Args:
        call: Gives one score a class for every token of a batch, as a classifier or its .tflite file does.
        batches: Labelled words, one epoch of them.
    """
    return np.concatenate([np.argmax(np.asarray(call(inputs)), -1)[words] for inputs, _, words in _epoch(batches)])


def actual_classes(batches: Batches) -> np.ndarray:
    """Return the class of each word of `batches`, in their order."""
    return np.concatenate([labels[words] for _, labels, words in _epoch(batches)])


def _epoch(batches: Batches):
    """Yield inputs, labels, and which tokens are the first of a word, of each batch without its rows of padding."""
    for step in range(batches.steps_per_epoch):
        inputs, labels, weights = batches[step]
        real = inputs["padding_mask"].any(1)
        yield {name: values[real] for name, values in inputs.items()}, labels[real], weights[real] > 0


def fitting(tokenizer: Tokenizer, texts: list[str], length: int) -> list[int]:
    """Return the places of the texts of at most `length` tokens."""
    return [place for place, ids in enumerate(tokenizer.encode(texts)) if len(ids) <= length]
