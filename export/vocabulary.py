"""The vocabulary beside a .tflite file, for runtimes without the tokenizer's ops."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..text import Tokenizer


def vocabulary_files(tokenizer: "Tokenizer | None") -> dict[str, bytes]:
    """Return what a tokenizer in another language needs: the vocabulary, and how to use it.

    Args:
        tokenizer: Tokenizer of an export, or None.

    Returns:
        Contents by the end of the file's name. For WordPiece `vocab.txt`, BERT's form: one token a line, its id is the
        line's number from 0; for SentencePiece `spiece.model`, its own. For both `tokenizer_config.json`, the settings
        under the names that Hugging Face's tokenizers have for them; `stripped_marks` and `max_word_bytes` are ours.
        For a tokenizer that gives texts back the same with the reserved ids; where its tokens are bytes there is no
        other file, and byte b has the id b + `byte_offset`.
        Nothing without a tokenizer.

    Raises:
        ValueError: For a token with a line break in it.
    """
    if tokenizer is None:
        return {}
    if tokenizer.reversible:
        return _reversible_files(tokenizer)
    tokens = tokenizer.vocabulary
    settings = {"unk_token": tokens[tokenizer.unknown_id], "pad_token": tokens[tokenizer.pad_id]}
    start, end = tokens[tokenizer.start_id], tokens[tokenizer.end_id]
    if hasattr(tokenizer, "wordpieces"):
        broken = next((token for token in tokens if "\n" in token or "\r" in token), None)
        if broken is not None:
            raise ValueError(f"`tokenizer` must hold no token with a line break. Received: a tokenizer with {broken!r}")
        name, content = "vocab.txt", "".join(f"{token}\n" for token in tokens).encode()
        lower = tokenizer.lowercase
        settings = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": lower,
            "strip_accents": lower,
            **({"stripped_marks": tokenizer.stripped_marks} if lower and tokenizer.keep_marks else {}),
            "max_word_bytes": tokenizer.max_word_bytes,
            "tokenize_chinese_chars": True,
            "cls_token": start,
            "sep_token": end,
            "mask_token": tokens[tokenizer.mask_id],
            **settings,
        }
    else:
        name, content = "spiece.model", tokenizer.model
        settings = {"add_bos_token": True, "add_eos_token": True, "bos_token": start, "eos_token": end, **settings}
    return {
        name: content,
        "tokenizer_config.json": (json.dumps(settings, ensure_ascii=False, indent=1) + "\n").encode(),
    }


def _reversible_files(tokenizer: "Tokenizer") -> dict[str, bytes]:
    """Return the files of a tokenizer that gives texts back: ids, and the model of a `PieceTokenizer`."""
    settings = {name: getattr(tokenizer, f"{name}_id") for name in ("pad", "start", "end")}
    settings = {f"{name}_id": index for name, index in settings.items()}
    model = getattr(tokenizer, "model", None)
    if model is None:
        settings = {"tokenizer_class": "ByteTokenizer", "byte_offset": tokenizer.pieces.index(b"\0"), **settings}
    else:
        settings = {"tokenizer_class": "PieceTokenizer", **settings}
    config = {"tokenizer_config.json": (json.dumps(settings, indent=1) + "\n").encode()}
    return config if model is None else {"spiece.model": model, **config}
