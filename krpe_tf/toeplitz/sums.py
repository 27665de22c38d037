"""Attention without positions, neither biases nor order: all keys reach every query through one sum."""

from keras import ops

from .numerics import TINY, append_one, at_least_float32, divide, hide_keys


def sum_keys(key_features, value, key_mask=None):
    """Return all that queries need of keys and values, whatever their number: the sum of phi(k)^T [v, 1] over the keys.

    Args:
        key_features: (batch, heads, n_k, m).
        value: (batch, heads, n_k, d).
        key_mask: None, or (batch, n_k), zero where a key is hidden.

    Returns:
        (batch, heads, m, d + 1), in float32 or float64; zeros where there are no keys.
    """
    key, value = hide_keys(at_least_float32(key_features), at_least_float32(value), key_mask)
    return ops.matmul(ops.swapaxes(key, -1, -2), append_one(value))


def read_sums(query_features, sums, positive: bool = False):
    """Compute attention of queries (batch, heads, n_q, m) to the keys of a sum: (batch, heads, n_q, d).

    Args:
        query_features: the queries.
        sums: from `sum_keys`.
        positive: whether features are known to be positive: no denominator then needs a look at its sign.
    """
    sums = ops.matmul(at_least_float32(query_features), sums)
    return sums[..., :-1] / (sums[..., -1:] + TINY) if positive else divide(sums)
