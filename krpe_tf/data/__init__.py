"""A user's documents: read from files, split, prepared, and made into batches."""

from .batches import (
    Batches,
    classification_batches,
    classification_dataset,
    masked_lm_batches,
    masked_lm_dataset,
)
from .buckets import CutReport
from .corpus import PreparedTexts, is_prepared, load_prepared
from .prepare import prepare
from .sources import LabelledTexts, load_labelled_texts
from .splits import split_holdout

__all__ = [
    "Batches",
    "CutReport",
    "LabelledTexts",
    "PreparedTexts",
    "classification_batches",
    "classification_dataset",
    "is_prepared",
    "load_labelled_texts",
    "load_prepared",
    "masked_lm_batches",
    "masked_lm_dataset",
    "prepare",
    "split_holdout",
]
