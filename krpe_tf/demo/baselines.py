"""Baselines of the demo: what single words, and the few words around each, tell of its label."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import numpy as np


class MostFrequentLabel:
    """Gives every word the label that it had most often, and words that were not seen the most frequent of all.

    Args:
        rows: Training rows of "tokens" and "labels".
    """

    def __init__(self, rows: Iterable[dict]):
        counts = defaultdict(Counter)
        for row in rows:
            for word, label in zip(row["tokens"], row["labels"], strict=True):
                counts[word][label] += 1
        total = sum(counts.values(), Counter())
        self._label = {word: count.most_common(1)[0][0] for word, count in counts.items()}
        self._default = total.most_common(1)[0][0]

    def predict(self, rows: Iterable[dict]) -> np.ndarray:
        """Return a label for each word of all rows."""
        return np.array([self._label.get(word, self._default) for row in rows for word in row["tokens"]])


class WindowClassifier:
    """Logistic regression on hashed features of the words around each: single ones, pairs, triples and endings.

    Args:
        rows: See `MostFrequentLabel`.
        seed: Of the order of words.
    """

    def __init__(self, rows: Iterable[dict], seed: int):
        from sklearn.feature_extraction import FeatureHasher
        from sklearn.linear_model import SGDClassifier

        rows = list(rows)
        self._hasher = FeatureHasher(2**22, input_type="string", alternate_sign=False)
        # Settings: the best on the messages to validate by.
        self._model = SGDClassifier(
            loss="log_loss", alpha=3e-7, average=True, max_iter=6, tol=None, n_jobs=-1, random_state=seed
        )
        self._model.fit(self._features(rows), [label for row in rows for label in row["labels"]])

    def predict(self, rows: Iterable[dict]) -> np.ndarray:
        """Return a label for each word of all rows."""
        return self._model.predict(self._features(rows))

    def _features(self, rows: Iterable[dict]):
        return self._hasher.transform(features for row in rows for features in window_features(row["tokens"]))


def window_features(words: list[str]) -> Iterator[list[str]]:
    """Yield the features of each word, from three words before it to three after it."""
    padded = ["<s>"] * 3 + words + ["</s>"] * 3
    for place in range(len(words)):
        a, b, c, d, e, f, g = padded[place : place + 7]
        yield [
            *(f"{offset}{word}" for offset, word in enumerate((a, b, c, d, e, f, g))),
            *(f"34{d} {e}", f"23{c} {d}", f"45{e} {f}", f"24{c} {e}", f"345{d} {e} {f}", f"234{c} {d} {e}"),
            *(f"end3{d[-3:]}", f"end4{e[-3:]}"),
        ]
