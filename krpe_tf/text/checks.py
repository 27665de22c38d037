"""Checks of texts; no TensorFlow needed."""

import re
import unicodedata
from collections.abc import Iterable


def check_texts(texts: Iterable[str | bytes], visible: bool = True) -> list[str]:
    """Return `texts` as a list of `str`, or raise a ValueError that says what is wrong with them.

    The tokenizer itself takes anything: invalid UTF-8 and empty texts give ids without an error.

    Args:
        texts: The texts, `str` or UTF-8 `bytes`. A single string is refused, it would be read as a list of characters.
        visible: Refuse a text with nothing but white space and invisible characters.

    Returns:
        The texts, decoded and otherwise unchanged.

    Raises:
        ValueError: For a single string, no texts at all, an element that is not a string, invalid UTF-8, or a text
            that must be visible and is not.
    """
    if isinstance(texts, (str, bytes)):
        raise ValueError(f"`texts` must be a list of texts: wrap one text in []. Received: texts={texts[:40]!r}")
    if not isinstance(texts, Iterable):
        raise ValueError(f"`texts` must be a list of texts. Received: texts={texts!r}")
    checked = [_check_text(text, f"texts[{index}]", visible) for index, text in enumerate(texts)]
    if not checked:
        raise ValueError("`texts` must hold at least one text. Received: texts=[]")
    return checked


def _check_text(text: object, name: str, visible: bool) -> str:
    if not isinstance(text, (str, bytes)):
        raise ValueError(f"`texts` must hold str or bytes. Received: {name}={text!r} of type {type(text).__name__}")
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        text.encode("utf-8")  # A str can hold lone surrogates, which no UTF-8 can.
    except UnicodeError as error:
        raise ValueError(f"`texts` must be valid UTF-8 ({error.reason}). Received: {name}={text[:40]!r}") from error
    if visible and not is_visible(text):
        raise ValueError(f"`texts` must not hold empty texts. Received: {name}={text[:40]!r}")
    return text


def is_visible(text: str) -> bool:
    """Return whether a text holds more than white space and invisible characters."""
    return any(not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf") for char in text)


def split_at_spaces(text: str) -> list[str]:
    """Split a text into words at spaces, tabs and line breaks; not at other white space, as in 10\u00a0000."""
    return re.findall(r"[^ \t\r\n]+", text)
