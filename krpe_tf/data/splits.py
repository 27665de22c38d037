"""Documents to train on and documents to validate by."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np

from ..text import is_visible
from .encoding import Encoding
from .sources import LabelledTexts, Source

SPLITS = ("train", "validation")


def split_holdout(
    labelled: LabelledTexts, fraction: float, seed: int, groups: Sequence[Hashable] | None = None
) -> tuple[LabelledTexts, LabelledTexts]:
    """Hold out about `fraction` of each label's texts, or of whole groups.

    With groups (authors, say), all texts of a group land on one side: else the model may learn the author's style. The
    groups, in random order, are held out while that brings every label's share, taken together, closer to `fraction`.

    Args:
        labelled: The texts.
        fraction: Share to hold out, in (0, 1).
        seed: The same seed gives the same split.
        groups: A group per text; None takes every text by itself. A label's only text then stays in training.

    Returns:
        `(train, validation)`, neither empty, each in the order of `labelled`, every label in train.

    Raises:
        ValueError: For a `fraction` out of range, `groups` of another length than the texts, texts or groups too few to
            hold one out, or groups that leave a label without training texts.
    """
    count = len(labelled.texts)
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction` must lie between 0 and 1. Received: fraction={fraction}")
    if groups is not None and len(groups) != count:
        raise ValueError(f"`groups` must name a group per text, {count}. Received: {len(groups)} groups")
    class_ids = {label: index for index, label in enumerate(labelled.classes)}
    classes = np.array([class_ids[label] for label in labelled.labels], dtype=int)
    random = np.random.default_rng(seed)

    held_out = np.zeros(count, dtype=bool)
    if groups is None:
        for members in (np.flatnonzero(classes == index) for index in range(len(class_ids))):
            size = min(max(1, round(fraction * len(members))), len(members) - 1)
            held_out[random.permutation(members)[:size]] = True
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
        raise ValueError(f"`labelled` has too few {what} to hold some out. Received: {count} texts, {fraction=}")
    untrained = sorted(set(labelled.labels) - {labelled.labels[index] for index in np.flatnonzero(~held_out)})
    if untrained:
        raise ValueError(f"`groups` leave labels without training texts: {untrained}. Received: {fraction=}, {seed=}")
    train, validation = (
        LabelledTexts([labelled.texts[i] for i in part], [labelled.labels[i] for i in part])
        for part in (np.flatnonzero(~held_out), np.flatnonzero(held_out))
    )
    return train, validation


def holdout(fraction: float, seed: int) -> Callable[[str | None], bool]:
    """Make a function that says of each document, one after the other, whether it is held out.

    Of each label it is one in each run of 1 / `fraction` documents, at random, and never the first: nothing needs to be
    known of the documents to come.

    Args:
        fraction: Share to hold out, in [0, 1).
        seed: The same seed gives the same answers.
    """
    labels = {}

    def held_out(label: str | None) -> bool:
        if not fraction:
            return False
        if label not in labels:
            entropy = [seed, 1, *(label or "").encode()]
            labels[label] = {"random": np.random.default_rng(entropy), "count": 0, "held": 0, "next": -1}
            draw(labels[label])
        state = labels[label]
        held = state["count"] == state["next"]
        state["count"] += 1
        if held:
            draw(state)
        return held

    def draw(state: dict) -> None:
        chosen = math.floor((state["held"] + state["random"].random()) / fraction)
        state["next"] = max(chosen, state["next"] + 1, 1)
        state["held"] += 1

    return held_out


class DealtRows:
    """The rows of a source, each with its split, "train" or "validation"; as often as wanted in the same order.

    Attributes: `left_out`, how many rows were skipped for want of a visible text, the last time.

    Args:
        source, encoding: What has the rows, and what says how they are held out.
        fraction, seed: See `holdout`.
    """

    def __init__(self, source: Source, encoding: Encoding, fraction: float, seed: int):
        self.left_out = 0
        self._source, self._encoding = source, encoding
        self._fraction, self._seed = fraction, seed

    def __iter__(self) -> Iterator[tuple[dict, str]]:
        """Iterate over the rows' values and their splits."""
        self.left_out = 0
        held_out, split = holdout(self._fraction, self._seed), SPLITS[0]

        def deal(values: dict) -> bool:
            nonlocal split
            split = SPLITS[held_out(self._encoding.stratum(values))]
            return True

        for row in self._source.rows(deal):
            if is_visible(self._encoding.text(row.values)):
                yield row.values, split
            else:
                self.left_out += 1
