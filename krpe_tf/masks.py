"""What padding and attention masks do to the arrays of an attention layer."""

import functools

from keras import ops


def zero_masked(x, mask):
    """Return `x` with zeros in its masked places, so that what stands there reaches neither outputs nor gradients."""
    return x if mask is None else ops.where(ops.cast(mask, "bool")[..., None], x, ops.zeros((), x.dtype))


def visible_keys(value_mask, key_mask, attention_mask):
    """Return all masks over keys as one, bool (batch, n_k), or None."""
    if attention_mask is not None and len(attention_mask.shape) == 3:
        attention_mask = attention_mask[:, 0]
    masks = [ops.cast(mask, "bool") for mask in (value_mask, key_mask, attention_mask) if mask is not None]
    return functools.reduce(ops.logical_and, masks) if masks else None
