"""A tokenizer of either kind from its file."""

import json
import os

from .sentencepiece import SentencePieceTokenizer
from .tokenizer import Tokenizer
from .wordpiece import WordPieceTokenizer


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
