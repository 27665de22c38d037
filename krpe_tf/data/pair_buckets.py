"""Pairs of sequences in few shapes: which ones, how many pairs a batch takes, what is left out, the batches."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..checks import check_at_least
from ..text import Tokenizer
from .batches import Array, Batches
from .buckets import Plan
from .ragged import Ragged

# Lengths that a side may be padded to: multiples of the first, each about that much more than the one before.
MULTIPLE, GROWTH = 8, 1.2


@dataclass(frozen=True)
class PairReport:
    """What the batches of an epoch hold.

    Attributes:
        pairs: How many there are.
        left_out: How many of them no shape holds.
        shapes: Tokens of source and target.
        padding: The share of all places that holds none of their tokens.
    """

    pairs: int
    left_out: int
    shapes: tuple[tuple[int, int], ...]
    padding: float

    def __str__(self) -> str:
        """Describe it in one line."""
        left_out = f"; left out {self.left_out:,} of {self.pairs:,} pairs, with a side longer than `max_length`"
        return (
            f"{self.pairs - self.left_out:,} pairs in batches of {len(self.shapes)} shapes, "
            f"{100 * self.padding:.3g} % of them padding{left_out if self.left_out else ''}"
        )


def pair_lengths(fields: Mapping[str, Ragged]) -> np.ndarray:
    """Return the tokens of each side, int64 `(pairs, 2)`: of the source, and of the target as the decoder reads it."""
    return np.stack([fields["source_ids"].lengths, fields["target_ids"].lengths - 1], axis=1)


def pair_shapes(lengths: np.ndarray, max_length: int, batch_tokens: int, most: int) -> list[tuple[int, int]]:
    """Choose the shapes that pairs are padded to, so that little is padding.

    Each pair starts in the smallest shape of a grid that holds it. Then the two shapes are joined to one that holds
    both for which this adds the least padding, again and again, until there are no more than `most`, and as long as
    that adds less than the batches filled in part that it saves, half a batch each.

    Args:
        lengths: See `pair_lengths`; longer pairs than `max_length` are left out.
        max_length: Most tokens of a side.
        batch_tokens: Tokens a batch, of both sides and padding included.
        most: How many shapes at most.

    Returns:
        The shapes, (source, target), sorted.

    Raises:
        ValueError: If all pairs are longer.
    """
    rungs, fitting = _rungs(max_length), lengths[(lengths <= max_length).all(axis=1)]
    if not len(fitting):
        raise ValueError(
            f"`max_length` must hold some pair. Received: max_length={max_length}, and {len(lengths):,} pairs with a "
            "side that is longer"
        )
    shapes, counts = np.unique(rungs[np.searchsorted(rungs, fitting)], axis=0, return_counts=True)
    while len(shapes) > 1:
        joined = np.maximum(shapes[:, np.newaxis], shapes)
        added = counts[:, np.newaxis] * (joined - shapes[:, np.newaxis]).sum(-1)
        added = (added + added.T + np.diag(np.full(len(shapes), np.inf))).astype("float64")
        first, second = divmod(int(added.argmin()), len(shapes))
        if len(shapes) <= most and added[first, second] > batch_tokens / 2:
            break
        shapes[first], counts[first] = joined[first, second], counts[first] + counts[second]
        shapes, counts = np.delete(shapes, second, axis=0), np.delete(counts, second)
    return sorted({(int(source), int(target)) for source, target in shapes})


def _rungs(max_length: int) -> np.ndarray:
    """Return the lengths that a side may be padded to."""
    rungs = [MULTIPLE]
    while rungs[-1] < max_length:
        rungs.append(MULTIPLE * max(rungs[-1] // MULTIPLE + 1, int(rungs[-1] * GROWTH) // MULTIPLE))
    return np.array([*rungs[:-1], max_length])


def pair_buckets(
    fields: Mapping[str, Ragged],
    shapes: list[tuple[int, int]],
    batch_tokens: int,
    *,
    tokenizer: Tokenizer,
    seed: int = 0,
    shuffle: bool = True,
    batch_multiple: int = 1,
) -> tuple[Batches, PairReport]:
    """Make `Batches` of whole pairs, each in the smallest shape that holds it, about as many tokens in each batch.

    All batches of a shape have one number of rows, the largest multiple of `batch_multiple` within `batch_tokens`, but
    at least `batch_multiple`. Every pair that a shape holds comes once an epoch, and none is truncated: the last batch
    of a shape is filled with rows of padding of weight 0, and a loss must divide by the sum of weights.

    Args:
        fields: "source_ids" and "target_ids", both with a start and an end token.
        shapes: Tokens of source and target, see `pair_shapes`.
        batch_tokens: Tokens a batch, of both sides and padding included.
        tokenizer: Knows the id of padding.
        seed: For the order, 0 or more.
        shuffle: Draw a new order each epoch. False: by shape, then in the pairs' order, in every epoch.
        batch_multiple: What divides the rows of every batch: the number of devices or processes.

    Returns:
        The batches, `({"source_ids", "source_mask", "token_ids", "padding_mask"}, labels, sample_weight)`: int32
        `(rows, source)` twice and `(rows, target)` twice, int32 and float32 `(rows, target)`. "token_ids" begin with
        the start token, and labels are the tokens one place further, the end token last. And what they hold.

    Raises:
        ValueError: If no shape holds a pair, or for numbers outside the ranges above.
    """
    check_at_least(1, batch_tokens=batch_tokens, batch_multiple=batch_multiple)
    check_at_least(0, seed=seed)
    lengths, shapes = pair_lengths(fields), sorted(shapes, key=lambda shape: (sum(shape), shape))
    shape_of = np.full(len(lengths), len(shapes), "uint8")
    for index, shape in reversed([*enumerate(shapes)]):
        shape_of[(lengths <= shape).all(axis=1)] = index
    kept = np.flatnonzero(shape_of < len(shapes))
    if not len(kept):
        raise ValueError(
            "`shapes` must hold some pair; a larger `max_length` makes larger ones. Received: "
            f"{len(lengths):,} pairs, none of which fits into shapes={shapes}"
        )
    rows = [batch_multiple * max(1, batch_tokens // sum(shape) // batch_multiple) for shape in shapes]
    plan = Plan(shape_of[kept], rows, seed, shuffle)
    sources, targets, pad_id = fields["source_ids"], fields["target_ids"], tokenizer.pad_id

    def make(step: int, process_index: int, process_count: int) -> tuple:
        bucket, members = plan.batch(step)
        size, (source, target) = rows[bucket] // process_count, shapes[bucket]
        mine = kept[members[process_index * size : (process_index + 1) * size]]
        masks = [np.zeros((size, width), "int32") for width in (source, target)]
        for side, mask in enumerate(masks):
            mask[: len(mine)] = np.arange(mask.shape[1]) < lengths[mine, side, np.newaxis]
        read, starts = lengths[mine, 1], targets.starts[mine]
        inputs = {
            "source_ids": sources.padded(sources.starts[mine], lengths[mine, 0], (size, source), pad_id),
            "source_mask": masks[0],
            "token_ids": targets.padded(starts, read, (size, target), pad_id),
            "padding_mask": masks[1],
        }
        return inputs, targets.padded(starts + 1, read, (size, target), pad_id), masks[1].astype("float32")

    tokens = Array((None, None), "int32")
    names = ("source_ids", "source_mask", "token_ids", "padding_mask")
    signature = dict.fromkeys(names, tokens), tokens, Array((None, None), "float32")
    counts = -(-np.bincount(shape_of[kept], minlength=len(shapes)) // np.array(rows))
    places = int(np.sum(counts * rows * np.sum(shapes, axis=1)))
    padding = 1 - int(lengths[kept].sum()) / places
    report = PairReport(len(lengths), len(lengths) - len(kept), tuple(shapes), padding)
    return Batches(make, plan.steps, batch_multiple, signature), report
