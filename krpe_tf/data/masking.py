"""The masked-LM corruption of a batch of windows: 15 % of the tokens selected, 80/10/10."""

import math

import numpy as np

from ..text import Tokenizer
from .batches import Array


class Masking:
    """A transform of `windows`: select tokens, replace them, and ask for those that were there.

    A selected token becomes [MASK] (80 %), a random ordinary token (10 %) or stays (10 %); [CLS], [SEP] and padding are
    never selected. How many of a row are selected is the expected number, rounded up or down at random.

    A batch is `(inputs, labels, sample_weight)`. `inputs` holds int32 "token_ids" and "padding_mask" `(rows, length)`
    and "mask_positions" `(rows, P)`, ascending, with P = ceil(selection_rate * length); `labels` int32 `(rows, P)` are
    the ids that were there; `sample_weight` float32 `(rows, P)` is 0 where fewer than P were selected (position and
    label 0 there).

    Args:
        tokenizer: Knows the special ids, and which ids are ordinary.
        selection_rate: Expected share of selected tokens, in (0, 1).

    Raises:
        ValueError: For a tokenizer without a mask token, or a rate out of range.
    """

    def __init__(self, tokenizer: Tokenizer, selection_rate: float = 0.15):
        if tokenizer.mask_id is None:
            raise ValueError("`tokenizer` must have a mask token. Received: a tokenizer with mask_id=None")
        if not 0 < selection_rate < 1:
            raise ValueError(f"`selection_rate` must lie between 0 and 1. Received: selection_rate={selection_rate}")
        self.tokenizer = tokenizer
        self.selection_rate = selection_rate
        self._ordinary = np.setdiff1d(np.arange(tokenizer.vocabulary_size), [*tokenizer.reserved_ids]).astype("int32")

    def positions_per_row(self, length: int) -> int:
        """Return P, the most tokens that are selected in a row."""
        return math.ceil(self.selection_rate * length)

    def signature(self, rows: int, length: int) -> tuple:
        """Return the shapes and dtypes of a batch."""
        tokens, positions = Array((rows, length), "int32"), Array((rows, self.positions_per_row(length)), "int32")
        inputs = {"token_ids": tokens, "padding_mask": tokens, "mask_positions": positions}
        return inputs, positions, Array(positions.shape, "float32")

    def __call__(
        self,
        ids: np.ndarray,
        seed: tuple[int, ...],
        first_row: int,
        batch_size: int,
        segment_ids: np.ndarray | None = None,
    ) -> tuple:
        """Mask rows of a batch, the same however many of its rows are given; see `Transform`."""
        tokenizer, (rows, length) = self.tokenizer, ids.shape
        count = self.positions_per_row(length)
        # The draws of the whole batch: a row's do not depend on which process makes it.
        random = np.random.default_rng(seed)
        rounding, scores, choice, other = (
            random.random((batch_size, width))[first_row : first_row + rows] for width in (1, length, count, count)
        )
        padding_mask = ids != tokenizer.pad_id
        selectable = padding_mask & (ids != tokenizer.start_id) & (ids != tokenizer.end_id)
        # Rounded up with the probability of the fraction: selection_rate is met on average at every length.
        expected = self.selection_rate * selectable.sum(axis=1, keepdims=True)
        selected = np.minimum((expected + rounding).astype(int), count)
        scores[~selectable] = -1
        positions = np.argpartition(scores, length - count, axis=1)[:, length - count :]
        best = np.take_along_axis(scores, positions, axis=1)
        # Those with the highest scores, ascending; free places go to the end.
        real = np.argsort(np.argsort(-best, axis=1), axis=1) < selected
        positions = np.sort(np.where(real, positions, length), axis=1)
        real = positions < length
        positions = np.where(real, positions, 0).astype("int32")

        labels = np.where(real, np.take_along_axis(ids, positions, axis=1), 0).astype("int32")
        drawn = self._ordinary[(other * len(self._ordinary)).astype(int)]
        replaced = np.where(choice < 0.8, np.int32(tokenizer.mask_id), np.where(choice < 0.9, drawn, labels))
        masked = ids.copy()
        row, place = np.nonzero(real)
        masked[row, positions[row, place]] = replaced[row, place]
        inputs = {"token_ids": masked, "padding_mask": padding_mask.astype("int32"), "mask_positions": positions}
        if segment_ids is not None:
            inputs["segment_ids"] = segment_ids
        return inputs, labels, real.astype("float32")


def masking(tokenizer: Tokenizer, selection_rate: float = 0.15) -> Masking:
    """Make the masked-LM transform of `windows`; for the arguments see `Masking`."""
    return Masking(tokenizer, selection_rate)
