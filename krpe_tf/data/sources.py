"""A user's rows: of a .csv or .jsonl file, or of a folder of .txt files, column by column."""

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..text import is_visible, split_at_spaces

WITHOUT_LABELS = "Texts without labels are for masked LM: `prepare --unlabelled`, then train on the folder it writes."


# A comment before a sentence of a .conll file. Any other "#" is a word.
COMMENT = re.compile(r"#\s*(id|sent_id|text|newdoc|newpar|global\.columns)\b")


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and, place by place, their labels."""

    texts: list[str]
    labels: list[str]

    @cached_property
    def classes(self) -> list[str]:
        """The distinct labels, sorted: a label's place is its class id."""
        return sorted(set(self.labels))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string as text, a string or integer as label")
    try:
        value.encode("utf-8")  # JSON can hold lone surrogates.
    except UnicodeError as error:
        raise ValueError(f"valid UTF-8 ({error.reason})") from error
    return value


def _label(value: object) -> str:
    if isinstance(value, str) and not value.strip():
        raise ValueError("no row with an empty label")
    if not isinstance(value, (str, int)):
        raise ValueError("a string as text, a string or integer as label")
    return str(value).strip()


@dataclass(frozen=True)
class Column:
    """A kind of column.

    Attributes: `parse`, which makes a value of what a .csv or .jsonl file holds, or raises a ValueError of what the
    file must hold; `hint`, which is added to the error where the column is missing.
    """

    parse: Callable[[object], Any]
    hint: str = ""


def _list_of(values: str, check: Callable[[str], bool]) -> Callable[[object], list[str]]:
    def parse(value: object) -> list[str]:
        rule = f"{values}, none empty: a list of strings or, in a .csv file, words between spaces or a JSON list"
        if isinstance(value, str):
            try:
                # A list as Python prints it, ['EU', ...], is not JSON; its pieces would pass for words.
                value = json.loads(value) if value.lstrip().startswith(('["', "['")) else split_at_spaces(value)
            except json.JSONDecodeError as error:
                raise ValueError(f"{rule} ({error})") from error
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and check(v) for v in value):
            raise ValueError(rule)
        return [_text(each).strip() for each in value]

    return parse


COLUMNS = {
    "text": Column(_text),
    "label": Column(_label, f" {WITHOUT_LABELS}"),
    "tokens": Column(_list_of("words as tokens", is_visible)),
    "labels": Column(_list_of("a label for each token", str.strip)),
}


@dataclass(frozen=True)
class Row:
    """A row: `place`, where it stands, for messages; `values`, by column."""

    place: str
    values: dict[str, Any]


class Source:
    """Rows of a file or a folder, as often as wanted in the same order; make one with `open_source`.

    Attributes: `path`; `columns`; `bytes`, the size of all that is read; `argument`, what messages call the path.

    Args:
        path, columns, argument: See above.
        read: Reads the rows; called with a function that says whether a row is wanted.
        bytes: See above.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], argument: str, read: Callable, bytes: int):
        self.path = path
        self.columns = columns
        self.argument = argument
        self.bytes = bytes
        self._read = read

    def rows(self, wanted: Callable[[dict], bool] = lambda values: True) -> Iterator[Row]:
        """Read the rows.

        Args:
            wanted: Called once for every row, with its values; those of a folder lack the text, which is not read where
                this returns False.

        Raises:
            ValueError: For what cannot be read, is not valid UTF-8, CSV or JSON, lacks a column, or holds a value that
                its column does not take; names the file or the row.
        """
        must = f"`{self.argument}` must"
        try:
            yield from self._read(wanted)
        except OSError as error:
            place = error.filename or self.path
            raise ValueError(f"{must} be a readable file ({error.strerror}). Received: {place}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{must} hold valid UTF-8 ({error.reason}). Received: {self.path}") from error
        except csv.Error as error:
            raise ValueError(f"{must} be valid CSV ({error}). Received: {self.path}") from error


def open_source(
    path: str | Path,
    columns: Iterable[str],
    names: Mapping[str, str] | None = None,
    *,
    argument: str = "path",
    seed: int | None = None,
) -> Source:
    """Open a user's documents.

    Args:
        path: A .csv file with a header, a .jsonl file with an object per line, a .conll file, or a folder of .txt
            files, at any depth; for labels with one subfolder for each, and no deeper (hidden ones are skipped). All
            UTF-8. A .conll file has a token per line, first the word and last its label, with white space between, and
            an empty line between sentences; the marker -DOCSTART- is no sentence, and comments of CoNLL-U (`# id ...`,
            `# text = ...`) before a sentence are skipped.
        columns: Which columns to read, of `COLUMNS`; a folder has "text" and "label", a .conll file "tokens" and
            "labels".
        names: What the file calls its columns, where it is another name: `{"text": "body"}`.
        argument: What messages call the path.
        seed: Take a folder's files in random order; None for the order of their sorted paths. A file's rows are taken
            as they stand.

    Raises:
        ValueError: For a path that is missing, has an unknown extension, or is a folder that lacks a column; for an
            unknown column.
    """
    path, columns = Path(path), tuple(columns)
    unknown = [column for column in (*columns, *(names or ())) if column not in COLUMNS]
    if unknown:
        raise ValueError(
            f"`columns` and `names` must be of columns among {', '.join(COLUMNS)}. Received: {', '.join(unknown)}"
        )
    names = {column: (names or {}).get(column, column) for column in columns}
    _check_kind(path, columns, argument)
    if path.is_dir():
        files = find_texts(path)
        if "label" in columns:
            files = [(file, parts) for file, parts in files if len(parts) == 2]
        if seed is not None:
            files = [files[place] for place in np.random.default_rng([seed, 0]).permutation(len(files))]
        size = sum(file.stat().st_size for file, _ in files)
        return Source(path, columns, argument, lambda wanted: _folder_rows(files, columns, argument, wanted), size)
    read = _READERS[path.suffix.lower()]

    def rows(wanted: Callable[[dict], bool]) -> Iterator[Row]:
        for place, found in read(path, names, argument):
            row = Row(place, {column: _parsed(column, found[name], place, argument) for column, name in names.items()})
            if {"tokens", "labels"} <= set(columns) and len(row.values["tokens"]) != len(row.values["labels"]):
                tokens, labels = (len(row.values[column]) for column in ("tokens", "labels"))
                raise ValueError(
                    f"`{argument}` must hold one label per token. Received: {place} with {tokens} tokens and {labels} "
                    "labels"
                )
            wanted(row.values)
            yield row

    return Source(path, columns, argument, rows, path.stat().st_size)


def _check_kind(path: Path, columns: tuple[str, ...], argument: str) -> None:
    """Raise a ValueError unless `path` is there, and of a kind that has these columns."""
    received = f"Received: {argument}={str(path)!r}"
    if path.is_dir():
        kind, found = "a folder", ("text", "label")
    elif not path.is_file():
        raise ValueError(f"`{argument}` must be a file or a folder that exists. {received}")
    elif path.suffix.lower() not in _READERS:
        raise ValueError(f"`{argument}` must be a .csv file, a .jsonl file, a .conll file or a folder. {received}")
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


def find_texts(path: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """List the .txt files of a folder, sorted, each with the parts of its path below; hidden ones are skipped."""
    found = [(file, file.relative_to(path).parts) for file in sorted(path.rglob("*.txt"))]
    return [(file, parts) for file, parts in found if file.is_file() and not any(p.startswith(".") for p in parts)]


def load_labelled_texts(path: str | Path, text_column: str = "text", label_column: str = "label") -> LabelledTexts:
    """Read labelled documents.

    Args:
        path: A .csv file with a header, a .jsonl file with an object per line, or a folder with one subfolder of .txt
            files per label (hidden ones are skipped). All UTF-8; the order is the file's, or the sorted paths'.
        text_column: The column or key that holds the text; no matter for a folder.
        label_column: The column or key that holds the label, a string or an integer; no matter for a folder.

    Returns:
        The texts as they are, the labels without white space around them.

    Raises:
        ValueError: For a missing path, an unknown extension, a file that is not valid UTF-8, CSV or JSON, a missing
            column, no rows, a row with an empty text or label (rows count from 1, header and blank lines aside), or
            fewer than two labels.
    """
    source = open_source(path, ("text", "label"), {"text": text_column, "label": label_column})
    texts, labels = [], []
    for row in source.rows():
        if not is_visible(row.values["text"]):
            raise ValueError(f"`path` must hold no row with an empty text. Received: {row.place}")
        texts.append(row.values["text"])
        labels.append(row.values["label"])
    if not texts:
        if source.path.is_file():
            raise ValueError(f"`path` must hold texts, it has no rows. Received: path={str(path)!r}")
        raise ValueError(
            f"`path` must hold texts, it has no .txt files in subfolders, one for each label. {WITHOUT_LABELS} "
            f"Received: path={str(path)!r}"
        )
    labelled = LabelledTexts(texts, labels)
    if len(labelled.classes) < 2:
        raise ValueError(
            f"`path` must hold two labels or more, all are {labels[0]!r}. {WITHOUT_LABELS} Received: path={str(path)!r}"
        )
    return labelled


def _folder_rows(files: list, columns: tuple, argument: str, wanted: Callable[[dict], bool]) -> Iterator[Row]:
    for file, parts in files:
        values = {"label": parts[0]} if "label" in columns else {}
        if wanted(values):
            try:
                values["text"] = file.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"`{argument}` must hold valid UTF-8 ({error.reason}). Received: {str(file)!r}"
                ) from error
        yield Row(str(file), values)


def _csv_rows(path: Path, names: dict[str, str], argument: str) -> Iterator[tuple[str, dict]]:
    limit = csv.field_size_limit(2**31 - 1)  # Long documents pass the module's 128 KB; the limit is global.
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, reader.fieldnames or [], names)
            for number, row in enumerate(reader, 1):
                place = f"row {number} of {path}"
                if None in row or any(row[name] is None for name in names.values()):
                    raise ValueError(f"`{argument}` must hold rows as wide as the header. Received: {place}")
                yield place, row
    finally:
        csv.field_size_limit(limit)


def _jsonl_rows(path: Path, names: dict[str, str], argument: str) -> Iterator[tuple[str, dict]]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate((line for line in file if not line.isspace()), 1):
            place = f"row {number} of {path}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"`{argument}` must hold a JSON object per line ({error}). Received: {place}"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"`{argument}` must hold a JSON object per line. Received: {place}")
            _check_columns(place, row, names)
            yield place, row


def _conll_rows(path: Path, names: dict[str, str], argument: str) -> Iterator[tuple[str, dict]]:
    tokens, labels, start = [], [], 1
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(itertools.chain(file, [""]), 1):
            columns = split_at_spaces(line)
            if not tokens and COMMENT.match(line):
                continue
            if columns and columns[0] != "-DOCSTART-":
                if len(columns) < 2:
                    raise ValueError(
                        f"`{argument}` must hold a word and its label in each line. Received: line {number} of {path}"
                    )
                tokens.append(columns[0])
                labels.append(columns[-1])
            elif tokens:
                row = {names.get("tokens", "tokens"): tokens, names.get("labels", "labels"): labels}
                yield f"the sentence from line {start} of {path}", row
                tokens, labels = [], []
            if not columns:
                start = number + 1


# By the file's extension, what reads its rows: each with its place, and the values under the file's own names.
_READERS = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".conll": _conll_rows}


def _check_columns(place: object, found: Iterable[str], names: dict[str, str]) -> None:
    found = list(found)
    for column, name in names.items():
        if name not in found:
            raise ValueError(
                f"`{column}_column` must be one of {found} in {place}.{COLUMNS[column].hint} "
                f"Received: {column}_column={name!r}"
            )


def _parsed(column: str, value: object, place: str, argument: str) -> Any:
    try:
        return COLUMNS[column].parse(value)
    except ValueError as error:
        raise ValueError(f"`{argument}` must hold {error}. Received: {place}") from error
