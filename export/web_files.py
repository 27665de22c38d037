"""The files of a page that runs an exported model in a browser."""

import json
import re
import struct
from collections.abc import Sequence
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
    | {"model.vocab.txt", "model.tokenizer_config.json", "model.pieces.json"}
)
SHARED = ("litert_web.mjs", "page.css")
CLASSIFIER = (*SHARED, "classifier.html", "classifier_page.mjs", "classifier.mjs", "wordpiece.mjs")
WRITER = (*SHARED, "reversible.mjs", "sampling.mjs")
GENERATOR = (*WRITER, "generator.html", "generator_page.mjs", "generator.mjs")
TRANSLATOR = (*WRITER, "translator.html", "translator_page.mjs", "translator.mjs")


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


def generator_files(content: bytes, tokenizer: "Tokenizer") -> dict[str, bytes]:
    """Return what the page of a model that writes needs beside LiteRT.js.

    Args:
        content: A file that `export_generator` made.
        tokenizer: The model's tokenizer, one that gives the text back.

    Returns:
        Contents by name: the page, its modules, `model.web.tflite`, `web.json`, and for pieces `model.pieces.json`.

    Raises:
        ValueError: If the file has no signatures that generate, or for another tokenizer.
    """
    model = _keep(content, ("decode", "prefill_n"), "that generate, as `export_generator` writes them")
    return {**_sources(GENERATOR), "model.web.tflite": model, **_of_writer("causal_lm", tokenizer)}


def translator_files(content: bytes, tokenizer: "Tokenizer") -> dict[str, bytes]:
    """Return what the page of a model that translates needs beside LiteRT.js.

    Args:
        content: A file that `export_translator` made.
        tokenizer: The model's tokenizer, one that gives the text back.

    Returns:
        Contents by name, as of `generator_files`.

    Raises:
        ValueError: If the file has no signatures that translate, or for another tokenizer.
    """
    model = _keep(content, ("decode", "encode_n"), "that translate, as `export_translator` writes them")
    return {**_sources(TRANSLATOR), "model.web.tflite": model, **_of_writer("translation", tokenizer)}


def _of_writer(task: str, tokenizer: "Tokenizer") -> dict[str, bytes]:
    """Return what a page reads of a model that writes, beside the model: web.json, and model.pieces.json for pieces."""
    if not getattr(tokenizer, "reversible", False):
        raise ValueError(f"`tokenizer` must be one that gives the text back. Received: a {type(tokenizer).__name__}")
    kind = tokenizer.get_config()["tokenizer"]
    pieces = {"model.pieces.json": _json(_pieces(tokenizer))} if kind == "pieces" else {}
    return {"web.json": _json({"task": task, "tokenizer": kind}), **pieces}


def web_model(content: bytes) -> bytes:
    """Keep of a .tflite file the signatures that LiteRT.js can run: `ids_n`.

    LiteRT.js refuses every file that holds a string, and every signature for any length.

    Args:
        content: A file that `export_tflite` made.

    Returns:
        The smaller file, without the tokenizer's tables.

    Raises:
        ValueError: If there is no signature for a fixed length.
    """
    hint = "for fixed lengths, the browser takes no others: export with --lengths 512 2048"
    return _keep(content, ("ids_n",), hint)


def _keep(content: bytes, kinds: Sequence[str], hint: str) -> bytes:
    """Keep the signatures of some kinds: "decode" alone, "prefill_n" with any number n, by which they are ordered."""
    try:
        names = inspect(content).signature_ops
    except (LookupError, TypeError, ValueError, struct.error) as error:
        raise ValueError(
            "`run` must hold a model.tflite that can be read: export it again. "
            f"Received: {type(error).__name__}: {error}"
        ) from error
    found = {}
    for kind in kinds:
        matches = [name for name in names if re.fullmatch(kind.replace("_n", r"_\d+"), name)]
        found[kind.removesuffix("_n")] = sorted(matches, key=lambda name: (len(name), name))
    if missing := [kind for kind, matches in found.items() if not matches]:
        raise ValueError(
            f"`run` must be exported with signatures {hint}. Received: a file without {', '.join(missing)}"
        )
    return keep_signatures(content, [name for matches in found.values() for name in matches])


def _pieces(tokenizer: "Tokenizer") -> dict:
    """Return what the page's tokenizer reads of a SentencePiece model."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model)
    kinds = model.SentencePiece
    unlike = {each.type for each in model.pieces} & {kinds.USER_DEFINED, kinds.UNUSED}
    if unlike or model.trainer_spec.model_type != model.trainer_spec.UNIGRAM:
        raise ValueError(
            "`tokenizer` must be of a unigram model without user-defined or unused pieces, which the page can follow "
            "to the id, as `train_pieces` makes it. "
            f"Received: model type {model.trainer_spec.model_type}, pieces of kinds {sorted(unlike)} among them"
        )
    ids = {each.piece: index for index, each in enumerate(model.pieces)}
    return {
        "pieces": [each.piece if each.type == kinds.NORMAL else None for each in model.pieces],
        "scores": [each.score for each in model.pieces],
        "bytes": [ids[f"<0x{byte:02X}>"] for byte in range(256)],
        **{name: getattr(tokenizer, f"{name}_id") for name in ("pad", "start", "end")},
    }


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
