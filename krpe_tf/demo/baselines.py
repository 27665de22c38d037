"""Baselines of the demo."""

import numpy as np

from ..data import LabelledTexts


def majority_accuracy(train: LabelledTexts, test: LabelledTexts) -> float:
    """Return the accuracy of always predicting the most frequent training label."""
    most = max(train.classes, key=train.labels.count)
    return float(np.mean([label == most for label in test.labels]))


def tfidf_accuracy(train: LabelledTexts, test: LabelledTexts) -> float:
    """Return the accuracy of TF-IDF over words and word pairs with logistic regression, on whole messages."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    baseline = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2), max_features=50_000),
        LogisticRegression(C=10, max_iter=1000),
    )
    return float(baseline.fit(train.texts, train.labels).score(test.texts, test.labels))
