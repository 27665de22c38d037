"""From a folder of texts to shards of token ids to train from, for a corpus that need not fit in memory.

`prepare` writes a folder, whole or not at all; `load_prepared` opens it:

manifest.json    settings, classes, and of every shard its size, documents and tokens
tokenizer.json   the vocabulary
train/           00000.tfrecord ..., a `tf.train.Example` a document: int64 "token_ids", [CLS] and [SEP] included, and
                 int64 "label" where there are labels; lengths.npy, int32, every document's token count, shard by shard
validation/      the same of the texts held out
"""

import array
import contextlib
import errno
import heapq
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

from ..checks import check_at_least
from ..files import staged
from ..text import Tokenizer, WordPieceTokenizer, is_visible, train_wordpiece
from .corpus import FORMAT, MANIFEST, SPLITS, PreparedTexts, load_prepared
from .sources import _csv_rows, _jsonl_rows

logger = logging.getLogger(__name__)

CONTENTS = (MANIFEST, "tokenizer.json", *SPLITS)

# What one call of the tokenizer takes: many are under way at a time, so that bounds memory.
CHUNK_TEXTS, CHUNK_CHARACTERS = 64, 2**20

# The default: 8 shards, or as many as have 64 MiB of text each, but files stay open while they are written.
SHARD_BYTES, MOST_SHARDS = 64 * 2**20, 256


def prepare(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    vocabulary_size: int = 8192,
    tokenizer: Tokenizer | None = None,
    labelled: bool | None = None,
    text_column: str = "text",
    label_column: str = "label",
    validation_fraction: float = 0.05,
    num_shards: int | None = None,
    vocabulary_bytes: int = 2**24,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> PreparedTexts:
    """Turn texts into a vocabulary and shards of token ids, tokenized in parallel.

    No more is in memory at a time than the sample that the vocabulary is learned from, the texts being tokenized, and
    4 bytes a document; of a folder also the paths of its files. Documents without any text are left out and counted.

    Args:
        source: A folder of .txt files, at any depth (hidden ones are skipped); or a .csv or .jsonl file, see
            `load_labelled_texts`. All UTF-8. A folder's files are taken in random order, a file's rows as they stand.
        output: The folder to write.
        vocabulary_size: WordPiece tokens to learn, at most.
        tokenizer: Use this one; nothing is learned then.
        labelled: Whether texts have labels: a folder's subfolders, or `label_column`. None means for a folder: if all
            its .txt files lie one folder down, in two or more; and for a file: yes.
        text_column, label_column: The columns or keys of a file; no matter for a folder.
        validation_fraction: Share of each label's documents to hold out, in [0, 1).
        num_shards: Shards of each split; a number that the number of processes divides. None: 8, or more for over
            512 MiB of text, but at most 256. A document goes to the shard with the fewest tokens so far.
        vocabulary_bytes: The vocabulary is learned from about this much of the training texts, drawn at random.
        seed: Of the order, the texts held out, and those the vocabulary is learned from.
        overwrite: Replace what `prepare` wrote at `output`.
        progress: Show a bar.

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
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction must lie in [0, 1). Received: {validation_fraction=}")
    output = Path(output)
    if os.path.lexists(output) and not (overwrite and output.is_dir()):
        raise ValueError(
            "output must be free, or a folder to overwrite, with overwrite=True (--overwrite). "
            f"Received: output={str(output)!r}"
        )
    texts = _Source(source, labelled, text_column, label_column, seed)
    if num_shards is None:
        num_shards = max(8, min(MOST_SHARDS, 8 * math.ceil(texts.bytes / (8 * SHARD_BYTES))))
    settings = {
        "source": str(source),
        "vocabulary_size": vocabulary_size,
        "vocabulary_bytes": vocabulary_bytes,
        "validation_fraction": validation_fraction,
        "num_shards": num_shards,
        "seed": seed,
    }
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"output must be a folder that can be written ({error.strerror}). Received: output={str(output)!r}"
        ) from error
    with staged(output, overwrite, contents=CONTENTS) as folder:
        _prepare_into(folder, texts, tokenizer, settings, progress)
    return load_prepared(output)


def _prepare_into(folder, texts, tokenizer, settings, progress):
    """Writes everything into a new folder."""
    seed, fraction = settings["seed"], settings["validation_fraction"]
    folder.mkdir()
    sample_bytes = 0 if tokenizer else settings["vocabulary_bytes"]
    classes, count, sample = _survey(texts, _holdout(fraction, seed), sample_bytes, seed)
    if tokenizer is None:
        logger.info("learning a vocabulary of up to %d tokens from %d texts", settings["vocabulary_size"], len(sample))
        tokenizer = WordPieceTokenizer(train_wordpiece(sample, settings["vocabulary_size"]))
    del sample
    tokenizer.save(folder / "tokenizer.json")
    splits, left_out = _write(
        texts, folder, tokenizer, classes, _holdout(fraction, seed), settings["num_shards"], count, progress
    )
    if left_out:
        logger.info("%d documents without text were left out", left_out)
    if not splits["train"]["documents"]:
        raise ValueError(f"source must hold texts. Received: source={settings['source']!r}")
    if fraction and not splits["validation"]["documents"]:
        raise ValueError(
            "source must hold enough texts to hold some out, or pass validation_fraction=0. "
            f"Received: validation_fraction={fraction}, {splits['train']['documents']} texts"
        )
    manifest = {"format": FORMAT, "settings": settings, "classes": classes, "left_out": left_out, "splits": splits}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


class _Source:
    """Texts with their labels, from a folder or a file, as often as wanted in the same order."""

    def __init__(self, path, labelled, text_column, label_column, seed):
        self.path = Path(path)
        self.bytes = 0
        if self.path.is_dir():
            self._files = self._find(labelled, seed)
            self.bytes = sum(file.stat().st_size for file, _ in self._files)
        elif not self.path.is_file():
            raise ValueError(f"source must be a file or a folder that exists. Received: source={str(path)!r}")
        elif self.path.suffix.lower() not in (".csv", ".jsonl"):
            raise ValueError(f"source must be a .csv file, a .jsonl file or a folder. Received: source={str(path)!r}")
        else:
            self._files = None
            self._columns = text_column, None if labelled is False else label_column
            self.bytes = self.path.stat().st_size

    def _find(self, labelled, seed):
        found = []
        for file in sorted(self.path.rglob("*.txt")):
            parts = file.relative_to(self.path).parts
            if file.is_file() and not any(part.startswith(".") for part in parts):
                found.append((file, parts))
        one_down = all(len(parts) == 2 for _, parts in found) and len({parts[0] for _, parts in found}) > 1
        if labelled and not one_down:
            raise ValueError(
                "source must hold all its .txt files in two subfolders or more, one for each label. "
                f"Received: source={str(self.path)!r}"
            )
        by_label = one_down if labelled is None else labelled
        order = np.random.default_rng([seed, 0]).permutation(len(found))
        return [(found[place][0], found[place][1][0] if by_label else None) for place in order]

    def rows(self, wanted: Callable[[str | None], bool]) -> Iterator[tuple[str | None, str | None]]:
        """Every document's text, None where its label is not wanted, and label."""
        if self._files is not None:
            for file, label in self._files:
                yield (self._read(file) if wanted(label) else None), label
            return
        read = _csv_rows if self.path.suffix.lower() == ".csv" else _jsonl_rows
        try:
            for name, text, label in read(self.path, *self._columns):
                label = label and label.strip()
                if label == "" or (text is None):
                    raise ValueError(f"source must hold no row with an empty label. Received: {name}")
                yield (self._checked(text, name) if wanted(label) else None), label
        except OSError as error:
            raise ValueError(f"source must be a readable file ({error.strerror}). Received: {self.path}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"source must hold valid UTF-8 ({error.reason}). Received: {self.path}") from error

    def _read(self, file: Path) -> str:
        try:
            return file.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"source must hold readable files ({error.strerror}). Received: {file}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"source must hold valid UTF-8 ({error.reason}). Received: {file}") from error

    def _checked(self, text: str, name: str) -> str:
        try:
            text.encode("utf-8")  # JSON can hold lone surrogates.
        except UnicodeError as error:
            raise ValueError(f"source must hold valid UTF-8 ({error.reason}). Received: {name}") from error
        return text


def _holdout(fraction: float, seed: int) -> Callable[[str | None], bool]:
    """Whether to hold out the next document of a label: one in each run of 1 / fraction, at random, never the first."""
    labels = {}

    def held_out(label: str | None) -> bool:
        if not fraction:
            return False
        if label not in labels:
            entropy = [seed, 1, *(label or "").encode()]
            labels[label] = {"random": np.random.default_rng(entropy), "count": 0, "held": 0, "next": -1}
            _draw(labels[label])
        state = labels[label]
        held = state["count"] == state["next"]
        state["count"] += 1
        if held:
            _draw(state)
        return held

    def _draw(state: dict) -> None:
        chosen = math.floor((state["held"] + state["random"].random()) / fraction)
        state["next"] = max(chosen, state["next"] + 1, 1)
        state["held"] += 1

    return held_out


def _survey(texts: _Source, held_out: Callable, sample_bytes: int, seed: int) -> tuple[list[str] | None, int, list]:
    """The classes, the number of documents, and training texts of about `sample_bytes` in all, drawn at random."""
    random = np.random.default_rng([seed, 2])
    share = min(1.0, sample_bytes / max(1, texts.bytes))
    labels, count, sample, room = set(), 0, [], sample_bytes

    def wanted(label: str | None) -> bool:
        # With few documents, each long, the share may miss them all: the first is taken in any case, as far as fits.
        return not held_out(label) and room > 0 and (random.random() < share or not sample)

    for text, label in texts.rows(wanted):
        labels.add(label)
        count += 1
        if text is not None and is_visible(text):
            sample.append(text[:room])
            room -= len(sample[-1])
    if not count or (sample_bytes and not sample):
        raise ValueError(f"source must hold texts. Received: source={str(texts.path)!r}")
    if labels == {None}:
        return None, count, sample
    if len(labels) < 2:
        raise ValueError(f"source must hold two labels or more, all are {labels.pop()!r}. Received: {texts.path}")
    return sorted(labels), count, sample


def _write(texts, folder, tokenizer, classes, held_out, num_shards, count, progress):
    """Tokenizes in parallel and writes the shards; what the manifest says of the splits, and how many were left out."""
    import tensorflow as tf

    class_ids = {label: index for index, label in enumerate(classes or [])}
    failures, left_out = [], 0

    def chunks() -> Iterator[tuple[list[str], list[int], list[bool]]]:
        """Texts a few at a time, with class ids (-1: none) and whether they are held out. Keeps what goes wrong."""
        nonlocal left_out
        chunk, characters, held = [], 0, False

        def wanted(label: str | None) -> bool:
            nonlocal held
            held = held_out(label)
            return True

        try:
            for text, label in texts.rows(wanted):
                if not is_visible(text):
                    left_out += 1
                    continue
                chunk.append((text, class_ids.get(label, -1), held))
                characters += len(text)
                if len(chunk) == CHUNK_TEXTS or characters >= CHUNK_CHARACTERS:
                    yield tuple(zip(*chunk, strict=True))
                    chunk, characters = [], 0
            if chunk:
                yield tuple(zip(*chunk, strict=True))
        except ValueError as error:  # Through tf.data it would come out as an error of TensorFlow.
            failures.append(error)

    row = (tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.bool))
    tokenized = (
        tf.data.Dataset.from_generator(chunks, output_signature=row)
        .map(lambda texts, labels, held: (tokenizer.tokenize(texts), labels, held), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(2)
    )
    bar = keras.utils.Progbar(count, unit_name="document", verbose=int(progress))
    done = 0
    try:
        with contextlib.ExitStack() as stack:
            writers = {name: stack.enter_context(_Writers(folder, name, num_shards)) for name in SPLITS}
            for ids, labels, held in tokenized:
                documents = np.split(ids.flat_values.numpy(), ids.row_splits.numpy()[1:-1])
                for document, label, of_validation in zip(documents, labels.numpy(), held.numpy(), strict=True):
                    writers[SPLITS[int(of_validation)]].write(document, int(label))
                done += len(documents)
                bar.update(min(done, count - 1))
    except tf.errors.OpError as error:  # Of a writer: the disk is full, say.
        raise OSError(errno.EIO, error.message) from error
    if failures:
        raise failures[0]
    bar.update(count, finalize=True)
    return {name: each.summary() for name, each in writers.items()}, left_out


class _Writers:
    """The shards of a split while they are written; each document goes to the one with the fewest tokens."""

    def __init__(self, folder: Path, split: str, num_shards: int):
        self._folder, self._split = folder, split
        self._names = [f"{split}/{number:05}.tfrecord" for number in range(num_shards)]
        self._lengths = [array.array("i") for _ in self._names]
        self._fewest = [(0, number) for number in range(num_shards)]

    def __enter__(self):
        import tensorflow as tf

        (self._folder / self._split).mkdir()
        self._files = [tf.io.TFRecordWriter(str(self._folder / name)) for name in self._names]
        return self

    def __exit__(self, *error):
        for file in self._files:
            file.close()

    def write(self, ids: np.ndarray, label: int) -> None:
        import tensorflow as tf

        features = {"token_ids": tf.train.Feature(int64_list=tf.train.Int64List(value=ids.tolist()))}
        if label >= 0:
            features["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
        record = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
        tokens, number = self._fewest[0]
        self._files[number].write(record)
        self._lengths[number].append(len(ids))
        heapq.heapreplace(self._fewest, (tokens + len(ids), number))

    def summary(self) -> dict:
        """Writes the token counts; what the manifest says of this split."""
        np.save(
            self._folder / self._split / "lengths.npy", np.concatenate([np.array(x, "int32") for x in self._lengths])
        )
        shards = [
            {
                "file": name,
                "bytes": (self._folder / name).stat().st_size,
                "documents": len(lengths),
                "tokens": int(np.sum(lengths, dtype="int64")),
            }
            for name, lengths in zip(self._names, self._lengths, strict=True)
        ]
        total = {key: sum(shard[key] for shard in shards) for key in ("documents", "tokens")}
        return {**total, "shards": shards}
