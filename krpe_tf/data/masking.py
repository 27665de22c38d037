"""Windows of documents, and the masked-LM corruption of a batch of them.

TensorFlow is imported where it is used.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from ..checks import check_at_least

if TYPE_CHECKING:
    import tensorflow as tf

    from ..text import Tokenizer


def check_masking(tokenizer: "Tokenizer", length: int, batch_size: int, selection_rate: float) -> None:
    """Raises a ValueError unless masked-LM batches can be made so."""
    check_at_least(3, length=length)
    check_at_least(1, batch_size=batch_size)
    if tokenizer.mask_id is None:
        raise ValueError("tokenizer must have a mask token. Received: a tokenizer with mask_id=None")
    if not 0 < selection_rate < 1:
        raise ValueError(f"selection_rate must lie between 0 and 1. Received: selection_rate={selection_rate}")


def window_counts(lengths: np.ndarray, length: int) -> np.ndarray:
    """How many windows of `length` tokens touch to cover each document of these token counts, [CLS] and [SEP] included.

    A last window that would hold nothing but [SEP] is none: it is no text.
    """
    return -(-(lengths - 1) // length)


class Masking:
    """The corruption of masked LM: 15 % of the tokens selected, 80/10/10, a function of a seed.

    Not tensorflow-text's `mask_language_model`: its `MaskValuesChooser` draws from stateful ops with no seed argument,
    and `RandomItemSelector` gives its shuffle function no way to tell the rows of a batch apart.

    Args:
        tokenizer: Knows the special ids, and which ids are ordinary.
        length: Tokens a row.
        batch_size: Rows of the whole batch, of all processes together.
        selection_rate: Expected share of selected tokens, in (0, 1).
    """

    def __init__(self, tokenizer: "Tokenizer", length: int, batch_size: int, selection_rate: float):
        self.tokenizer = tokenizer
        self.length = length
        self.batch_size = batch_size
        self.selection_rate = selection_rate
        self.positions_per_row = math.ceil(selection_rate * length)
        self.ordinary = np.array([i for i in range(tokenizer.vocabulary_size) if i not in tokenizer.reserved_ids])

    def __call__(self, ids: "tf.Tensor", seed: "tf.Tensor", first_row: int) -> tuple:
        """Mask rows of a batch, inside a graph.

        Args:
            ids: int32 `(rows, length)`.
            seed: Two integers. The same seed gives the same masks.
            first_row: Place of the first of these rows in the whole batch: its rows are masked alike, however many of
                them are given.

        Returns:
            `(inputs, labels, sample_weight)`, see `masked_lm_dataset`.
        """
        import tensorflow as tf

        tokenizer, rows = self.tokenizer, ids.shape[0]

        def draw(stream: int, width: int) -> tf.Tensor:
            # Philox by name: left to itself TensorFlow chooses by device.
            folded = tf.random.fold_in(tf.stack(seed), stream)
            drawn = tf.random.stateless_uniform([self.batch_size, width], folded, alg="philox")
            return drawn[first_row : first_row + rows]

        padding_mask = tf.not_equal(ids, tokenizer.pad_id)
        selectable = padding_mask & tf.not_equal(ids, tokenizer.start_id) & tf.not_equal(ids, tokenizer.end_id)
        # Rounded up with the probability of the fraction: selection_rate is met on average at every length.
        expected = self.selection_rate * tf.reduce_sum(tf.cast(selectable, tf.float32), axis=1, keepdims=True)
        selected_per_row = tf.cast(expected + draw(0, 1), tf.int32)
        scores = tf.where(selectable, draw(1, self.length), -1.0)
        rank = tf.argsort(tf.argsort(scores, direction="DESCENDING"))
        selected = selectable & (rank < tf.minimum(selected_per_row, self.positions_per_row))

        choice = draw(2, self.length)
        random_ids = tf.gather(self.ordinary, tf.cast(draw(3, self.length) * len(self.ordinary), tf.int32))
        random_ids = tf.cast(random_ids, tf.int32)
        replaced = tf.where(choice < 0.8, tokenizer.mask_id, tf.where(choice < 0.9, random_ids, ids))

        # Selected positions first, in their order: a stable sort of "not selected".
        positions = tf.argsort(tf.cast(~selected, tf.int32), axis=1, stable=True)[:, : self.positions_per_row]
        real = tf.gather(selected, positions, batch_dims=1)
        positions = tf.where(real, positions, 0)
        inputs = {
            "token_ids": tf.where(selected, replaced, ids),
            "padding_mask": tf.cast(padding_mask, tf.int32),
            "mask_positions": positions,
        }
        labels = tf.where(real, tf.gather(ids, positions, batch_dims=1), 0)
        return inputs, labels, tf.cast(real, tf.float32)
