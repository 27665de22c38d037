"""Words as tokens: texts that come word by word, with one label each."""

import numpy as np

from ..text import Tokenizer, is_visible, split_at_spaces


def encode_words(rows: list[dict], tokenizer: Tokenizer, classes: list[str]) -> dict[str, list[np.ndarray]]:
    """Encode rows of "tokens" and "labels" word by word.

    Returns:
        For each row "token_ids", between the start and the end token, and "labels", of the same length: the class of a
        word at its first token, -1 at every other token.
    """
    class_ids = {label: index for index, label in enumerate(classes)}
    pieces = iter(word_pieces([word for row in rows for word in row["tokens"]], tokenizer))
    fields = {"token_ids": [], "labels": []}
    for row in rows:
        words = [next(pieces) for _ in row["tokens"]]
        labels = [[class_ids[label]] + [-1] * (len(w) - 1) for w, label in zip(words, row["labels"], strict=True)]
        fields["token_ids"].append(np.concatenate([[tokenizer.start_id], *words, [tokenizer.end_id]]).astype("int32"))
        fields["labels"].append(np.concatenate([[-1], *labels, [-1]]).astype("int32"))
    return fields


def word_pieces(words: list[str], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Return the ids of each word alone; the unknown token for one of which the tokenizer leaves nothing."""
    unknown, different = np.array([tokenizer.unknown_id], "int32"), list(dict.fromkeys(words))
    # Each word once: of a text most come again.
    pieces = dict(zip(different, tokenizer.encode(different), strict=True)) if different else {}
    return [pieces[word][1:-1] if len(pieces[word]) > 2 else unknown for word in words]


def split_words(text: str, tokenizer: Tokenizer, num_tokens: int) -> tuple[list[str], np.ndarray]:
    """Split a text at spaces and line breaks, and find each word among its tokens.

    Args:
        text: The text.
        tokenizer: Makes the tokens.
        num_tokens: How many tokens the whole text has, start and end included.

    Returns:
        The words, and the place of each one's first token.

    Raises:
        ValueError: If the tokenizer splits the text at other places, control characters for one: no token can then be
            told to be a word's.
    """
    words = [word for word in split_at_spaces(text) if is_visible(word)]
    ends = np.cumsum([1, *map(len, word_pieces(words, tokenizer))])
    if ends[-1] + 1 != num_tokens:
        raise ValueError(
            "`texts` must hold words that the tokenizer keeps apart: separate them by spaces, without control "
            f"characters. Received: {text[:40]!r}, {ends[-1] + 1} tokens word by word and {num_tokens} as a whole"
        )
    return words, ends[:-1]
