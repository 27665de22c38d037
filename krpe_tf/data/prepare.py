"""From texts to a folder of flat arrays of token ids to train from, for a corpus that need not fit in memory.

`prepare` writes a folder, whole or not at all; `load_corpus` opens it:

manifest.json                settings, columns, classes, fields; size and SHA-256 of every file
tokenizer.json               the vocabulary
train/token_ids.bin          the ids of all documents, [CLS] and [SEP] included, one after the other: uint16, or int32
                             for a vocabulary of more than 65,536 tokens
train/token_ids.starts.bin   int64, where each document begins there, and at last the number of ids
train/label.bin              int32, the class id of each document, where there are labels
train/*.crc32                uint32, the CRC-32 of each 64 KiB block of the file of that name
validation/                  the same of the texts held out
"""

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from ..checks import check_at_least
from ..files import staged
from ..text import Tokenizer, is_visible, learn_tokenizer
from .corpus import FORMAT, MANIFEST, TOKENIZER, PreparedCorpus, load_corpus
from .encoding import LABELLED_TEXTS, TEXTS, Encoding, encode_in_parallel
from .folders import look_into
from .sources import Source, open_source
from .splits import SPLITS
from .store import ArrayWriter, digest
from .survey import LEFT_OUT, DealtRows, Survey

logger = logging.getLogger(__name__)

CONTENTS = (MANIFEST, TOKENIZER, *SPLITS)


# Long: the public arguments of 0.1, each of which the command line offers.
def prepare(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    vocabulary_size: int = 8192,
    cased: bool = False,
    tokenizer: Tokenizer | str | None = None,
    labelled: bool | None = None,
    text_column: str = "text",
    label_column: str = "label",
    validation_fraction: float = 0.05,
    num_shards: int | None = None,
    vocabulary_bytes: int = 2**24,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    encoding: Encoding | None = None,
    names: Mapping[str, str] | None = None,
) -> PreparedCorpus:
    """Turn texts into a vocabulary and flat arrays of token ids, tokenized in parallel.

    No more is in memory at a time than the sample that the vocabulary is learned from, the texts being tokenized, and
    80 bytes of each document while equal texts are sought, 14 after that (of a pair 90 and 22); of a folder also the
    paths of its files.

    Documents without any text are left out; equal texts are held out together. The log counts both, and lists every
    label with its number of documents before anything is learned.

    Args:
        source: A folder of .txt files, a .csv, .tsv, .jsonl or .conll file, or two aligned files, see `open_source`. A
            folder's files are taken in random order, a file's rows as they stand.
        output: The folder to write.
        vocabulary_size: Tokens to learn, at most.
        cased: Learn a tokenizer that keeps upper case and accents.
        tokenizer: Use this one; nothing is learned then. A string names what is learned, see `learn_tokenizer`; None is
            WordPiece.
        labelled: Whether texts have labels: a folder's subfolders, or `label_column`. None means for a folder: if most
            of its .txt files lie one folder down, in two or more; and for a file: yes.
        text_column, label_column: The columns or keys of a file; no matter for a folder.
        validation_fraction: Share of each label's documents to hold out, in [0, 1).
        num_shards: Deprecated, without effect: there are no shards.
        vocabulary_bytes: The vocabulary is learned from about this much of the training texts, drawn at random.
        seed: For the order, the texts held out, and those the vocabulary is learned from.
        overwrite: Replace what `prepare` wrote at `output`.
        progress: Show a bar.
        encoding: How rows become arrays; None: `LABELLED_TEXTS` or `TEXTS`, as `labelled` says.
        names: What a file calls its other columns, where it is another name: `{"tokens": "words"}`.

    Returns:
        What was written, opened.

    Raises:
        ValueError: For a source that is missing, has no texts, too few to hold some out, or one that is not valid; for
            numbers out of range; for an output that is there already or cannot be made. Nothing is written then.
        OSError: If the disk is full or fails; names `output`. Nothing is left of it.
    """
    check_at_least(32, vocabulary_size=vocabulary_size)
    check_at_least(0, seed=seed)
    check_at_least(1, vocabulary_bytes=vocabulary_bytes)
    if num_shards is not None:
        check_at_least(1, num_shards=num_shards)
        warnings.warn(
            "`num_shards` has no effect since 0.2: a split is one file, and any number of processes reads its rows of "
            "a batch from it.",
            DeprecationWarning,
            stacklevel=2,
        )
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"`validation_fraction` must lie in [0, 1). Received: validation_fraction={validation_fraction}"
        )
    output = Path(output)
    check_free(output, overwrite)
    paths = [source] if isinstance(source, str | os.PathLike) else [*source]
    encoding = _choose_encoding(Path(paths[0]), labelled, encoding)
    renamed = {"text": text_column, "label": label_column}
    renamed = {column: name for column, name in renamed.items() if name != column and column in encoding.columns}
    names = {**renamed, **(names or {})}
    options = {"argument": "source", "seed": seed, "optional": encoding.optional}
    documents = open_source(source, encoding.columns, names, **options)
    settings = {
        "source": " ".join(map(str, paths)),
        "vocabulary_size": vocabulary_size,
        "vocabulary_bytes": vocabulary_bytes,
        "cased": cased,
        "validation_fraction": validation_fraction,
        "seed": seed,
    }
    make_parent(output)
    with staged(output, overwrite, contents=CONTENTS) as folder:
        _prepare_into(folder, documents, encoding, tokenizer, settings, progress)
    return load_corpus(output)


def check_free(output: Path, overwrite: bool) -> None:
    """Raise a ValueError unless a folder may be written here."""
    if os.path.lexists(output) and not (overwrite and output.is_dir()):
        raise ValueError(
            "`output` must be free, or a folder to overwrite, with overwrite=True (--overwrite). "
            f"Received: output={str(output)!r}"
        )


def make_parent(output: Path) -> None:
    """Make the folder that is to hold `output`; raise a ValueError if it cannot be made."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"`output` must be a folder that can be written ({error.strerror}). Received: output={str(output)!r}"
        ) from error


def _choose_encoding(source: Path, labelled: bool | None, encoding: Encoding | None) -> Encoding:
    if encoding is not None:
        if labelled not in (None, encoding.label is not None):
            raise ValueError(
                f"`labelled` must agree with `encoding` (--unlabelled with --task). Received: labelled={labelled} and "
                f"an encoding of {', '.join(encoding.columns)}"
            )
        return encoding
    if labelled is None and source.is_dir():
        labelled = look_into(source, "source").has_labels
        if not labelled:
            logger.info(
                "%s is read without labels: most of its .txt files do not lie one folder down, in two folders or more",
                source,
            )
    return TEXTS if labelled is False else LABELLED_TEXTS


def _prepare_into(
    folder: Path, source: Source, encoding: Encoding, tokenizer: Tokenizer | str | None, settings: dict, progress: bool
) -> None:
    """Write everything into a new folder."""
    seed, fraction = settings["seed"], settings["validation_fraction"]
    folder.mkdir()
    survey = Survey(source, encoding)
    if not survey.visible.any():
        raise ValueError(f"`source` must hold texts. Received: source={settings['source']!r}")
    classes = survey.classes("source")
    survey.check_copied("source")
    splits = survey.deal(fraction, seed, "source")
    if fraction:
        splits = survey.hold_some_out(splits)
    survey.log(splits, source.path)
    left_out = int(np.sum(splits == LEFT_OUT))
    if fraction and not np.any(splits == SPLITS.index("validation")):
        raise ValueError(
            "`source` must hold enough different texts to hold some out, or pass validation_fraction=0. "
            f"Received: validation_fraction={fraction}, {survey.documents - left_out} texts"
        )
    rows = DealtRows(source, splits)
    if tokenizer is None or isinstance(tokenizer, str):
        texts = encoding.learned_from(row for row, split in rows if split == "train")
        sample = _sample(texts, source.bytes, settings)
        tokenizer = learn_tokenizer(sample, settings["vocabulary_size"], settings["cased"], tokenizer or "wordpiece")
        del sample
    tokenizer.save(folder / TOKENIZER)
    splits, files = _write(folder, rows, encoding, tokenizer, classes, survey.documents - left_out, progress)
    saved = folder / TOKENIZER
    manifest = {
        "format": FORMAT,
        "settings": settings,
        "columns": encoding.columns,
        "classes": classes,
        "labels": survey.labels,
        "left_out": left_out,
        "splits": splits,
        "files": {TOKENIZER: {"bytes": saved.stat().st_size, "sha256": digest(saved)}, **files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    load_corpus(folder).log_unknown()


def _sample(texts: Iterable[str], source_bytes: int, settings: dict) -> list[str]:
    """Return about `vocabulary_bytes` of texts drawn at random from a source of so many bytes."""
    random = np.random.default_rng([settings["seed"], 2])
    room = settings["vocabulary_bytes"]
    share, sample = min(1.0, room / max(1, source_bytes)), []
    for text in texts:
        # With few documents, each long, the share may miss them all: the first is taken in any case, as far as fits.
        if random.random() < share or not sample:
            text = text[:room]
            if is_visible(text):
                sample.append(text)
                room -= len(text)
        if not room:
            break
    if not sample:
        raise ValueError(
            "`vocabulary_bytes` must reach the first words of a text. "
            f"Received: vocabulary_bytes={settings['vocabulary_bytes']}"
        )
    return sample


def _write(
    folder: Path,
    rows: DealtRows,
    encoding: Encoding,
    tokenizer: Tokenizer,
    classes: list[str] | None,
    count: int,
    progress: bool,
) -> tuple[dict[str, dict], dict[str, dict]]:
    """Encode in parallel and write the arrays; return what the manifest says of the splits and of the files."""
    bar = keras.utils.Progbar(count, unit_name="document", verbose=int(progress))
    done = 0
    with contextlib.ExitStack() as stack:
        writers = {split: stack.enter_context(SplitWriter(folder / split)) for split in SPLITS}
        for fields, splits in encode_in_parallel(rows, encoding, tokenizer, classes):
            for name, values in fields.items():
                ids = name in encoding.ids and tokenizer.vocabulary_size <= 2**16
                for split, writer in writers.items():
                    mine = [value for value, of in zip(values, splits, strict=True) if of == split]
                    writer.write(name, mine, "uint16" if ids else "int32", ragged=bool(np.ndim(values[0])))
            done += len(splits)
            bar.update(min(done, count - 1))
        found = {split: writer.finish() for split, writer in writers.items()}
    bar.update(count, finalize=True)
    files = {f"{split}/{name}": file for split, (_, files) in found.items() for name, file in files.items()}
    return {split: summary for split, (summary, _) in found.items()}, files


class SplitWriter:
    """The files of a split while they are written."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._values, self._starts, self._counts, self._totals = {}, {}, {}, {}

    def __enter__(self) -> "SplitWriter":
        """Make the folder."""
        self._folder.mkdir()
        return self

    def __exit__(self, *error) -> None:
        """Close the files; what was not finished is no split."""
        for file in (*self._values.values(), *self._starts.values()):
            file.close()

    def write(self, name: str, values: list, dtype: str, ragged: bool) -> None:
        """Append what some documents have of a field: arrays, or integers."""
        if name not in self._values:
            self._values[name] = ArrayWriter(self._folder / f"{name}.bin", dtype)
            self._counts[name] = self._totals[name] = 0
            if ragged:
                self._starts[name] = ArrayWriter(self._folder / f"{name}.starts.bin", "int64")
                self._starts[name].write(np.zeros(1, "int64"))
        if not values:
            return
        self._counts[name] += len(values)
        if ragged:
            ends = self._totals[name] + np.cumsum([len(value) for value in values])
            self._totals[name] = int(ends[-1])
            self._starts[name].write(ends)
            values = np.concatenate(values)
        self._values[name].write(np.asarray(values))

    def finish(self) -> tuple[dict, dict[str, dict]]:
        """Write what is left; return what the manifest says of the split and of its files."""
        files = {}
        for writer in (*self._values.values(), *self._starts.values()):
            files.update({f"{writer.path.name}{suffix}": file for suffix, file in writer.finish().items()})
        fields = {
            name: {"dtype": writer.dtype.name, "ragged": name in self._starts} for name, writer in self._values.items()
        }
        summary = {
            "documents": max(self._counts.values(), default=0),
            "tokens": max(self._totals.values(), default=0),
            "fields": fields,
        }
        return summary, files
