"""Documents as arrays, to train on and to validate by: in memory, or in a folder that `prepare` wrote."""

import functools
import hashlib
import json
import logging
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..checks import check_one_of
from ..text import Tokenizer, learn_tokenizer, load_tokenizer
from .encoding import LABELLED_TEXTS, Encoding, encode_in_parallel
from .labelled import LabelledTexts
from .ragged import Ragged
from .sources import Source
from .splits import SPLITS
from .store import CHECKSUMS, StoredArray, check_digest, check_size
from .survey import Documents, deal_documents, log_labels
from .text_batches import CorpusBatches

logger = logging.getLogger(__name__)

FORMAT = 2

MANIFEST = "manifest.json"

TOKENIZER = "tokenizer.json"

# Of [UNK], text that a model never sees: the share to warn of, and how many ids are looked at, runs spread evenly.
WARN_ABOVE, LOOKED_AT = 0.05, 2**20

REMEDY = (
    "a larger --vocabulary-size may keep it, or a SentencePieceTokenizer, whose model the package sentencepiece trains "
    "(docs/data.md, Text that becomes [UNK])"
)


class Corpus(CorpusBatches):
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

    @property
    def splits(self) -> list[str]:
        """The splits to make batches of: "train", and "validation" if it holds documents."""
        return [split for split in SPLITS if split == "train" or self.documents(split)]

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
        """Log which share of the training documents' tokens is the unknown token, warn above 5 %, and return it.

        It is 0 for a tokenizer that gives every text back, of which nothing is said.

        Raises:
            ValueError: If it is all of them: there is nothing to train on.
        """
        tokenizer, fields = self.tokenizer, self["train"]
        # An encoding may give its ids another name.
        found = [fields.get("token_ids"), *(field for field in fields.values() if isinstance(field, Ragged))]
        token_ids = next((field for field in found if field is not None), None)
        if token_ids is None or tokenizer.reversible:
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
            logger.warning(
                "%.1f %% of the tokens are %s: text that the model cannot see; %s", 100 * share, name, REMEDY
            )
        else:
            logger.info("%.2f %% of the tokens are %s, text that the vocabulary cannot spell", 100 * share, name)
        return share

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
    return encode_documents(deal_documents(data, encoding, validation, seed), tokenizer, vocabulary_size, cased)


def encode_documents(
    documents: Documents, tokenizer: Tokenizer | str | None = None, vocabulary_size: int = 8192, cased: bool = False
) -> Corpus:
    """Make a corpus in memory of documents that are read and dealt already; for the arguments see `build_corpus`."""
    rows, encoding, classes = documents.rows, documents.encoding, documents.survey.classes("data")
    if tokenizer is None or isinstance(tokenizer, str):
        texts = list(encoding.learned_from(row for row, split in rows if split == "train"))
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
    return Corpus(tokenizer, classes, encoding.columns, arrays, documents.survey.labels)
