"""The demo's task: to give a text that lost its capitals and punctuation both back. Any text brings its labels."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..data import Source, open_source

# What may stand after a word, and what it is restored as.
MARKS = {",": ",", ".": ".", ";": ";", ":": ":", "?": "?", "!": "."}

# How a label begins; a mark may follow.
CAPITAL, SMALL = "capital", "small"

# From a word's first letter or digit to its last; marks inside stay: "fellow-citizens", "1,000".
WORD = re.compile(r"[$£\w](?:.*\w)?%?")


def bare_words(text: str) -> tuple[list[str], list[str]]:
    """Take capitals and punctuation off a text.

    Returns:
        The words in lower case, and the label of each: "capital" or "small", as it began, and the mark that came after
        it, if any: "small", "capital,". Dashes, quotes, brackets and capitals inside words are not restored.
    """
    words, labels = [], []
    for piece in re.sub("--+|[\u2013\u2014]", " ", text).split():
        if found := WORD.search(piece):
            word = found.group()
            mark = next((MARKS[each] for each in piece[found.end() :] if each in MARKS), "")
            words.append(word.lower())
            labels.append((CAPITAL if word[0].isupper() else SMALL) + mark)
    return words, labels


def restore(words: Sequence[str], labels: Sequence[str]) -> str:
    """Return the text that labels make of bare words."""
    texts = []
    for word, label in zip(words, labels, strict=True):
        if label.startswith(CAPITAL):
            word = word[0].upper() + word[1:]
        texts.append(word + _mark(label))
    return " ".join(texts)


def write_rows(path: Path, texts: list[str]) -> Source:
    """Write the bare words of texts, and their labels, to a .jsonl file as `train` takes it; return that source."""
    with open(path, "w", encoding="utf-8") as file:
        for text in texts:
            tokens, labels = bare_words(text)
            file.write(json.dumps({"tokens": tokens, "labels": labels}, ensure_ascii=False) + "\n")
    return open_source(path, ("tokens", "labels"))


def word_scores(predicted: Sequence[str], actual: Sequence[str]) -> dict[str, float]:
    """Return the share of words labelled right, and F1 of punctuation and of capitals, over all words.

    A mark counts as found where the same mark is predicted after the same word.
    """
    predicted, actual = np.asarray(predicted), np.asarray(actual)
    marks = _each(_mark, predicted), _each(_mark, actual)
    capitals = (_each(lambda label: label.startswith(CAPITAL), labels) for labels in (predicted, actual))
    return {
        "accuracy": float(np.mean(predicted == actual)),
        "punctuation": _f1(*marks, ""),
        "capitals": _f1(*capitals, False),
    }


def _mark(label: str) -> str:
    return label.removeprefix(CAPITAL).removeprefix(SMALL)


def _each(function: Callable, labels: np.ndarray) -> np.ndarray:
    """Return what a function gives for every label; it is called once for each different one."""
    different, places = np.unique(labels, return_inverse=True)
    return np.array([function(label) for label in different])[places]


def _f1(predicted: np.ndarray, actual: np.ndarray, nothing) -> float:
    """Return F1 over all places where `nothing` is not what is predicted, or not what is right."""
    right = np.count_nonzero((predicted == actual) & (actual != nothing))
    return 2 * right / max(1, np.count_nonzero(predicted != nothing) + np.count_nonzero(actual != nothing))
