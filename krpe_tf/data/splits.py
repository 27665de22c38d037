"""Documents to train on and documents to validate by."""

import math
from collections.abc import Callable, Mapping

import numpy as np

SPLITS = ("train", "validation")


def text_key(text: str) -> int:
    """Return a number that texts share if they differ in nothing but white space around them, and else hardly ever."""
    return hash(text.strip())


def check_shared_labels(counts: Mapping[str, int], argument: str) -> None:
    """Raise a ValueError if each label has one text: then none can be held out, and the column may be another one's."""
    if max(counts.values(), default=0) == 1:
        raise ValueError(
            f"`{argument}` must hold labels that several texts share, so that some can be held out: every label has "
            f"one text, is `label_column` right? Received: {len(counts)} labels of {len(counts)} texts"
        )


def streaming_holdout(fraction: float, seed: int) -> Callable[[str | None], bool]:
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
