"""Text in, token ids out, on tensorflow-text's own tools.

TensorFlow is imported where it is used: importing this package, `check_texts`, and reading a tokenizer for its ids
need neither it nor tensorflow-text.
"""

from .checks import check_texts, is_visible, split_at_spaces
from .load import load_tokenizer
from .sentencepiece import SentencePieceTokenizer
from .tokenizer import Tokenizer
from .vocabulary import RESERVED_TOKENS
from .wordpiece import WordPieceTokenizer, learn_tokenizer, train_wordpiece

__all__ = [
    "RESERVED_TOKENS",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
    "check_texts",
    "is_visible",
    "learn_tokenizer",
    "load_tokenizer",
    "split_at_spaces",
    "train_wordpiece",
]
