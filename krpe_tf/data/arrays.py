"""From arrays of token ids and labels to a folder as `prepare` writes them: for what is no text, pixels for one."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..files import staged
from ..text import Tokenizer
from .corpus import FORMAT, MANIFEST, TOKENIZER, PreparedCorpus, load_corpus
from .prepare import CONTENTS, SplitWriter, check_free, make_parent
from .splits import SPLITS
from .store import digest

# Documents that are written at a time.
CHUNK = 4096


def prepare_arrays(
    output: str | os.PathLike,
    splits: Mapping[str, tuple[Sequence[np.ndarray], Sequence[int]]],
    classes: Sequence[str],
    tokenizer: Tokenizer,
    *,
    overwrite: bool = False,
) -> PreparedCorpus:
    """Write labelled token ids to a folder that `train` opens as one that `prepare` wrote.

    For sequences that are no text. A picture of 32 x 32 grey pixels, say, is a document of 1,024 bytes:

        ids = pictures.reshape(-1, 1024).astype("int32") + 3       # byte b is id b + 3 of a `ByteTokenizer`
        prepare_arrays("pictures", {"train": (ids, labels)}, ["cat", "dog"], ByteTokenizer())

    Args:
        output: The folder to write.
        splits: For "train", and for "validation" if there is one, the ids of each document, start and end tokens
            included where they are wanted, and the class of each: an index into `classes`.
        classes: What the labels are called, two names or more.
        tokenizer: Has ids for all of them; also for padding, with which no document may hold ids.
        overwrite: Replace what is at `output`.

    Returns:
        What was written, opened.

    Raises:
        ValueError: For a split without documents, an empty document, ids or labels that are no integers, out of range
            or not one to one; for an output that is there already or cannot be made. Nothing is written then.
        OSError: If the disk is full or fails. Nothing is left of it.
    """
    output, classes = Path(output), [str(name) for name in classes]
    check_free(output, overwrite)
    if len(set(classes)) != len(classes) or len(classes) < 2:
        raise ValueError(f"`classes` must be two different names or more. Received: classes={classes!r:.80}")
    if not set(splits) <= set(SPLITS) or "train" not in splits:
        raise ValueError(f"`splits` must hold 'train', and may hold 'validation'. Received: {', '.join(splits)}")
    counts = sum(_check(split, *fields, len(classes), tokenizer) for split, fields in splits.items())
    make_parent(output)
    with staged(output, overwrite, contents=CONTENTS) as folder:
        folder.mkdir()
        tokenizer.save(folder / TOKENIZER)
        saved = folder / TOKENIZER
        summaries, files = {}, {TOKENIZER: {"bytes": saved.stat().st_size, "sha256": digest(saved)}}
        for split in SPLITS:
            summaries[split], written = _write(folder / split, *splits.get(split, ([], [])), tokenizer)
            files.update({f"{split}/{name}": file for name, file in written.items()})
        manifest = {
            "format": FORMAT,
            "settings": {},
            "columns": ("text", "label"),
            "classes": classes,
            "labels": dict(zip(classes, counts.tolist(), strict=True)),
            "left_out": 0,
            "splits": summaries,
            "files": files,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return load_corpus(output)


def _check(split: str, documents, labels, classes: int, tokenizer: Tokenizer) -> np.ndarray:
    """Raise a ValueError for what cannot be written, and return how often each class comes."""
    labels = np.asarray(labels)
    if labels.shape != (len(documents),) or not len(documents) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`splits` must hold documents, and an integer label for each. Received: {len(documents)} documents and "
            f"labels of shape {labels.shape} of {labels.dtype} in {split!r}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"`splits` must hold labels from 0 to {classes - 1}. Received: {labels.min()} to {labels.max()} in "
            f"{split!r}"
        )
    for index, ids in enumerate(map(np.asarray, documents)):
        if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"`splits` must hold ids as arrays (n,) of integers, n at least 1. Received: shape {ids.shape} of "
                f"{ids.dtype} at {index} of {split!r}"
            )
        if ids.min() < 0 or ids.max() >= tokenizer.vocabulary_size or (ids == tokenizer.pad_id).any():
            raise ValueError(
                f"`splits` must hold ids from 0 to {tokenizer.vocabulary_size - 1}, without {tokenizer.pad_id}, the "
                f"padding. Received: {ids.min()} to {ids.max()} at {index} of {split!r}"
            )
    return np.bincount(labels, minlength=classes)


def _write(folder: Path, documents: Sequence[np.ndarray], labels: Sequence[int], tokenizer: Tokenizer) -> tuple:
    dtype = "uint16" if tokenizer.vocabulary_size <= 2**16 else "int32"
    with SplitWriter(folder) as writer:
        for start in range(0, max(1, len(documents)), CHUNK):  # Once for none, so that the fields are there.
            part = slice(start, start + CHUNK)
            writer.write("token_ids", [np.asarray(each) for each in documents[part]], dtype, ragged=True)
            writer.write("label", list(labels[part]), "int32", ragged=False)
        return writer.finish()
