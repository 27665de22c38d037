"""Files of rows: .csv, .tsv, .jsonl, .conll and aligned lines, each row with its place for messages."""

import contextlib
import csv
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

from ..text import is_visible, split_at_spaces

WITHOUT_LABELS = "Texts without labels are for masked LM: `prepare --unlabelled`, then train on the folder it writes."

# A comment before a sentence of a .conll file. Any other "#" is a word.
COMMENT = re.compile(r"#\s*(id|sent_id|text|newdoc|newpar|global\.columns)\b")

# What a .csv file is often separated by instead of commas.
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}

USUAL = "Usual other encodings are cp1252 (Excel on Windows), latin-1 and UTF-16; `iconv -f cp1252 -t UTF-8` converts."

# The csv module has one limit of a field's length for everybody, 128 KB: it is lifted for a row at a time.
LONGEST_FIELD = 2**31 - 1
FIELD_LIMIT = threading.Lock()


# The columns of a .tsv file without a header, and of two aligned files.
PAIR = ("source", "target")


def read_csv(
    path: Path, names: Mapping[str, str], argument: str, optional: Collection[str] = ()
) -> Iterator[tuple[str, dict]]:
    """Read the rows of a .csv file with a header.

    Args:
        path: The file.
        names: What the file calls each column to read.
        argument: What messages call the path.
        optional: Columns of `names` that are read if the file has them.

    Yields:
        The row's place, and its values by column.

    Raises:
        ValueError: For a column that is missing or stands there twice, a row that is not as wide as the header, or what
            is no CSV.
        UnicodeDecodeError: See `not_utf8`.
    """
    with _open_text(path, argument, newline="") as file:
        records = _records(file, path, argument)
        header = next(records, [])
        names = _present(header, names, optional)
        _check_names(header, path, names, argument)
        places = {column: header.index(name) for column, name in names.items()}
        width, needed = len(header), max(places.values(), default=-1)
        for number, fields in enumerate(records, 1):
            place = f"row {number} of {path}"
            if not needed < len(fields) <= width:
                raise ValueError(
                    f"`{argument}` must hold rows as wide as the header, {width} columns. "
                    f"Received: {place}, {len(fields)} columns"
                )
            yield place, {column: fields[index] for column, index in places.items()}


def read_tsv(
    path: Path, names: Mapping[str, str], argument: str, optional: Collection[str] = ()
) -> Iterator[tuple[str, dict]]:
    """Read the lines of a .tsv file, cells between tabs: with a header, or the two columns of pairs without one.

    Quotation marks are characters as others are, and no cell holds a tab or a line break. See `read_csv`.
    """
    with _open_text(path, argument, newline="\n") as file:
        lines = (line.rstrip("\r\n").split("\t") for line in file)
        header = next(lines, [])
        first = 2
        if is_pair(header, names, optional):
            header, first, lines = [names[each] for each in PAIR], 1, itertools.chain([header], lines)
        names = _present(header, names, optional)
        _check_names(header, path, names, argument)
        places = {column: header.index(name) for column, name in names.items()}
        for number, cells in enumerate(lines, first):
            place = f"line {number} of {path}"
            if len(cells) != len(header):
                raise ValueError(
                    f"`{argument}` must hold lines as wide as the first, {len(header)} columns. "
                    f"Received: {place}, {len(cells)} columns"
                )
            yield place, {column: cells[index] for column, index in places.items()}


def is_pair(first: Sequence[str], names: Mapping[str, str], optional: Collection[str]) -> bool:
    """Return whether the first line of a .tsv file is a pair: two cells, none of which names a column to read.

    Columns that were given a name stand in a header.

    Args:
        first: The cells of the line.
        names, optional: See `read_csv`.
    """
    wanted = {column: name for column, name in names.items() if column not in optional}
    return len(first) == 2 and wanted == {each: each for each in PAIR} and not set(first) & set(names.values())


def has_no_header(path: Path, names: Mapping[str, str], optional: Collection[str]) -> bool:
    """Return whether a .tsv file begins with a pair; False for a file that cannot be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8-sig", newline="\n") as file:
        return is_pair(file.readline().rstrip("\r\n").split("\t"), names, optional)
    return False


def read_aligned(paths: Sequence[Path], argument: str) -> Iterator[tuple[str, dict]]:
    """Read two files line by line: sources, and their translations; see `read_csv`.

    Raises:
        ValueError: For files of different line counts, an empty line, or what is no UTF-8; names file and line.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(_open_text(path, argument, newline="\n")) for path in paths]
        lines = [_lines(file, path, argument) for file, path in zip(files, paths, strict=True)]
        for number, pair in enumerate(itertools.zip_longest(*lines), 1):
            if None in pair:
                counts = [
                    number - (line is None) + sum(1 for _ in rest) for line, rest in zip(pair, lines, strict=True)
                ]
                listed = " and ".join(f"{count:,} in {path}" for count, path in zip(counts, paths, strict=True))
                raise ValueError(
                    f"`{argument}` must be two files of as many lines, each a sentence beside its translation. "
                    f"Received: {listed}"
                )
            for line, path in zip(pair, paths, strict=True):
                if not is_visible(line):
                    raise ValueError(
                        f"`{argument}` must hold a sentence in each line. Received: line {number} of {path}, empty"
                    )
            yield f"line {number} of {paths[0]} and {paths[1]}", dict(zip(PAIR, pair, strict=True))


def _lines(file: TextIO, path: Path, argument: str) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise not_utf8(path, argument, error.reason) from error


def read_jsonl(
    path: Path, names: Mapping[str, str], argument: str, optional: Collection[str] = ()
) -> Iterator[tuple[str, dict]]:
    """Read the rows of a file with a JSON object per line; see `read_csv`. The first says which columns it has."""
    decoder, wanted = json.JSONDecoder(object_pairs_hook=_object), set()
    with _open_text(path, argument) as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if not line.isspace())
        for row_number, (line_number, line) in enumerate(lines, 1):
            place = f"row {row_number} of {path}"
            if line_number != row_number:
                place += f" (line {line_number})"
            try:
                row = decoder.decode(line)
            except RecursionError as error:
                raise ValueError(
                    f"`{argument}` must hold JSON objects that are not nested as deeply as this. Received: {place}"
                ) from error
            except ValueError as error:  # A JSONDecodeError, or a number of thousands of digits.
                raise ValueError(
                    f"`{argument}` must hold a JSON object per line ({error}). Received: {place}"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"`{argument}` must hold a JSON object per line. Received: {place}")
            if row_number == 1:
                names = _present(row, names, optional)
                wanted = set(names.values())
            if not wanted <= row.keys() or isinstance(row, _Repeated):
                _check_names([*row, *getattr(row, "repeated", ())], place, names, argument)
            yield place, {column: row[name] for column, name in names.items()}


def read_conll(
    path: Path, names: Mapping[str, str], argument: str, optional: Collection[str] = ()
) -> Iterator[tuple[str, dict]]:
    """Read the sentences of a file with a word and its label per line; see `read_csv`."""
    tokens, labels, start = [], [], 1
    with _open_text(path, argument) as file:
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
                row = {"tokens": tokens, "labels": labels}
                yield f"the sentence from line {start} of {path}", {column: row[column] for column in names}
                tokens, labels = [], []
            if not columns:
                start = number + 1


def decode(content: bytes, path: str | Path, argument: str) -> str:
    """Return bytes as text, or raise a ValueError that names the file, the line, and what the encoding may be."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(path, argument, error.reason) from error
    if "\0" in text:
        _check_not_utf16(content, path, argument)
    return text


def not_utf8(path: str | Path, argument: str, reason: str) -> ValueError:
    """Return the error that says where a file is not valid UTF-8, and what its encoding may be."""
    with open(path, "rb") as file:
        try:
            _check_not_utf16(file.read(64), path, argument)
        except ValueError as error:
            return error
        file.seek(0)
        number, line = _first_bad_line(file)
    return ValueError(
        f"`{argument}` must hold valid UTF-8 ({reason}). {USUAL} Received: line {number} of {path}, {line!r}"
    )


def _first_bad_line(file: BinaryIO) -> tuple[int, bytes]:
    """Return the number of the first line that is not UTF-8, and what stands there around the first such byte."""
    number, line = 0, b""
    for number, line in enumerate(file, 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            return number, line[max(0, error.start - 20) : error.start + 20]
    return number, line[-40:]  # It has been changed since.


def _check_not_utf16(content: bytes, path: str | Path, argument: str) -> None:
    """Raise a ValueError if a file begins as UTF-16 does: with its mark, or with a NUL at every second place."""
    start = content[:64]
    zeros = [start[place::2].count(0) for place in (0, 1)]
    marked = start[:2] in (b"\xff\xfe", b"\xfe\xff")
    if marked or (len(start) >= 4 and max(zeros) > len(start) // 4 and not min(zeros)):
        name = "UTF-16" if marked else "UTF-16LE" if zeros[1] else "UTF-16BE"
        raise ValueError(
            f"`{argument}` must hold valid UTF-8, and this begins as {name} does; `iconv -f {name} -t UTF-8` "
            f"converts it. Received: {path}"
        )


def _open_text(path: Path, argument: str, newline: str | None = None) -> TextIO:
    with open(path, "rb") as file:
        _check_not_utf16(file.read(64), path, argument)
    return open(path, encoding="utf-8-sig", newline=newline)


def _records(file: TextIO, path: Path, argument: str) -> Iterator[list[str]]:
    """Yield the header and the rows of a .csv file, without empty lines."""
    reader, number = csv.reader(file, strict=True), 0
    while True:
        first = reader.line_num + 1
        try:
            with FIELD_LIMIT:
                limit = csv.field_size_limit(LONGEST_FIELD)
                try:
                    fields = next(reader, None)
                finally:
                    csv.field_size_limit(limit)
        except csv.Error as error:
            last = max(first, reader.line_num)
            lines = f"line {first}" if first == last else f"lines {first} to {last}"
            place = f"row {number} of {path} ({lines})" if number else f"the header of {path} ({lines})"
            raise ValueError(
                f"`{argument}` must be valid CSV ({error}).{_separator_hint(path)} Received: {place}"
            ) from error
        if fields is None:
            return
        if fields:
            yield fields
            number += 1


def _separator_hint(path: Path) -> str:
    """Return a sentence for a .csv file whose first line is separated by something else than commas, or ""."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        counts = Counter(file.readline(2**16))
    most = max(SEPARATORS, key=counts.__getitem__)
    if counts[most] <= counts[","]:
        return ""
    return f" Its header looks separated by {SEPARATORS[most]}; the columns of a .csv file are separated by commas."


def _present(found: Collection[str], names: Mapping[str, str], optional: Collection[str]) -> dict[str, str]:
    """Return `names` without the optional columns that are not found."""
    return {column: name for column, name in names.items() if column not in optional or name in found}


def _check_names(found: Iterable[str], place: Path | str, names: Mapping[str, str], argument: str) -> None:
    """Raise a ValueError for a column to read that is missing, or stands there more than once.

    Args:
        found: The columns that are there.
        place: The .csv file whose header they are, or the row that has them.
        names, argument: See `read_csv`.
    """
    found = list(found)
    counts = Counter(found)
    for column, name in names.items():
        if not counts[name]:
            hint = _separator_hint(place) if isinstance(place, Path) else ""
            hint = hint or (f" {WITHOUT_LABELS}" if column == "label" else "")
            raise ValueError(
                f"`{column}_column` must be one of {list(counts)} in {place}.{hint} Received: {column}_column={name!r}"
            )
        if counts[name] > 1:
            raise ValueError(
                f"`{argument}` must have each column that is read once, and {name!r} (`{column}_column`) stands there "
                f"{counts[name]} times. Received: columns {found} in {place}"
            )


class _Repeated(dict):
    """A JSON object with keys that come again: `repeated` holds these, each as often as it does."""

    def __init__(self, pairs: list):
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs)
        self.repeated = [key for key, count in counts.items() for _ in range(count - 1)]


def _object(pairs: list) -> dict:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Repeated(pairs)
