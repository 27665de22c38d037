"""Text classification: one label for each document."""

from dataclasses import dataclass

import numpy as np

from ..checks import check_one_of
from ..data import LABELLED_TEXTS
from ..models import TextClassifier
from ..training import class_probabilities
from .documents import PHASE, DocumentSettings, document_batches, epoch_budget
from .masked_lm import MASKED_LM
from .settings import setting
from .task import Task


@dataclass(frozen=True)
class TextClassificationSettings(DocumentSettings):
    """Settings of text classification."""

    pooling: str = setting("mean", "what is classified: mean, of a text's tokens; or first, the start token")

    def __post_init__(self):  # noqa: D105
        super().__post_init__()
        check_one_of(("mean", "first"), pooling=self.pooling)


def _answer(outputs, texts, tokenizer, classes) -> list[dict[str, float]]:
    """Return the probability of every label, the most likely first."""
    return [{classes[i]: float(row[i]) for i in np.argsort(-row)} for row in map(class_probabilities, outputs)]


TEXT_CLASSIFICATION = Task(
    name="text_classification",
    phase=PHASE,
    encoding=LABELLED_TEXTS,
    settings=TextClassificationSettings,
    optimizer="fine_tune_optimizer",
    length="max_length",
    model=TextClassifier,
    build=lambda encoder, corpus, settings: TextClassifier(encoder, len(corpus.classes), pooling=settings.pooling),
    batches=document_batches,
    budget=epoch_budget,
    tokenizers=("wordpiece", "sentencepiece", "bytes"),
    answer=_answer,
    show=lambda answer: "  ".join(f"{label} {probability:.3f}" for label, probability in answer.items()),
    page="classifier",
    pretraining=MASKED_LM,
)
