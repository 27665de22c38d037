"""Text in, token ids out: on tensorflow-text's own tools, or in bytes and pieces that give the text back.

TensorFlow is imported where it is used: importing this package, `check_texts`, reading a tokenizer for its ids, and all
of `ByteTokenizer` and `PieceTokenizer` need neither it nor tensorflow-text.
"""

from .byte_tokenizer import ByteTokenizer
from .checks import check_texts, is_visible, split_at_spaces
from .decoder import TextDecoder
from .learn import KINDS, learn_tokenizer
from .load import load_tokenizer
from .normalizer_table import normalizer_table
from .pieces import PieceTokenizer, train_pieces
from .reversible import ReversibleTokenizer
from .sentencepiece import SentencePieceTokenizer
from .tokenizer import Tokenizer
from .vocabulary import RESERVED_TOKENS
from .wordpiece import WordPieceTokenizer, train_wordpiece

__all__ = [
    "KINDS",
    "RESERVED_TOKENS",
    "ByteTokenizer",
    "PieceTokenizer",
    "ReversibleTokenizer",
    "SentencePieceTokenizer",
    "TextDecoder",
    "Tokenizer",
    "WordPieceTokenizer",
    "check_texts",
    "is_visible",
    "learn_tokenizer",
    "load_tokenizer",
    "normalizer_table",
    "split_at_spaces",
    "train_pieces",
    "train_wordpiece",
]
