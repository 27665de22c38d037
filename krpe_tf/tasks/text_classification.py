"""Text classification: one label for each document."""

import numpy as np

from ..data import LABELLED_TEXTS
from ..models import TextClassifier
from ..training import class_probabilities
from .documents import PHASE, DocumentSettings, document_batches, document_budget
from .masked_lm import MASKED_LM
from .task import Task


def _answer(outputs, texts, tokenizer, classes) -> list[dict[str, float]]:
    """Return the probability of every label, the most likely first."""
    return [{classes[i]: float(row[i]) for i in np.argsort(-row)} for row in map(class_probabilities, outputs)]


TEXT_CLASSIFICATION = Task(
    name="text_classification",
    phase=PHASE,
    encoding=LABELLED_TEXTS,
    settings=DocumentSettings,
    optimizer="fine_tune_optimizer",
    length="max_length",
    model=TextClassifier,
    build=lambda encoder, corpus, settings: TextClassifier(encoder, len(corpus.classes)),
    batches=document_batches,
    budget=document_budget,
    answer=_answer,
    show=lambda answer: "  ".join(f"{label} {probability:.3f}" for label, probability in answer.items()),
    page="classifier",
    pretraining=MASKED_LM,
)
