"""A user's labelled documents: read from files and split; batches of them come from `batches`."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

WITHOUT_LABELS = "Texts without labels are for masked LM: `prepare --unlabelled`, then train on the folder it writes."


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and, place by place, their labels."""

    texts: list[str]
    labels: list[str]

    @property
    def classes(self) -> list[str]:
        """The distinct labels, sorted: a label's place is its class id."""
        return sorted(set(self.labels))


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
    path = Path(path)
    if path.is_dir():
        rows = _folder_rows(path)
    elif not path.is_file():
        raise ValueError(f"path must be a file or a folder that exists. Received: path={str(path)!r}")
    elif path.suffix.lower() == ".csv":
        rows = _csv_rows(path, text_column, label_column)
    elif path.suffix.lower() == ".jsonl":
        rows = _jsonl_rows(path, text_column, label_column)
    else:
        raise ValueError(f"path must be a .csv file, a .jsonl file or a folder. Received: path={str(path)!r}")

    texts, labels = [], []
    try:
        for name, text, label in rows:
            for column, value in (("text", text), ("label", label)):
                if not value or value.isspace():
                    raise ValueError(f"path must hold no row with an empty {column}. Received: {name}")
            texts.append(text)
            labels.append(label.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"path must hold valid UTF-8 ({error.reason}). Received: path={str(path)!r}") from error
    if not texts:
        if path.is_file():
            raise ValueError(f"path must hold texts, it has no rows. Received: path={str(path)!r}")
        raise ValueError(
            f"path must hold texts, it has no .txt files in subfolders, one for each label. {WITHOUT_LABELS} "
            f"Received: path={str(path)!r}"
        )
    if len(set(labels)) < 2:
        raise ValueError(
            f"path must hold two labels or more, all are {labels[0]!r}. {WITHOUT_LABELS} Received: path={str(path)!r}"
        )
    return LabelledTexts(texts, labels)


def _folder_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    for file in sorted(path.glob("*/*.txt")):
        if not file.parent.name.startswith(".") and not file.name.startswith("."):
            try:
                yield str(file), file.read_text(encoding="utf-8"), file.parent.name
            except UnicodeDecodeError as error:
                raise ValueError(f"path must hold valid UTF-8 ({error.reason}). Received: {str(file)!r}") from error


def _csv_rows(path: Path, text_column: str, label_column: str | None) -> Iterator[tuple[str, str, str | None]]:
    limit = csv.field_size_limit(2**31 - 1)  # Long documents pass the module's 128 KB; the limit is global.
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, reader.fieldnames or [], text_column, label_column)
            for number, row in enumerate(reader, 1):
                if None in row:
                    raise ValueError(f"path must hold rows as wide as the header. Received: row {number} of {path}")
                yield f"row {number} of {path}", row[text_column], label_column and row[label_column]
    except csv.Error as error:
        raise ValueError(f"path must be valid CSV ({error}). Received: path={str(path)!r}") from error
    finally:
        csv.field_size_limit(limit)


def _jsonl_rows(path: Path, text_column: str, label_column: str | None) -> Iterator[tuple[str, str, str | None]]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate((line for line in file if not line.isspace()), 1):
            name = f"row {number} of {path}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"path must hold a JSON object per line ({error}). Received: {name}") from error
            if not isinstance(row, dict):
                raise ValueError(f"path must hold a JSON object per line. Received: {name}")
            _check_columns(name, row, text_column, label_column)
            text, label = row[text_column], label_column and row[label_column]
            if not isinstance(text, str) or not isinstance(label, (str, int, type(label_column))):
                raise ValueError(f"path must hold a string as text, a string or integer as label. Received: {name}")
            yield name, text, label_column and str(label)


def _check_columns(where: object, columns: Iterable[str], text_column: str, label_column: str | None) -> None:
    columns = list(columns)
    for argument, column in (("text_column", text_column), ("label_column", label_column)):
        if column is not None and column not in columns:
            hint = f" {WITHOUT_LABELS}" if argument == "label_column" else ""
            raise ValueError(f"{argument} must be one of {columns} in {where}.{hint} Received: {argument}={column!r}")
