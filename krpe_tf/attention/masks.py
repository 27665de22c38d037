"""What padding and attention masks do to the arrays of an attention layer."""

import functools

from keras import name_scope, ops


def zero_masked(x, mask):
    """Return `x` with zeros in its masked places, so that what stands there reaches neither outputs nor gradients."""
    if mask is None:
        return x
    # Where sizes are known only while a graph runs, its error names this scope: a mask does not fit.
    with name_scope("mask"):
        return ops.where(ops.cast(mask, "bool")[..., None], x, ops.zeros((), x.dtype))


def is_mask_of_pairs(attention_mask) -> bool:
    """Return whether the mask may hide a key from some queries or heads only."""
    shape = attention_mask.shape
    return len(shape) > 2 and any(size != 1 for size in shape[1:-1])


def visible_keys_and_pairs(query, key, value_mask, key_mask, attention_mask):
    """Return what all masks but the query's leave visible.

    Args:
        query, key: (batch, n_q, width) and (batch, n_k, width).
        value_mask, key_mask, attention_mask: as in `KernelizedRPEAttention`.

    Returns:
        bool (batch, n_k), false where no query sees a key, and bool (batch or 1, heads or 1, n_q, n_k), which keys a
        query sees. None where nothing is hidden, or nothing from some queries only.
    """
    pairs, masks = None, [value_mask, key_mask]
    with name_scope("mask"):
        if attention_mask is not None:
            of_keys = ops.cast(attention_mask, "bool")
            if is_mask_of_pairs(of_keys):
                pairs = of_keys if len(of_keys.shape) == 4 else of_keys[:, None]
                if pairs.shape[2] is None or pairs.shape[2] == 1:
                    pairs = ops.logical_and(pairs, ops.ones((1, 1, ops.shape(query)[1], 1), "bool"))
                of_keys = ops.any(pairs, axis=(1, 2))
            while len(of_keys.shape) > 2:
                of_keys = of_keys[:, 0]
            if of_keys.shape[0] == 1 and key.shape[0] != 1:
                of_keys = ops.logical_and(of_keys, ops.ones((ops.shape(key)[0], 1), "bool"))
            masks.append(of_keys)
        masks = [ops.cast(mask, "bool") for mask in masks if mask is not None]
        return (functools.reduce(ops.logical_and, masks) if masks else None), pairs


def within_window(sliding_window, query, key, pairs):
    """Return which of the visible pairs, bool (batch or 1, heads or 1, n_q, n_k) or None, lie within a window."""
    if sliding_window is None:
        return pairs
    n_q, n_k = ops.shape(query)[1], ops.shape(key)[1]
    near = (ops.abs(ops.arange(n_k) - ops.arange(n_q)[:, None]) < sliding_window)[None, None]
    return near if pairs is None else ops.logical_and(near, pairs)
