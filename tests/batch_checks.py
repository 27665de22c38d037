"""What tests of batches share: batches as numpy arrays, and what was masked in them."""

import itertools

import keras
import numpy as np


def taken(batches, count=None):
    """The first batches of a dataset, or of `Batches`."""
    found = itertools.islice(iter(batches), count)
    return [keras.tree.map_structure(np.asarray, batch) for batch in found]


def same(left, right):
    left, right = keras.tree.flatten(left), keras.tree.flatten(right)
    return len(left) == len(right) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(left, right, strict=True)
    )


def joined(parts):
    return keras.tree.map_structure(lambda *rows: np.concatenate(rows), *parts)


def restore(inputs, labels, weights):
    """The ids before they were masked."""
    ids = inputs["token_ids"].copy()
    row, place = np.nonzero(weights)
    ids[row, inputs["mask_positions"][row, place]] = labels[row, place]
    return ids


def real_rows(batches):
    """The ids before they were masked of all rows that are no padding, as tuples in order."""
    rows = [tuple(row) for batch in batches for row in restore(*batch).tolist()]
    return [row for row in rows if any(row)]
