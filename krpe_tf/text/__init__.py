"""Text in, token ids out, on tensorflow-text's own tools.

TensorFlow is imported where it is used: importing this package, `check_texts`, and reading a tokenizer for its ids
need neither it nor tensorflow-text.
"""

import importlib
import warnings
from typing import Any

from .checks import check_texts, is_visible
from .load import load_tokenizer
from .sentencepiece import SentencePieceTokenizer
from .tokenizer import Tokenizer
from .wordpiece import RESERVED_TOKENS, WordPieceTokenizer, train_wordpiece

__all__ = [
    "RESERVED_TOKENS",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
    "check_texts",
    "is_visible",
    "load_tokenizer",
    "train_wordpiece",
]


def __getattr__(name: str) -> Any:
    if name != "masked_lm_dataset":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("`krpe_tf.text.masked_lm_dataset` has moved to `krpe_tf.data`.", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(".data", __package__.rpartition(".")[0]), name)
