"""Reads a tokenizer of either kind."""

import json
import os
from typing import TYPE_CHECKING

from .tokenizer import Tokenizer
from .wordpiece import WordPieceTokenizer

if TYPE_CHECKING:
    pass
from .sentencepiece import SentencePieceTokenizer


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Read a tokenizer of either kind that its `save` wrote.

    Raises:
        ValueError: As `WordPieceTokenizer.load`.
    """
    try:
        with open(path, encoding="utf-8") as file:
            kind = SentencePieceTokenizer if "sentencepiece" in json.load(file) else WordPieceTokenizer
    except (OSError, ValueError, TypeError):
        kind = WordPieceTokenizer  # Says what is wrong with the file.
    return kind.load(path)
