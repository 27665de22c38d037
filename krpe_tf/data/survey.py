"""What documents are, before any is encoded: their labels, which texts are equal, and which are held out."""

import array
import logging
import numbers
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..checks import check_at_least
from ..text import is_visible
from .encoding import Encoding
from .labelled import LabelledTexts, hold_out
from .readers import WITHOUT_LABELS
from .sources import Source
from .splits import SPLITS, check_shared_labels, streaming_holdout, text_key

logger = logging.getLogger(__name__)

# The split of a document without a visible text.
LEFT_OUT = len(SPLITS)

# How many labels are listed one by one.
LISTED = 20

# The share of pairs to warn of whose target is their source: these make a beam search copy (arXiv 1803.00047).
WARN_ABOVE = 0.1

# Labels that usually stand for none: as pandas, spreadsheets and JSON write a missing value, and folders of texts
# without labels.
MISSING = {"-", "?", "#n/a", "<na>", "n/a", "na", "nan", "nat", "nil", "none", "null", "undefined"}
MISSING |= {"unlabeled", "unlabelled", "unsup"}


class Survey:
    """The labels and the equal texts of documents, read once. It keeps 13 bytes of each row, 21 of a pair, and no text.

    Texts are equal if they differ in nothing but white space around them. While they are sought, a row takes 80 bytes,
    a pair 90.

    Attributes: `documents`, how many there are; `visible`, bool, which of them have a visible text, of pairs two;
    `labels`, how often each label comes among these, a `Counter`, or None where the encoding has no labels; `copies`,
    how many documents repeat the text of another; `copied`, how many have their text as the answer.

    Args:
        rows: Each a value by column.
        encoding: Says what of a row is its text, its labels, and what it is held out by.
    """

    def __init__(self, rows: Iterable[dict], encoding: Encoding):
        keys, labels, strata, visible = array.array("q"), array.array("q"), array.array("i"), bytearray()
        known, counts, groups = {}, Counter(), array.array("q")
        self._single, self.copied = True, 0
        for row in rows:
            text = encoding.text(row)
            keys.append(text_key(text))
            if encoding.document is not None:
                document = encoding.document(row)
                groups.append(keys[-1] if document is None else hash((document,)))
            if encoding.copied is not None:
                self.copied += encoding.copied(row)
            visible.append(all(map(is_visible, encoding.texts_of(row))))
            strata.append(known.setdefault(encoding.stratum(row), len(known)))
            if encoding.label is not None:
                found = tuple(encoding.label(row))
                labels.append(hash(found))
                self._single &= len(found) == 1
                for label in found if visible[-1] else ():
                    counts[label] += 1
        self.documents = len(visible)
        self.visible = np.frombuffer(visible, bool)
        self.labels = None if encoding.label is None else counts
        self._known, self._strata = list(known), strata
        # The first document of an equal text. Of what is left out, none is.
        self._first = np.where(self.visible, _firsts(keys), np.arange(self.documents))
        self.copies = int(np.sum(self._first != np.arange(self.documents)))
        # The first of what is held out as a whole: of equal texts, or of a document.
        self._leader = self._first if encoding.document is None else _firsts(groups)
        labels = np.frombuffer(labels, np.int64)
        # The first documents of texts with two labels or more.
        self._mixed = np.unique(self._first[labels != labels[self._first]]) if len(labels) else labels

    def classes(self, argument: str, hint: str = "") -> list[str] | None:
        """Return the labels, sorted: a label's place is its class id; None where the encoding has none.

        Raises:
            ValueError: For fewer than two labels; names the argument, and gives the hint.
        """
        if self.labels is None:
            return None
        if len(self.labels) < 2:
            raise ValueError(
                f"`{argument}` must hold two labels or more.{hint} "
                f"Received: {', '.join(map(repr, self.labels)) or 'none'} in {self.documents} documents"
            )
        return sorted(self.labels)

    def check_copied(self, argument: str) -> None:
        """Raise a ValueError if each document has its text as the answer; names the argument."""
        if self.documents and self.copied == self.documents:
            raise ValueError(
                f"`{argument}` must hold translations, and in each pair source and target are equal: is one column, or "
                f"one file, given twice? Received: {self.documents:,} pairs"
            )

    def deal(self, fraction: float, seed: int, argument: str) -> np.ndarray:
        """Return the split of each document, uint8: its place in `SPLITS`, or `LEFT_OUT` for one without a text.

        Of equal texts the first is dealt by `streaming_holdout`, and the others follow it. A text with two labels or
        more is to train on: so each label has a text there. Rows of one document are dealt together; of those held out
        the ones are left out whose text is also in a document to train on.

        Args:
            fraction, seed: See `streaming_holdout`.
            argument: What messages call the documents.

        Raises:
            ValueError: If some are to be held out and no label has two texts.
        """
        if fraction and self.labels and self._single:
            check_shared_labels(self.labels, argument)
        held_out = streaming_holdout(fraction, seed)
        splits = np.zeros(self.documents, "uint8")
        for place in np.flatnonzero(self._leader == np.arange(self.documents)):
            splits[place] = held_out(self._known[self._strata[place]])
        splits[self._mixed] = 0
        if self.labels:  # A label's first document may be one without text.
            shown = np.flatnonzero(self.visible)
            _, first = np.unique(np.frombuffer(self._strata, "i4")[shown], return_index=True)
            splits[self._first[shown[first]]] = 0
        return self._without_repeats(np.where(self.visible, splits[self._leader], np.uint8(LEFT_OUT)))

    def _without_repeats(self, splits: np.ndarray) -> np.ndarray:
        """Return splits that leave out what is held out and equals a text to train on."""
        repeated = (splits == 1) & np.isin(self._first, self._first[splits == 0])
        return np.where(repeated, np.uint8(LEFT_OUT), splits)

    def hold_some_out(self, splits: np.ndarray) -> np.ndarray:
        """Return splits by which some documents are held out: those given or, if none is, others for one text.

        It is one of the commonest label. The first text of each label, or of all documents without labels, stays to
        train on; where there is no other, nothing is held out.

        Args:
            splits: What `deal` returned.
        """
        shown = np.flatnonzero(splits == 0)
        strata = np.frombuffer(self._strata, "i4")
        _, first = np.unique(strata[shown], return_index=True)
        places = np.setdiff1d(self._leader[shown], [*self._leader[shown[first]], *self._mixed])
        if np.any(splits == 1) or not len(places):
            return splits
        commonest = np.bincount(strata[places]).argmax()
        chosen = places[strata[places] == commonest][-1]
        return self._without_repeats(np.where(self._leader == chosen, np.uint8(1), splits))

    def log(self, splits: np.ndarray, source: object) -> None:
        """Log what is left out, the labels, and which texts are equal.

        Args:
            splits: The split of each document, see `deal`.
            source: What the log calls the documents.
        """
        left_out = self.documents - int(self.visible.sum())
        if left_out:
            logger.info("%s: %d documents without text were left out", source, left_out)
        if repeated := int(np.sum(self.visible & (splits == LEFT_OUT))):
            logger.info(
                "%s: of documents that are held out, %s rows whose text is also to train on were left out",
                source,
                f"{repeated:,}",
            )
        if self.copied:
            level = logging.WARNING if self.copied > WARN_ABOVE * self.documents else logging.INFO
            share = f"{self.copied:,} of {self.documents:,}"
            logger.log(level, "%s: %s pairs have a target that is their source, which teaches to copy", source, share)
        if self.labels:
            log_labels(self.labels, source, "documents" if self._single else "words")
        if not self.copies:
            return
        train, validation = (self._first[splits == split] for split in range(len(SPLITS)))
        on_both = int(np.isin(validation, train).sum())
        held = ", and none of these is on both sides of the split" if len(validation) and not on_both else ""
        total = f"{self.documents:,}"
        logger.info("%s: %s of %s documents repeat the text of another%s", source, f"{self.copies:,}", total, held)
        if on_both:
            logger.warning("%s: %s documents to validate by repeat a text to train on", source, f"{on_both:,}")
        if len(self._mixed):
            logger.warning(
                "%s: texts that come with two labels or more: %s, the first of them in document %s",
                source,
                f"{len(self._mixed):,}",
                f"{self._mixed[0] + 1:,}",
            )


def _firsts(keys: array.array) -> np.ndarray:
    """Return for each key the place where it first stands."""
    _, first, key = np.unique(np.frombuffer(keys, np.int64), return_index=True, return_inverse=True)
    return first[key]


class DealtRows:
    """The rows that have a visible text, each with its split, "train" or "validation"; as often as wanted.

    Args:
        rows: Each a value by column, the same each time.
        splits: What `Survey.deal` said of them.

    Raises:
        ValueError: While it is iterated, if there are other rows than there were.
    """

    def __init__(self, rows: Iterable[dict], splits: np.ndarray):
        self._rows, self._splits = rows, splits

    def __iter__(self) -> Iterator[tuple[dict, str]]:
        """Iterate over the rows' values and their splits."""
        count = 0
        for count, row in enumerate(self._rows, 1):
            if count > len(self._splits):
                break
            if (split := self._splits[count - 1]) != LEFT_OUT:
                yield row, SPLITS[split]
        if count != len(self._splits):
            raise ValueError(
                "the documents must not change while they are read. Received: other rows than before, which were "
                f"{len(self._splits)}"
            )


@dataclass(frozen=True)
class Documents:
    """Rows in memory that have a visible text, each with its split, "train" or "validation"; see `deal_documents`.

    Attributes: `rows`; `survey`, what is known of them; `encoding`, how they become arrays.
    """

    rows: list[tuple[dict, str]]
    survey: Survey
    encoding: Encoding


def deal_documents(
    data: LabelledTexts | Source | Iterable[dict],
    encoding: Encoding,
    validation: LabelledTexts | Source | Iterable[dict] | float | None = None,
    seed: int = 0,
) -> Documents:
    """Read documents, say in the log what they are, and deal them: to train on, and to validate by.

    Args:
        data, encoding, validation, seed: See `build_corpus`.

    Raises:
        ValueError: For a share that is none of a source, no documents, too few to hold some out, or fewer than two
            labels.
    """
    check_at_least(0, seed=seed)
    share = float(validation) if isinstance(validation, numbers.Real) else None
    source = data.path if isinstance(data, Source) else "data"
    if share is not None and (not isinstance(data, LabelledTexts | Source) or not 0 < share < 1):
        raise ValueError(
            f"`validation` as a share of labelled texts or a source must lie in (0, 1). Received: {validation=}"
        )
    parts = [list(part or ()) for part in (data, None if share else validation)]
    rows = [row for part in parts for row in part]
    survey = Survey(rows, encoding)
    split_of_part = np.repeat(np.arange(2, dtype="uint8"), [len(part) for part in parts])
    for split, (name, part) in enumerate((("data", data), ("validation", validation))):
        empty = np.flatnonzero(~survey.visible[split_of_part == split])
        if len(empty) and not isinstance(part, Source):
            raise ValueError(f"`{name}` must hold no row with an empty text. Received: row {empty[0] + 1}")
    if not survey.visible[split_of_part == 0].any():
        raise ValueError(f"`data` must hold documents with a visible text. Received: none in {source}")
    survey.classes("data", f" {WITHOUT_LABELS}")
    survey.check_copied("data")
    if not share:
        splits = np.where(survey.visible, split_of_part, np.uint8(LEFT_OUT))
    elif isinstance(data, LabelledTexts):  # As in 0.1, whose unfinished runs resume.
        splits = hold_out(data, share, seed).astype("uint8")
    else:
        splits = survey.hold_some_out(survey.deal(share, seed, "data"))
        if not np.any(splits == 1):
            raise ValueError(
                f"`data` must hold enough different documents to hold some out. Received: {survey.visible.sum()} "
                "documents"
            )
    survey.log(splits, source)
    rows = [(row, SPLITS[split]) for row, split in zip(rows, splits, strict=True) if split != LEFT_OUT]
    if encoding.label is not None:
        train, held = ({label for row, of in rows if of == split for label in encoding.label(row)} for split in SPLITS)
        if unseen := sorted(held - train):
            listed = ", ".join(map(_shown, unseen[:LISTED])) + (", ..." if len(unseen) > LISTED else "")
            logger.warning("labels of validation documents alone, which training cannot learn: %s", listed)
    return Documents(rows, survey, encoding)


def log_labels(counts: Mapping[str, int], source: object, unit: str = "documents") -> None:
    """Log each label with its number, the commonest first, and warn of labels that look like mistakes.

    Beyond `LISTED` labels the others are summed up. Characters that do not show are escaped.

    Args:
        counts: How often each label comes.
        source: What the log calls the data.
        unit: What is counted.
    """
    ranked = sorted(counts, key=lambda label: (-counts[label], label))
    listed = _listed(ranked[:LISTED], counts)
    if rest := ranked[LISTED:]:
        listed += f", and {len(rest):,} more with {sum(counts[label] for label in rest):,} together"
    logger.info("%s: %s labels, and how many %s have each: %s", source, f"{len(counts):,}", unit, listed)
    missing = [label for label in ranked if label.casefold() in MISSING]
    if missing:
        logger.warning(
            "%s: labels that usually mean a missing one are classes here: %s", source, _listed(missing, counts)
        )
    alike = {}
    for label in ranked:
        alike.setdefault(_plain(label), []).append(label)
    alike = [_listed(labels[:LISTED], counts) for labels in alike.values() if len(labels) > 1]
    if alike:
        more = f"; and {len(alike) - LISTED:,} more such groups" if len(alike) > LISTED else ""
        listed = "; ".join(alike[:LISTED]) + more
        logger.warning("%s: labels that look alike are different classes here: %s", source, listed)
    alone = sum(count == 1 for count in counts.values())
    if unit == "documents" and 2 * alone > len(counts):
        logger.warning(
            "%s: %s of %s labels come once: is `label_column` right?", source, f"{alone:,}", f"{len(counts):,}"
        )


def _listed(labels: Iterable[str], counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_shown(label)} {counts[label]:,}" for label in labels)


def _shown(label: str) -> str:
    return repr(label if len(label) <= 60 else f"{label[:59]}…")  # `repr` escapes what does not show.


def _plain(label: str) -> str:
    """Return a label as a reader sees it: without case, characters that do not show, and ".0" behind a number."""
    shown = "".join(char for char in label if unicodedata.category(char) not in ("Cc", "Cf"))
    plain = " ".join(unicodedata.normalize("NFKC", shown).casefold().split())
    try:
        return str(float(plain))
    except ValueError:
        return plain
