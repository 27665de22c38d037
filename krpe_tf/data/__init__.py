"""A user's documents: read from files, split, prepared, and made into batches.

TensorFlow is imported where it is used: importing this package needs none, nor do batches of a prepared corpus.
"""

from .arrays import prepare_arrays
from .batches import Array, Batches
from .buckets import CutReport, buckets
from .corpus import (
    Corpus,
    PreparedCorpus,
    PreparedTexts,
    build_corpus,
    encode_documents,
    is_prepared,
    load_corpus,
    load_prepared,
)
from .encoding import LABELLED_TEXTS, PAIRS, TEXTS, Encoding
from .labelled import LabelledTexts, load_labelled_texts, split_holdout
from .masking import Masking, masking
from .pair_buckets import PairReport, pair_buckets, pair_lengths, pair_shapes
from .prepare import prepare
from .ragged import Ragged
from .shifting import Shifting, shifting
from .sources import Source, open_source
from .survey import Documents, deal_documents
from .text_batches import classification_batches, classification_dataset, masked_lm_batches, masked_lm_dataset
from .windows import Transform, windows

__all__ = [
    "LABELLED_TEXTS",
    "PAIRS",
    "TEXTS",
    "Array",
    "Batches",
    "Corpus",
    "CutReport",
    "Documents",
    "Encoding",
    "LabelledTexts",
    "Masking",
    "PairReport",
    "PreparedCorpus",
    "PreparedTexts",
    "Ragged",
    "Shifting",
    "Source",
    "Transform",
    "buckets",
    "build_corpus",
    "classification_batches",
    "classification_dataset",
    "deal_documents",
    "encode_documents",
    "is_prepared",
    "load_corpus",
    "load_labelled_texts",
    "load_prepared",
    "masked_lm_batches",
    "masked_lm_dataset",
    "masking",
    "open_source",
    "pair_buckets",
    "pair_lengths",
    "pair_shapes",
    "prepare",
    "prepare_arrays",
    "shifting",
    "split_holdout",
    "windows",
]
