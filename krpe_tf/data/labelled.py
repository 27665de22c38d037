"""Labelled texts in memory, as 0.1 had them: read, and split. `train` reads a path by `open_source`."""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..text import is_visible
from .readers import WITHOUT_LABELS
from .sources import open_source
from .splits import check_shared_labels, text_key


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and, place by place, their labels. Columns and rows are as of a `Source`."""

    columns: ClassVar[tuple[str, ...]] = ("text", "label")

    texts: list[str]
    labels: list[str]

    def __iter__(self) -> Iterator[dict]:
        """Iterate over the rows' values, by column."""
        return ({"text": text, "label": label} for text, label in zip(self.texts, self.labels, strict=True))

    @cached_property
    def classes(self) -> list[str]:
        """The distinct labels, sorted: a label's place is its class id."""
        return sorted(set(self.labels))


def load_labelled_texts(
    path: str | Path, text_column: str = "text", label_column: str = "label", *, argument: str = "path"
) -> LabelledTexts:
    """Read labelled documents.

    Args:
        path: A .csv file with a header, a .jsonl file with an object per line, or a folder with one subfolder of .txt
            files per label (hidden ones are skipped). All UTF-8; the order is the file's, or the sorted paths'.
        text_column: The column or key that holds the text; no matter for a folder.
        label_column: The column or key that holds the label, a string or an integer; no matter for a folder.
        argument: What messages call the path.

    Returns:
        The texts as they are, the labels without white space around them.

    Raises:
        ValueError: For a missing path, an unknown extension, a file that is not valid UTF-8, CSV or JSON, a missing
            column, no rows, a row with an empty text or label (rows count from 1, header and blank lines aside), or
            fewer than two labels.
    """
    source = open_source(path, ("text", "label"), {"text": text_column, "label": label_column}, argument=argument)
    received = f"Received: {argument}={str(path)!r}"
    texts, labels = [], []
    for row in source.rows():
        if not is_visible(row.values["text"]):
            raise ValueError(f"`{argument}` must hold no row with an empty text. Received: {row.place}")
        texts.append(row.values["text"])
        labels.append(row.values["label"])
    if not texts:
        raise ValueError(f"`{argument}` must hold texts, it has no rows. {received}")
    labelled = LabelledTexts(texts, labels)
    if len(labelled.classes) < 2:
        raise ValueError(
            f"`{argument}` must hold two labels or more, all are {labels[0]!r}. {WITHOUT_LABELS} {received}"
        )
    return labelled


def split_holdout(
    labelled: LabelledTexts, fraction: float, seed: int, groups: Sequence[Hashable] | None = None
) -> tuple[LabelledTexts, LabelledTexts]:
    """Hold out about `fraction` of each label's texts, or of whole groups.

    Args:
        labelled, fraction, seed, groups: See `hold_out`.

    Returns:
        `(train, validation)`, neither empty, each in the order of `labelled`, every label in train.

    Raises:
        ValueError: As `hold_out`.
    """
    held_out = hold_out(labelled, fraction, seed, groups)
    train, validation = (
        LabelledTexts([labelled.texts[i] for i in part], [labelled.labels[i] for i in part])
        for part in (np.flatnonzero(~held_out), np.flatnonzero(held_out))
    )
    return train, validation


def hold_out(
    labelled: LabelledTexts, fraction: float, seed: int, groups: Sequence[Hashable] | None = None
) -> np.ndarray:
    """Choose about `fraction` of each label's texts, or of whole groups.

    With groups (authors, say), all texts of a group land on one side: else the model may learn the author's style. The
    groups, in random order, are held out while that brings every label's share, taken together, closer to `fraction`.
    Without, equal texts are a group, see `text_key`; one that comes with two labels or more stays in training.

    Args:
        labelled: The texts.
        fraction: Share to hold out, in (0, 1).
        seed: The same seed gives the same split.
        groups: A group per text; None takes equal texts together. A label's only text then stays in training.

    Returns:
        Bool, which of the texts are held out: some, not all, and of each label at least one is not.

    Raises:
        ValueError: For a `fraction` out of range, `groups` of another length than the texts, texts or groups too few to
            hold one out, labels of one text each, or groups that leave a label without training texts.
    """
    count = len(labelled.texts)
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction` must lie between 0 and 1. Received: fraction={fraction}")
    if groups is not None and len(groups) != count:
        raise ValueError(f"`groups` must name a group per text, {count}. Received: {len(groups)} groups")
    class_ids = {label: index for index, label in enumerate(labelled.classes)}
    classes = np.array([class_ids[label] for label in labelled.labels], dtype=int)
    random = np.random.default_rng(seed)

    if groups is None:
        check_shared_labels(Counter(labelled.labels), "labelled")
        held_out = _hold_out_texts(labelled.texts, classes, fraction, random)
    else:
        order = {group: index for index, group in enumerate(dict.fromkeys(groups))}
        group_ids = np.array([order[group] for group in groups], dtype=int)
        per_group = np.zeros((len(order), len(class_ids)))
        np.add.at(per_group, (group_ids, classes), 1)
        missing = fraction * per_group.sum(axis=0)
        chosen = []
        for group in random.permutation(len(order)):
            if np.abs(missing - per_group[group]).sum() < np.abs(missing).sum():
                missing -= per_group[group]
                chosen.append(group)
        # With few large groups none may come closer than holding out nothing: take the one that misses least.
        chosen = chosen or [np.abs(missing - per_group).sum(axis=1).argmin()]
        held_out = np.isin(group_ids, chosen)
    if not held_out.any() or held_out.all():
        what = "texts" if groups is None else "groups"
        different = len(set(map(text_key, labelled.texts)))
        raise ValueError(
            f"`labelled` has too few {what} to hold some out. Received: {count} texts, {different} of them different, "
            f"{fraction=}"
        )
    untrained = sorted(set(labelled.labels) - {labelled.labels[index] for index in np.flatnonzero(~held_out)})
    if untrained:
        raise ValueError(f"`groups` leave labels without training texts: {untrained}. Received: {fraction=}, {seed=}")
    return held_out


def _hold_out_texts(texts: list[str], classes: np.ndarray, fraction: float, random: np.random.Generator) -> np.ndarray:
    """Return which texts are held out: of each class about `fraction`, equal texts together."""
    places = {}
    first = np.array([places.setdefault(text_key(text), place) for place, text in enumerate(texts)], dtype=int)
    copies = np.bincount(first, minlength=len(texts))  # Of a text, where it first stands; 0 elsewhere.
    copies[first[classes != classes[first]]] = 0  # Texts with two labels.
    held_out = np.zeros(len(texts), dtype=bool)
    for index in range(classes.max() + 1):
        order = random.permutation(np.flatnonzero((classes == index) & (copies > 0)))
        room = max(1, round(fraction * copies[order].sum()))
        chosen = []
        for place in order:
            if copies[place] <= room and len(chosen) < len(order) - 1:
                chosen.append(place)
                room -= copies[place]
        if not chosen and len(order) > 1:
            chosen = [min(order, key=copies.__getitem__)]
        held_out[chosen] = True
    return held_out[first]
