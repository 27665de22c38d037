"""A tokenizer of any kind, learned from texts."""

import logging
from collections.abc import Sequence

from ..checks import check_at_least, check_one_of
from .byte_tokenizer import ByteTokenizer
from .pieces import FEWEST_TOKENS, PieceTokenizer, train_pieces
from .tokenizer import Tokenizer
from .wordpiece import WordPieceTokenizer, train_wordpiece

logger = logging.getLogger(__name__)

# The kinds of tokenizer to learn; the last two give the text back.
KINDS = ("wordpiece", "sentencepiece", "bytes")


def learn_tokenizer(
    texts: Sequence[str], vocabulary_size: int, cased: bool = False, kind: str = "wordpiece"
) -> Tokenizer:
    """Learn a tokenizer, and say so in the log.

    Args:
        texts: Texts to learn from.
        vocabulary_size: The most tokens; without effect on bytes.
        cased: Of WordPiece, keep upper case and accents.
        kind: "wordpiece" for a `WordPieceTokenizer`, "sentencepiece" for a `PieceTokenizer`, "bytes" for a
            `ByteTokenizer`.

    Raises:
        ValueError: As `train_wordpiece` and `train_pieces`; for another kind.
    """
    check_one_of(KINDS, tokenizer=kind)
    if kind == "bytes":
        tokenizer = ByteTokenizer()
        logger.info("the tokens are bytes: %s, with start, end and padding", tokenizer.vocabulary_size)
        return tokenizer
    if kind == "sentencepiece":
        check_at_least(FEWEST_TOKENS, vocabulary_size=vocabulary_size)
    logger.info("learning a vocabulary of up to %s tokens from %s texts", f"{vocabulary_size:,}", f"{len(texts):,}")
    if kind == "sentencepiece":
        tokenizer = PieceTokenizer(train_pieces(texts, vocabulary_size))
    else:
        tokenizer = WordPieceTokenizer(train_wordpiece(texts, vocabulary_size, not cased), not cased)
    logger.info("learned %s tokens", f"{tokenizer.vocabulary_size:,}")
    return tokenizer
