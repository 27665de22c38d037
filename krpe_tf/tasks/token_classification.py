"""Token classification: one label for each word, as in named entity recognition; F1 is that of `seqeval`, by entity."""

import importlib.util

import numpy as np

from ..data import Encoding
from ..models import TokenClassifier
from ..training import class_probabilities
from .documents import PHASE, DocumentSettings, document_batches, epoch_budget
from .masked_lm import MASKED_LM
from .task import Task
from .word_alignment import encode_words, split_words


def _has_entities(classes) -> bool:
    return any(label.startswith(("B-", "I-")) for label in classes)


def _build(encoder, corpus, settings) -> TokenClassifier:
    if _has_entities(corpus.classes) and importlib.util.find_spec("seqeval") is None:
        raise ValueError(
            'labels of entities (B-..., I-...) need the extra `tagging`: pip install ".[tagging]". '
            f"Received: labels {corpus.classes} without the package seqeval"
        )
    return TokenClassifier(encoder, len(corpus.classes))


def _answer(outputs, texts, tokenizer, classes) -> list[list[dict]]:
    """Return the label of every word, split at white space, and its probability."""
    answers = []
    for logits, text in zip(outputs, texts, strict=True):
        words, places = split_words(text, tokenizer, len(logits))
        rows = class_probabilities(logits[places])
        best = zip(words, rows, rows.argmax(-1), strict=True)
        answers.append([{"word": word, "label": classes[i], "probability": float(row[i])} for word, row, i in best])
    return answers


def _scores(model, batches, corpus, settings) -> dict[str, float]:
    """Return the share of words labelled right; for labels of entities also precision, recall and F1 by entity."""
    classes, expected, predicted = corpus.classes, [], []
    for inputs, labels, weights in map(batches.__getitem__, range(batches.steps_per_epoch)):
        for row, label, weight in zip(model.predict_on_batch(inputs).argmax(-1), labels, weights > 0, strict=True):
            expected.append([classes[index] for index in label[weight]])
            predicted.append([classes[index] for index in row[weight]])
    scores = {"accuracy": float(np.mean(np.concatenate(expected) == np.concatenate(predicted)))}
    if _has_entities(classes):
        from seqeval.metrics import f1_score, precision_score, recall_score

        for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            scores[name] = float(score(expected, predicted, zero_division=0))
    return scores


TOKEN_CLASSIFICATION = Task(
    name="token_classification",
    phase=PHASE,
    encoding=Encoding(
        ("tokens", "labels"), encode_words, label=lambda row: row["labels"], text=lambda row: " ".join(row["tokens"])
    ),
    settings=DocumentSettings,
    optimizer="fine_tune_optimizer",
    length="max_length",
    model=TokenClassifier,
    build=_build,
    batches=lambda *arguments: document_batches(*arguments, target="labels", split_long=True),
    budget=epoch_budget,
    answer=_answer,
    show=lambda answer: " ".join(f"{each['word']}/{each['label']}" for each in answer),
    scores=_scores,
    pretraining=MASKED_LM,
)
