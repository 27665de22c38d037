"""Next-token targets of a batch of windows."""

import numpy as np

from .batches import Array


class Shifting:
    """A transform of `windows`: at each token, ask for the next one in the same window.

    A batch of windows of n + 1 tokens is `(inputs, labels, sample_weight)` of length n. `inputs` holds int32
    "token_ids" and "padding_mask" `(rows, n)`, and of packed rows "segment_ids"; `labels` int32 `(rows, n)` are the
    tokens one place further; `sample_weight` float32 `(rows, n)` is 0 where that is padding or of another window.

    With an `overlap` of 1 every token of a document but the first is a target, exactly once an epoch.

    Args:
        pad_id: What fills a row.
    """

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def signature(self, rows: int, length: int) -> tuple:
        """Return the shapes and dtypes of a batch."""
        tokens = Array((rows, length - 1), "int32")
        return {"token_ids": tokens, "padding_mask": tokens}, tokens, Array(tokens.shape, "float32")

    def __call__(
        self,
        ids: np.ndarray,
        seed: tuple[int, ...],
        first_row: int,
        batch_size: int,
        segment_ids: np.ndarray | None = None,
    ) -> tuple:
        """Shift rows of a batch; see `Transform`. Nothing is drawn."""
        real = ids != self.pad_id
        inputs, labels = {"token_ids": ids[:, :-1], "padding_mask": real[:, :-1].astype("int32")}, ids[:, 1:]
        asked = real[:, 1:]
        if segment_ids is not None:
            inputs["segment_ids"] = segment_ids[:, :-1]
            asked = asked & (segment_ids[:, 1:] == segment_ids[:, :-1])
        return inputs, labels, asked.astype("float32")


def shifting(pad_id: int) -> Shifting:
    """Make the next-token transform of `windows`; for the argument see `Shifting`."""
    return Shifting(pad_id)
