"""What the WordPiece tokenizer does to each character before it looks for pieces, as a table.

With it another language gives the tokenizer's ids exactly, whatever its own Unicode says; docs/web.md has the rule by
which the table is read.
"""

import functools
from collections.abc import Iterable

import numpy as np

from .normalizer import make_normalizer
from .vocabulary import RESERVED_TOKENS
from .wordpiece import WordPieceTokenizer

# Syllables of Hangul, first and last: NFD decomposes them by arithmetic, so a table need not list 11,172 of them.
HANGUL = (0xAC00, 0xD7A3)


@functools.cache
def normalizer_table(lowercase: bool, keep_marks: bool) -> dict:
    """Read off the tokenizer's own ops what they do to every character of Unicode: 2 to 3 seconds, once a process.

    Args:
        lowercase, keep_marks: Of the tokenizer, see `WordPieceTokenizer`.

    Returns:
        What JSON holds. `changed`, a string of characters and the list of what each becomes; `dropped`, `spaces` and
        `alone`, runs of code points, first and last: characters that vanish, those that end a word, and those that are
        words of their own once the others have become what they become; `hangul`, whether syllables are decomposed.
    """
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    found = [each.decode() for each in make_normalizer(lowercase, keep_marks).normalize(characters).numpy()]
    becomes = {ord(before): after for before, after in zip(characters, found, strict=True) if before != after}
    hangul = [becomes.get(code) == decompose_hangul(code) for code in range(HANGUL[0], HANGUL[1] + 1)]
    for code in range(HANGUL[0], HANGUL[1] + 1) if all(hangul) else ():
        del becomes[code]
    spaces, alone = _what_splits(characters)
    dropped = [code for code, after in becomes.items() if after == ""]
    spaces += [code for code, after in becomes.items() if after == " "]
    changed = {code: after for code, after in becomes.items() if after not in ("", " ")}
    return {
        "changed": ["".join(map(chr, changed)), list(changed.values())],
        "dropped": _runs(dropped),
        "spaces": _runs(spaces),
        "alone": _runs(alone),
        "hangul": all(hangul),
    }


def decompose_hangul(code: int) -> str:
    """Return the two or three letters of a syllable of Hangul."""
    index = code - HANGUL[0]
    tail = index % 28
    return chr(0x1100 + index // 588) + chr(0x1161 + index % 588 // 28) + (chr(0x11A7 + tail) if tail else "")


def _what_splits(characters: list[str]) -> tuple[list[int], list[int]]:
    """Return the code points that end a word, and those that are one, from what each does between two letters."""
    tokenizer = WordPieceTokenizer([*RESERVED_TOKENS, "a", "##a"], lowercase=False)
    unknown, first, next_one = (tokenizer.vocabulary.index(token) for token in ("[UNK]", "a", "##a"))
    kinds = {(first, first): [], (first, unknown, first): [], (unknown,): [], (first, next_one, next_one): []}
    ids = tokenizer.tokenize([f"a{character}a" for character in characters])
    values, ends = ids.flat_values.numpy(), ids.row_splits.numpy()
    for character, start, end in zip(characters, ends, ends[1:], strict=False):
        kinds[tuple(values[start + 1 : end - 1].tolist())].append(ord(character))
    spaces, alone, *_ = kinds.values()
    return spaces, alone


def _runs(codes: Iterable[int]) -> list[list[int]]:
    """Return the first and the last of each run of code points."""
    codes = np.unique(np.fromiter(codes, "int64"))
    return [[int(run[0]), int(run[-1])] for run in np.split(codes, np.flatnonzero(np.diff(codes) > 1) + 1) if run.size]
