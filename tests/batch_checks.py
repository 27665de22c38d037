"""What tests of batches share: batches as numpy arrays, and what was masked in them."""

import numpy as np
import tensorflow as tf


def taken(dataset, count=-1):
    return [tf.nest.map_structure(lambda x: x.numpy(), batch) for batch in dataset.take(count)]


def same(left, right):
    left, right = tf.nest.flatten(left), tf.nest.flatten(right)
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def joined(parts):
    return tf.nest.map_structure(lambda *rows: np.concatenate(rows), *parts)


def restore(inputs, labels, weights):
    """The ids before they were masked."""
    ids = inputs["token_ids"].copy()
    row, place = np.nonzero(weights)
    ids[row, inputs["mask_positions"][row, place]] = labels[row, place]
    return ids
