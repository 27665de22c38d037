"""Documents as arrays, to train on and to validate by: in memory, or in a folder that `prepare` wrote."""

import functools
import hashlib
import json
import logging
import os
import shlex
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..checks import check_at_least, check_one_of
from ..text import Tokenizer, learn_tokenizer, load_tokenizer
from .batches import Batches
from .buckets import CutReport, buckets
from .encoding import LABELLED_TEXTS, Encoding, encode_in_parallel
from .masking import masking
from .ragged import Ragged
from .sources import LabelledTexts, Source
from .splits import SPLITS
from .store import CHECKSUMS, StoredArray, check_digest, check_size
from .survey import deal_in_memory, log_labels
from .unknown import log_unknown
from .windows import windows

logger = logging.getLogger(__name__)

FORMAT = 2

MANIFEST = "manifest.json"

TOKENIZER = "tokenizer.json"


class Corpus:
    """Documents as arrays, in the splits "train" and "validation"; `corpus["train"]` holds the fields of a split.

    A field is a `Ragged` of an array for each document, or an int32 array of a number for each: "token_ids", "label".

    Attributes: `tokenizer`; `classes`, the labels in the order of their ids, None without labels; `columns`, what the
    documents were made of; `fingerprint`, which tells one corpus from another.

    Args:
        tokenizer, classes, columns: See above.
        splits: The fields of both splits.
        labels: How often each label comes, where that was counted.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        classes: list[str] | None,
        columns: tuple[str, ...],
        splits: Mapping[str, Mapping[str, Ragged | np.ndarray]],
        labels: Mapping[str, int] | None = None,
    ):
        self.tokenizer = tokenizer
        self.classes = classes
        self.columns = columns
        self._splits = splits
        self._labels = labels

    def __getitem__(self, split: str) -> Mapping[str, Ragged | np.ndarray]:
        """Return the fields of a split, "train" or "validation"."""
        check_one_of(SPLITS, split=split)
        return self._splits[split]

    def documents(self, split: str = "train") -> int:
        """Return the number of documents of a split, "train" or "validation"."""
        return len(next(iter(self[split].values())))

    def tokens(self, split: str = "train") -> int:
        """Return the number of tokens of a split, [CLS] and [SEP] included."""
        return max((len(field.values) for field in self[split].values() if isinstance(field, Ragged)), default=0)

    def log_labels(self) -> None:
        """Log each label with its number, and warn of labels that look like mistakes; nothing without labels."""
        labels, documents = self._labels, sum(map(self.documents, SPLITS))
        if labels is None and "label" in self["train"]:
            found = np.concatenate([self[split].get("label", np.zeros(0, "int32")) for split in SPLITS])
            counts = np.bincount(found, minlength=len(self.classes)).tolist()
            labels = dict(zip(self.classes, counts, strict=True))
        if labels:
            log_labels(labels, self, "documents" if sum(labels.values()) == documents else "words")

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer, the classes and all arrays."""
        content = hashlib.sha256(json.dumps([self.tokenizer.get_config(), self.classes, self.columns]).encode())
        for split in SPLITS:
            for name, field in self[split].items():
                content.update(f"{split} {name}".encode())
                for part in (field.values, field.starts) if isinstance(field, Ragged) else (field,):
                    content.update(np.ascontiguousarray(part).data)
        return content.hexdigest()

    def verify(self) -> None:
        """Read everything once and compare it with its checksums; there is nothing to do in memory.

        Raises:
            ValueError: For a damaged or missing file; names it.
        """

    def log_unknown(self) -> float:
        """Log which share of the training documents' tokens is [UNK], warn above 5 %, and return it.

        Raises:
            ValueError: If it is all of them: there is nothing to train on.
        """
        # An encoding may give its ids another name.
        ids = [field for field in self["train"].values() if isinstance(field, Ragged)]
        return log_unknown(self["train"].get("token_ids", ids[0]), self.tokenizer) if ids else 0.0

    def masked_lm_batches(
        self,
        length: int,
        batch_size: int,
        seed: int = 0,
        selection_rate: float = 0.15,
        shuffle: bool = True,
        split: str = "train",
        shuffle_tokens: int | None = None,
        packing: bool = False,
    ) -> Batches:
        """Make masked-LM `Batches` of `windows` through `masking`.

        Args:
            length, batch_size, seed, shuffle, packing: See `windows`.
            selection_rate: See `masking`.
            split: "train" or "validation".
            shuffle_tokens: Deprecated, without effect: all windows are shuffled.

        Raises:
            ValueError: For numbers out of range, or a split without documents.
        """
        _without_effect(shuffle_tokens=shuffle_tokens)
        transform = masking(self.tokenizer, selection_rate)
        return windows(
            self._filled(split)["token_ids"],
            length,
            batch_size,
            pad_id=self.tokenizer.pad_id,
            seed=seed,
            shuffle=shuffle,
            transform=transform,
            packing=packing,
        )

    def classification_batches(
        self,
        max_length: int,
        batch_tokens: int,
        min_length: int = 128,
        seed: int = 0,
        shuffle: bool = True,
        batch_multiple: int = 1,
        split: str = "train",
        shuffle_tokens: int | None = None,
    ) -> tuple[Batches, CutReport]:
        """Make `Batches` of whole labelled documents in length `buckets`.

        Args:
            max_length, batch_tokens, min_length, seed, shuffle, batch_multiple: See `buckets`.
            split, shuffle_tokens: See `masked_lm_batches`.

        Raises:
            ValueError: As `masked_lm_batches`; or for documents without labels.
        """
        _without_effect(shuffle_tokens=shuffle_tokens)
        if "label" not in self[split]:
            raise ValueError(f"classification needs documents with labels. Received: {self}")
        return buckets(
            self._filled(split),
            max_length,
            batch_tokens,
            tokenizer=self.tokenizer,
            min_length=min_length,
            seed=seed,
            shuffle=shuffle,
            batch_multiple=batch_multiple,
        )

    def _filled(self, split: str) -> Mapping[str, Ragged | np.ndarray]:
        if not self.documents(split):
            raise ValueError(f"`split` must hold documents. Received: split={split!r} of {self}")
        return self[split]

    def __str__(self) -> str:
        """Name the corpus, for messages."""
        return f"a corpus in memory of {self.documents():,} documents"


class PreparedCorpus(Corpus):
    """A corpus in a folder that `prepare` wrote. No more of it is read than batches take.

    Attributes: those of `Corpus`; `path`; `manifest`, what manifest.json holds.

    Args:
        path: The folder; use `load_corpus`.
        manifest: Its manifest.
    """

    def __init__(self, path: Path, manifest: dict):
        tokenizer = load_tokenizer(path / TOKENIZER)
        super().__init__(tokenizer, manifest["classes"], tuple(manifest["columns"]), {}, manifest.get("labels"))
        self.path = path
        self.manifest = manifest
        self._open = functools.cache(self._open_split)

    def __getitem__(self, split: str) -> Mapping[str, Ragged | np.ndarray]:
        """Return the fields of a split, "train" or "validation"."""
        check_one_of(SPLITS, split=split)
        return self._open(split)

    def _open_split(self, split: str) -> dict[str, Ragged | np.ndarray]:
        fields = {}
        for name, kind in self.manifest["splits"][split]["fields"].items():
            values = StoredArray(self.path / split / f"{name}.bin", kind["dtype"])
            if kind["ragged"]:
                fields[name] = Ragged(values, StoredArray(self.path / split / f"{name}.starts.bin", "int64").whole())
            else:
                fields[name] = values.whole()
        return fields

    def documents(self, split: str = "train") -> int:
        """Return the number of documents of a split, "train" or "validation"."""
        check_one_of(SPLITS, split=split)
        return self.manifest["splits"][split]["documents"]

    def tokens(self, split: str = "train") -> int:
        """Return the number of tokens of a split, [CLS] and [SEP] included."""
        check_one_of(SPLITS, split=split)
        return self.manifest["splits"][split]["tokens"]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, which holds those of all files."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()

    def verify(self) -> None:
        """Read every file once and compare it with its SHA-256.

        Raises:
            ValueError: For a damaged or missing file; names it.
        """
        for name, file in self.manifest["files"].items():
            check_digest(self.path / name, file["sha256"])

    def __str__(self) -> str:
        """Name the corpus, for messages."""
        return repr(str(self.path))


# The name in 0.1.
PreparedTexts = PreparedCorpus


def is_prepared(path: str | os.PathLike) -> bool:
    """Return whether `path` is a folder that `prepare` wrote."""
    return (Path(path) / MANIFEST).is_file()


def load_corpus(path: str | os.PathLike) -> PreparedCorpus:
    """Open a folder that `prepare` wrote. Arrays are not read yet: their files' presence and sizes are checked.

    Raises:
        ValueError: For a folder that is no such one, lacks a file, or has one of another size; names it. For a folder
            that version 0.1 wrote; says how to prepare it again.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] == 1:
            raise _old_format(path, manifest)
        if manifest["format"] != FORMAT:
            raise KeyError("another format")
        files = {name: (file["bytes"], file["sha256"]) for name, file in manifest["files"].items()}
        if not {"classes", "columns"} <= set(manifest) or not set(SPLITS) <= set(manifest["splits"]):
            raise KeyError("a part is missing")
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"`path` must be a folder that `prepare` wrote, but its {MANIFEST} cannot be read. "
            f"Received: path={str(path)!r}"
        ) from error
    for name, (size, _) in files.items():
        check_size(path / name, size)
    for name, (_, sha256) in files.items():
        if name == TOKENIZER or name.endswith(CHECKSUMS):  # The small files, by which the others are checked.
            check_digest(path / name, sha256)
    return PreparedCorpus(path, manifest)


# The name in 0.1.
load_prepared = load_corpus


def _old_format(path: Path, manifest: dict) -> ValueError:
    settings = manifest["settings"]
    arguments = [settings["source"], "--output", str(path), "--overwrite"]
    for name in ("vocabulary_size", "validation_fraction", "seed"):  # The columns' names are not among the settings.
        if name in settings:
            arguments += [f"--{name.replace('_', '-')}", str(settings[name])]
    if manifest.get("classes") is None:
        arguments.append("--unlabelled")
    return ValueError(
        "`path` was prepared by krpe_tf 0.1, whose TFRecord shards this version does not read; prepare it again: "
        f"python -m krpe_tf prepare {shlex.join(arguments)}. Received: path={str(path)!r}"
    )


def build_corpus(
    data: LabelledTexts | Source | Iterable[dict],
    encoding: Encoding = LABELLED_TEXTS,
    *,
    validation: LabelledTexts | Source | Iterable[dict] | float | None = None,
    tokenizer: Tokenizer | str | None = None,
    vocabulary_size: int = 8192,
    cased: bool = False,
    seed: int = 0,
) -> Corpus:
    """Make a corpus in memory.

    Args:
        data: The documents to train on: labelled texts, a source, or rows, each a value by column. Rows of a source
            without a visible text are left out. The log counts these, every label, and equal texts.
        encoding: How rows become arrays.
        validation: The documents to validate by; or the share of `data` to hold out: of a source as `prepare` does, of
            labelled texts as `split_holdout` does.
        tokenizer: Makes the ids. A string names what is learned from the documents to train on, see `learn_tokenizer`;
            None is WordPiece.
        vocabulary_size: Tokens to learn, at most.
        cased: Learn a tokenizer that keeps upper case and accents.
        seed: For what is held out, 0 or more.

    Raises:
        ValueError: For bad texts, no documents, fewer than two labels, or numbers out of range.
    """
    check_at_least(0, seed=seed)
    rows, survey = deal_in_memory(data, encoding, validation, seed)
    classes = survey.classes("data")
    if tokenizer is None or isinstance(tokenizer, str):
        texts = [encoding.text(row) for row, split in rows if split == "train"]
        tokenizer = learn_tokenizer(texts, vocabulary_size, cased, tokenizer or "wordpiece")
    found = {split: {} for split in SPLITS}
    for fields, splits in encode_in_parallel(rows, encoding, tokenizer, classes):
        for name, values in fields.items():
            for value, split in zip(values, splits, strict=True):
                found[split].setdefault(name, []).append(value)
    names = {name: np.ndim(values[0]) for name, values in found["train"].items()}
    arrays = {
        split: {
            name: Ragged.join(fields.get(name, [])) if ragged else np.array(fields.get(name, []), "int32")
            for name, ragged in names.items()
        }
        for split, fields in found.items()
    }
    return Corpus(tokenizer, classes, encoding.columns, arrays, survey.labels)


def _without_effect(**arguments) -> None:
    for name, value in arguments.items():
        if value is not None:
            warnings.warn(
                f"`{name}` has no effect since 0.2: an epoch is one permutation of all windows or documents.",
                DeprecationWarning,
                stacklevel=3,
            )
