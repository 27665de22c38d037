"""The files of a page that runs an exported model in a browser."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..text import normalizer_table
from .inspection import inspect, keep_signatures
from .vocabulary import vocabulary_files

if TYPE_CHECKING:
    from ..text import Tokenizer

# Pages, styles and modules, beside this file; a page is written as index.html.
SOURCES = Path(__file__).parent / "web"
# All that may lie in a page's folder: a new page replaces it.
PAGE_CONTENTS = frozenset(
    {each.name for each in SOURCES.iterdir()}
    | {"index.html", "litertjs", "web.json", "model.web.tflite", "model.normalizer.json"}
    | {"model.vocab.txt", "model.tokenizer_config.json"}
)
CLASSIFIER = ("classifier.html", "classifier_page.mjs", "litert_web.mjs", "page.css", "wordpiece.mjs")


def classifier_files(content: bytes, tokenizer: "Tokenizer", labels: list[str]) -> dict[str, bytes]:
    """Return what a text classifier's page needs beside LiteRT.js.

    Args:
        content: A file that `export_tflite` made with signatures for fixed lengths.
        tokenizer: The model's tokenizer.
        labels: The classes in the order of their ids.

    Returns:
        Contents by name: the page, its modules, `model.web.tflite`, the vocabulary, `model.normalizer.json` and
        `web.json`, which holds the labels.

    Raises:
        ValueError: If the file has no signature for a fixed length, or the tokenizer is not WordPiece.
    """
    if not hasattr(tokenizer, "wordpieces"):
        raise ValueError(
            "`tokenizer` must be a WordPieceTokenizer, which the page can follow to the id. "
            f"Received: a {type(tokenizer).__name__}"
        )
    settings = {"task": "text_classification", "labels": labels, "max_word_bytes": tokenizer.max_word_bytes}
    return {
        **_sources(CLASSIFIER),
        "model.web.tflite": web_model(content),
        **{f"model.{suffix}": each for suffix, each in vocabulary_files(tokenizer).items()},
        "model.normalizer.json": normalizer_file(tokenizer),
        "web.json": _json(settings),
    }


def web_model(content: bytes) -> bytes:
    """Keep of a .tflite file the signatures that LiteRT.js can run: `ids_n`.

    Of a file that holds a string, or a signature for any length, LiteRT.js runs nothing, or not that signature.

    Args:
        content: A file that `export_tflite` made.

    Returns:
        The smaller file, without the tokenizer's tables.

    Raises:
        ValueError: If there is no signature for a fixed length.
    """
    names = [name for name in inspect(content).signature_ops if re.fullmatch(r"ids_\d+", name)]
    if not names:
        raise ValueError(
            "`content` must hold signatures for fixed lengths, the browser takes no others: export with "
            "`lengths=(512, 2048)` (--lengths 512 2048). Received: a file without `ids_n`"
        )
    return keep_signatures(content, sorted(names, key=lambda name: int(name.removeprefix("ids_"))))


def normalizer_file(tokenizer: "Tokenizer") -> bytes:
    """Return `normalizer_table` of a WordPiece tokenizer as JSON.

    Raises:
        ValueError: For a vocabulary with white space in a token, which the op finds across words.
    """
    table = normalizer_table(tokenizer.lowercase, tokenizer.keep_marks)
    spaces = {chr(code) for first, last in table["spaces"] for code in range(first, last + 1)}
    token = next((each for each in tokenizer.vocabulary if not spaces.isdisjoint(each)), None)
    if token is not None:
        raise ValueError(f"`tokenizer` must hold no token with white space in it. Received: a tokenizer with {token!r}")
    return _json(table)


def _sources(names) -> dict[str, bytes]:
    return {"index.html" if name.endswith(".html") else name: (SOURCES / name).read_bytes() for name in names}


def _json(content) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
