"""A tokenizer of any kind from its file."""

import json
import os

from .byte_tokenizer import ByteTokenizer
from .pieces import PieceTokenizer
from .sentencepiece import SentencePieceTokenizer
from .tokenizer import Tokenizer
from .wordpiece import WordPieceTokenizer

# By what their files call them. Those of the other two, which came first, do not.
NAMED = {"bytes": ByteTokenizer, "pieces": PieceTokenizer}


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Read a tokenizer of any kind that its `save` wrote.

    Raises:
        ValueError: As `WordPieceTokenizer.load`.
    """
    kind = WordPieceTokenizer  # Says what is wrong with a file.
    try:
        with open(path, encoding="utf-8") as file:
            saved = json.load(file)
        if "tokenizer" in saved:
            kind = NAMED[saved["tokenizer"]]
        elif "sentencepiece" in saved:
            kind = SentencePieceTokenizer
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return kind.load(path)
