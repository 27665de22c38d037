"""How rows become arrays: the token ids of a text, the class of a label."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..text import Tokenizer

# What one call of the tokenizer takes. Several are under way at a time, which bounds memory.
CHUNK_TEXTS, CHUNK_CHARACTERS = 64, 2**20

THREADS = 4


@dataclass(frozen=True)
class Encoding:
    """How the rows of a source become arrays.

    Attributes:
        columns: What a source must give, of `sources.COLUMNS`.
        optional: What is read too where a source has it.
        encode: `encode(rows, tokenizer, classes)` returns, by field name, a list with an integer array or an integer
            for each row. Called from several threads.
        label: `label(row)` returns the labels that a row has; the sorted set of all is `classes`. None: there are none.
        text: `text(row)` returns by what rows are equal.
        texts: `texts(row)` returns what the vocabulary is learned from. None: the text. A row of which one of these is
            invisible is left out.
        stratum: `stratum(row)` returns what rows are held out by: of each stratum the same share.
        document: `document(row)` returns of which document a row is, which is held out as a whole; None for a row that
            is one by itself. Rows of different documents may be equal.
        copied: `copied(row)` returns whether there is nothing to learn from a row, as the answer is the text.
        ids: The fields that hold ids of the vocabulary.
    """

    columns: tuple[str, ...]
    encode: Callable[[list[dict], Tokenizer, list[str] | None], dict[str, list]]
    label: Callable[[dict], Iterable[str]] | None = None
    text: Callable[[dict], str] = lambda row: row["text"]
    texts: Callable[[dict], tuple[str, ...]] | None = None
    stratum: Callable[[dict], str | None] = lambda row: None
    document: Callable[[dict], str | None] | None = None
    copied: Callable[[dict], bool] | None = None
    optional: tuple[str, ...] = ()
    ids: tuple[str, ...] = ("token_ids",)

    def learned_from(self, rows: Iterable[dict]) -> Iterator[str]:
        """Iterate over the texts that the vocabulary is learned from."""
        for row in rows:
            yield from self.texts_of(row)

    def texts_of(self, row: dict) -> tuple[str, ...]:
        """Return the texts of a row: see `texts`."""
        return (self.text(row),) if self.texts is None else self.texts(row)


def _encode_texts(rows: list[dict], tokenizer: Tokenizer, classes: list[str] | None) -> dict[str, list]:
    return {"token_ids": tokenizer.encode([row["text"] for row in rows])}


def _encode_labelled_texts(rows: list[dict], tokenizer: Tokenizer, classes: list[str] | None) -> dict[str, list]:
    class_ids = {label: index for index, label in enumerate(classes)}
    token_ids = tokenizer.encode([row["text"] for row in rows])
    return {"token_ids": token_ids, "label": [class_ids[row["label"]] for row in rows]}


def _encode_pairs(rows: list[dict], tokenizer: Tokenizer, classes: list[str] | None) -> dict[str, list]:
    return {f"{side}_ids": tokenizer.encode([row[side] for row in rows]) for side in ("source", "target")}


TEXTS = Encoding(("text",), _encode_texts)

LABELLED_TEXTS = Encoding(
    ("text", "label"),
    _encode_labelled_texts,
    label=lambda row: (row["label"],),
    stratum=lambda row: row["label"],
)

# Sentences and their translations, both with a start and an end token, of one vocabulary.
PAIRS = Encoding(
    ("source", "target"),
    _encode_pairs,
    text=lambda row: row["source"],
    texts=lambda row: (row["source"], row["target"]),
    document=lambda row: row.get("document"),
    copied=lambda row: row["source"] == row["target"],
    optional=("document",),
    ids=("source_ids", "target_ids"),
)


def encode_in_parallel(
    rows: Iterable[tuple[dict, str]],
    encoding: Encoding,
    tokenizer: Tokenizer,
    classes: list[str] | None,
) -> Iterator[tuple[dict[str, list], list[str]]]:
    """Encode rows in threads, a few at a time and in order; TensorFlow's tokenizers release Python's lock.

    Args:
        rows: Rows that have a visible text, each with the split that it belongs to. Read no faster than they are used.
        encoding, tokenizer, classes: What makes arrays of them.

    Yields:
        What `encoding.encode` returned of some rows, and their splits.
    """
    waiting = deque()
    with ThreadPoolExecutor(THREADS, "encode") as pool:
        for number, (chunk, splits) in enumerate(_chunks(rows, encoding.text)):
            waiting.append((pool.submit(encoding.encode, chunk, tokenizer, classes), splits))
            if number == 0:  # The first alone: it makes what the tokenizer makes once.
                waiting[0][0].result()
            if len(waiting) > THREADS:
                future, done = waiting.popleft()
                yield future.result(), done
        for future, done in waiting:
            yield future.result(), done


def _chunks(rows: Iterable[tuple[dict, str]], text: Callable[[dict], str]) -> Iterator[tuple[list[dict], list[str]]]:
    chunk, splits, characters = [], [], 0
    for row, split in rows:
        chunk.append(row)
        splits.append(split)
        characters += len(text(row))
        if len(chunk) == CHUNK_TEXTS or characters >= CHUNK_CHARACTERS:
            yield chunk, splits
            chunk, splits, characters = [], [], 0
    if chunk:
        yield chunk, splits
