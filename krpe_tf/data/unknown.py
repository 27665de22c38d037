"""How much of the text becomes [UNK]: what a model never sees."""

import logging

import numpy as np

from ..text import Tokenizer
from .ragged import Ragged

logger = logging.getLogger(__name__)

WARN_ABOVE = 0.05

# Token ids that are looked at: of a larger corpus, runs of them spread evenly.
LOOKED_AT = 2**20

REMEDY = (
    "a larger --vocabulary-size may keep it, or a SentencePieceTokenizer, whose model the package sentencepiece trains "
    "(docs/data.md, Text that becomes [UNK])"
)


def log_unknown(token_ids: Ragged, tokenizer: Tokenizer) -> float:
    """Log which share of the tokens is the unknown token, and warn above 5 %.

    Args:
        token_ids: Ids of documents, start and end included.
        tokenizer: What made them.

    Returns:
        The share; 0 for a tokenizer that gives every text back, of which nothing is said.

    Raises:
        ValueError: If it is all of them.
    """
    if tokenizer.reversible:
        return 0.0
    ids = token_ids.spread(LOOKED_AT)
    ids = ids[~np.isin(ids, [tokenizer.start_id, tokenizer.end_id])]
    share = float(np.mean(ids == tokenizer.unknown_id)) if len(ids) else 0.0
    name = tokenizer.vocabulary[tokenizer.unknown_id]
    if share == 1:
        raise ValueError(
            f"`tokenizer` must know some of the text; {REMEDY}. Received: a vocabulary of "
            f"{tokenizer.vocabulary_size:,} tokens, with which all of the text is {name}"
        )
    if share > WARN_ABOVE:
        logger.warning("%.1f %% of the tokens are %s: text that the model cannot see; %s", 100 * share, name, REMEDY)
    else:
        logger.info("%.2f %% of the tokens are %s, text that the vocabulary cannot spell", 100 * share, name)
    return share
