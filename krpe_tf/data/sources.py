"""A user's rows: of a file, of two aligned ones, or of a folder of .txt files, column by column."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..text import is_visible, split_at_spaces
from .folders import look_into, read_text
from .readers import (
    PAIR,
    WITHOUT_LABELS,
    has_no_header,
    not_utf8,
    read_aligned,
    read_conll,
    read_csv,
    read_jsonl,
    read_tsv,
)

logger = logging.getLogger(__name__)

# By the file's extension, what reads its rows: each with its place, and the values by column.
READERS = {".csv": read_csv, ".tsv": read_tsv, ".jsonl": read_jsonl, ".conll": read_conll}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string as text, a string or integer as label")
    try:
        value.encode("utf-8")  # JSON can hold lone surrogates.
    except UnicodeError as error:
        raise ValueError(f"valid UTF-8 ({error.reason})") from error
    return value


def _label(value: object) -> str:
    label = str(value) if isinstance(value, int) else _text(value)
    if not is_visible(label):
        raise ValueError("no row with an empty label")
    return label.strip()


def _document(value: object) -> str | None:
    """Return the name of a document; None, a row by itself, for null and an empty cell."""
    if value is None or (isinstance(value, str) and not is_visible(value)):
        return None
    if not isinstance(value, (str, int)):
        raise ValueError("a string or integer as document")
    return _text(str(value)).strip()


def _sentence(name: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"a string as {name}")
        if not is_visible(_text(value)):
            raise ValueError(f"no row with an empty {name}")
        return value.strip()

    return parse


def _list_of(values: str) -> Callable[[object], list[str]]:
    def parse(value: object) -> list[str]:
        rule = f"{values}, none empty: a list of strings or, in a .csv file, words between spaces or a JSON list"
        if isinstance(value, str):
            try:
                # A list as Python prints it, ['EU', ...], is not JSON; its pieces would pass for words.
                value = json.loads(value) if value.lstrip().startswith(('["', "['")) else split_at_spaces(value)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{rule} ({error})") from error
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and is_visible(v) for v in value):
            raise ValueError(rule)
        return [_text(each).strip() for each in value]

    return parse


# By column, what makes a value of what a file holds, or raises a ValueError of what the file must hold.
COLUMNS = {
    "text": _text,
    "label": _label,
    "tokens": _list_of("words as tokens"),
    "labels": _list_of("a label for each token"),
    "source": _sentence("source"),
    "target": _sentence("target"),
    "document": _document,
}


@dataclass(frozen=True)
class Row:
    """A row: `place`, where it stands, for messages; `values`, by column."""

    place: str
    values: dict[str, Any]


class Source:
    """Rows of a file or a folder, as often as wanted in the same order; make one with `open_source`.

    Iterating over it gives each row's values, by column.

    Attributes: `path`, for two files the first; `columns`, those that every row has; `bytes`, the size of all that is
    read; `argument`, what messages call the path.

    Args:
        path, columns, argument: See above.
        read: Returns an iterator over the rows as they are found: the place of each, and what it holds by column.
        bytes: See above.
    """

    def __init__(
        self,
        path: Path,
        columns: tuple[str, ...],
        argument: str,
        read: Callable[[], Iterator[tuple[str, dict]]],
        bytes: int,
    ):
        self.path = path
        self.columns = columns
        self.argument = argument
        self.bytes = bytes
        self._read = read

    def __iter__(self) -> Iterator[dict]:
        """Iterate over the values of the rows; see `rows`."""
        return (row.values for row in self.rows())

    def rows(self) -> Iterator[Row]:
        """Read the rows.

        Raises:
            ValueError: For what cannot be read, is not valid UTF-8, CSV or JSON, lacks a column or has it twice, or
                holds a value that its column does not take; names the file and the row or the line.
        """
        try:
            for place, found in self._read():
                yield Row(place, self._parse(place, found))
        except OSError as error:
            place = error.filename or self.path
            raise ValueError(
                f"`{self.argument}` must be a readable file ({error.strerror}). Received: {place}"
            ) from error
        except UnicodeDecodeError as error:
            raise not_utf8(self.path, self.argument, error.reason) from error

    def _parse(self, place: str, found: Mapping[str, object]) -> dict[str, Any]:
        """Return the values of a row, or raise a ValueError that names its place."""
        try:
            values = {column: COLUMNS[column](value) for column, value in found.items()}
        except ValueError as error:
            raise ValueError(f"`{self.argument}` must hold {error}. Received: {place}") from error
        if {"tokens", "labels"} <= set(values) and len(values["tokens"]) != len(values["labels"]):
            raise ValueError(
                f"`{self.argument}` must hold one label per token. Received: {place} with {len(values['tokens'])} "
                f"tokens and {len(values['labels'])} labels"
            )
        return values


def open_source(
    path: str | Path | Sequence[str | Path],
    columns: Iterable[str],
    names: Mapping[str, str] | None = None,
    *,
    argument: str = "path",
    seed: int | None = None,
    optional: Iterable[str] = (),
) -> Source:
    """Open a user's documents.

    Args:
        path: A .csv or .tsv file with a header, a .jsonl file with an object per line, a .conll file, or a folder of
            .txt files (in any case), at any depth; for labels with one subfolder for each, and no deeper. All UTF-8.
            What else lies in a folder is logged; hidden files, and links to folders, are not looked into. A .conll file
            has a token per line, first the word and last its label, with white space between, and an empty line between
            sentences; the marker -DOCSTART- is no sentence, and comments of CoNLL-U (`# id ...`, `# text = ...`) before
            a sentence are skipped. A .tsv file has cells between tabs, without quotation; of pairs it needs no header,
            if it has two columns. Two paths: files of any name, one with a source in each line, one with the target.
        columns: Which columns to read, of `COLUMNS`; a folder has "text" and "label", a .conll file "tokens" and
            "labels", two files "source" and "target".
        names: What the file calls its columns, where it is another name: `{"text": "body"}`.
        argument: What messages call the path.
        seed: Take a folder's files in random order; None for the order of their sorted paths. A file's rows are taken
            as they stand.
        optional: Columns that are read if the file has them; those of `names` it must have.

    Raises:
        ValueError: For a name of a column that is not read, two columns of one name, or one file given twice; for a
            path that is missing, has an unknown extension, or is a folder that lacks a column, is to give labels and
            has no texts, or of which most files would not be read; for an unknown column.
    """
    columns, names = tuple(columns), dict(names or {})
    unknown = [column for column in (*columns, *names) if column not in COLUMNS]
    if unknown:
        raise ValueError(
            f"`columns` and `names` must be of columns among {', '.join(COLUMNS)}. Received: {', '.join(unknown)}"
        )
    given, optional = set(names), tuple(optional)
    read = (*columns, *optional)
    for column, name in names.items():
        if column not in read:
            raise ValueError(
                f"`{column}_column` must be left out: `{argument}` is read for {' and '.join(read)} alone. "
                f"Received: {column}_column={name!r}"
            )
    names = {column: names.get(column, column) for column in read}
    optional = [column for column in optional if column not in given]
    if twice := [column for column, name in names.items() if [*names.values()].count(name) > 1]:
        raise ValueError(
            f"{' and '.join(f'`{column}_column`' for column in twice)} must be different columns. "
            f"Received: {names[twice[0]]!r}"
        )
    if not isinstance(path, str | os.PathLike):
        return _open_aligned([Path(each) for each in path], columns, given, argument)
    path = Path(path)
    _check_kind(path, columns, argument)
    if path.is_dir():
        return _open_folder(path, columns, argument, seed)
    kind = path.suffix.lower()
    if kind == ".tsv" and has_no_header(path, names, optional):
        logger.info("%s has no header that names columns: its first column is the source, its second the target", path)
    return Source(path, columns, argument, lambda: READERS[kind](path, names, argument, optional), path.stat().st_size)


def _open_aligned(paths: list[Path], columns: tuple[str, ...], given: set[str], argument: str) -> Source:
    """Open two files, a sentence in each line; `given` are the columns that were given a name."""
    received = f"Received: {argument}={' '.join(map(str, paths))!r}"
    if set(columns) != set(PAIR):
        raise ValueError(
            f"`{argument}` must be one path. Two files have {' and '.join(PAIR)}, which is what --task translation "
            f"takes. {received}"
        )
    if len(paths) != 2 or not all(path.is_file() for path in paths):
        raise ValueError(
            f"`{argument}` must be one path, or two files that exist: a source in each line of the first, its target "
            f"in that of the second. {received}"
        )
    for column in sorted(given):
        raise ValueError(f"`{column}_column` must be left out with two files, whose columns have no names. {received}")
    if paths[0].samefile(paths[1]):
        raise ValueError(f"`{argument}` must be two different files. {received}")
    size = sum(path.stat().st_size for path in paths)
    return Source(paths[0], columns, argument, lambda: read_aligned(paths, argument), size)


def _open_folder(path: Path, columns: tuple[str, ...], argument: str, seed: int | None) -> Source:
    labelled = "label" in columns
    files, unread = look_into(path, argument).choose(labelled, argument)
    if labelled and not files:
        raise ValueError(
            f"`{argument}` must hold texts, it has no .txt files in subfolders, one for each label. {WITHOUT_LABELS} "
            f"Received: {argument}={str(path)!r}"
        )
    if unread:
        logger.warning("%s: %s", path, unread)
    if seed is not None:
        files = [files[place] for place in np.random.default_rng([seed, 0]).permutation(len(files))]

    def read() -> Iterator[tuple[str, dict]]:
        for parts in files:
            place = os.path.join(path, *parts)
            row = {"text": read_text(place, argument), "label": parts[0]}
            yield place, {column: row[column] for column in columns}

    try:
        size = sum(os.stat(os.path.join(path, *parts)).st_size for parts in files)
    except OSError as error:  # A link that leads nowhere.
        raise ValueError(
            f"`{argument}` must be a readable file ({error.strerror}). Received: {error.filename}"
        ) from error
    return Source(path, columns, argument, read, size)


def _check_kind(path: Path, columns: tuple[str, ...], argument: str) -> None:
    """Raise a ValueError unless `path` is there, and of a kind that has these columns."""
    received = f"Received: {argument}={str(path)!r}"
    if path.is_dir():
        kind, found = "a folder", ("text", "label")
    elif not path.is_file():
        raise ValueError(f"`{argument}` must be a file or a folder that exists. {received}")
    elif path.suffix.lower() not in READERS:
        raise ValueError(
            f"`{argument}` must be a .csv file, a .tsv file, a .jsonl file, a .conll file or a folder, or two files "
            f"for --task translation. {received}"
        )
    elif path.suffix.lower() == ".conll":
        kind, found = "a .conll file", ("tokens", "labels")
    else:
        return
    missing = [column for column in columns if column not in found]
    if missing:
        raise ValueError(
            f"`{argument}` must have {' and '.join(columns)}; {kind} has {' and '.join(found)}, which is what "
            f"--task {'token_classification' if 'tokens' in found else 'text_classification'} takes. {received}"
        )
