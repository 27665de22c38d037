"""Keys and values that are kept: what the exact kernel reads in place of sums, at a cost that grows with their number.

A cache holds "keys" (batch, heads, length, width) and "values" (batch, heads, length, d + 1), which are [v, 1]. Places
that are hidden, or that nothing was written to yet, hold zeros, the 1 too. What was read last stands last, so that each
entry of a batch may have read another number of positions.
"""

from keras import ops

from ..checks import known_values
from .dense import exp_from_row_maximum
from .numerics import append_one, at_least_float32, divide, hide_keys, toeplitz_rows
from .streaming import window


def initial_cache(heads: int, batch_size: int, max_length: int, width: int, d: int) -> dict:
    """Return the cache of streams that have read nothing: zeros.

    Args:
        heads: number of heads.
        batch_size: number of streams.
        max_length: how many positions it holds.
        width, d: widths of keys and values.
    """
    return {
        "keys": ops.zeros((batch_size, heads, max_length, width), "float32"),
        "values": ops.zeros((batch_size, heads, max_length, d + 1), "float32"),
    }


def make_cache(key, value, key_mask=None) -> dict:
    """Return the cache of keys and values (batch, heads, n_k, width); `key_mask` as in `toeplitz_attention`."""
    key, ones_too = hide_keys(at_least_float32(key), append_one(at_least_float32(value)), key_mask)
    return {"keys": key, "values": ones_too}


def read_cache(query, cache: dict, bias=None, past=None):
    """Compute attention with the kernel exp(q . k) to all that a cache holds: (batch, heads, n_q, d).

    Args:
        query: (batch, heads, n_q, width).
        cache: keys and values.
        bias: None, or log-weights (heads, n_q, length).
        past: None, or bool (n_q, length), false where a place is hidden from a query.
    """
    if cache["keys"].shape[2] == 0:
        return ops.zeros((*ops.shape(query)[:3], cache["values"].shape[-1] - 1), cache["values"].dtype)
    logits = ops.matmul(at_least_float32(query), ops.swapaxes(cache["keys"], -1, -2))
    logits = logits if bias is None else logits + bias[None]
    visible = cache["values"][:, :1, None, :, -1] > 0
    visible = visible if past is None else ops.logical_and(visible, past)
    return divide(ops.matmul(exp_from_row_maximum(logits, visible), cache["values"]))


def stream_cache(query, key, value, position_bias, cache: dict, key_mask=None, count=None):
    """Read n more positions with the kernel exp(q . k).

    Args:
        query, key: (batch, heads, n, width), n known and at least 1.
        value: (batch, heads, n, d).
        position_bias: a bias with `log_weights`.
        cache: from `initial_cache`, or from the previous call.
        key_mask, count: as in `stream`.

    Returns:
        (batch, heads, n, d), and the new cache.

    Raises:
        ValueError: If the cache is known to hold fewer positions than were read.
    """
    n, length = query.shape[2], cache["keys"].shape[2]
    _check_room(cache, n, count)
    new = make_cache(key, value, key_mask)
    both = {name: ops.concatenate([ops.cast(cache[name], new[name].dtype), new[name]], axis=2) for name in new}
    # The first of these queries stands behind `length` places.
    offsets = ops.arange(length + 2 * n - 1) - (length + n - 1)
    bias = toeplitz_rows(ops.cast(position_bias.log_weights(offsets), new["keys"].dtype), n, length + n)
    past = ops.arange(length + n) <= length + ops.arange(n)[:, None]
    output = read_cache(query, both, bias, past)
    return output, {name: window(x, n if count is None else count, length) for name, x in both.items()}


def _check_room(cache: dict, n: int, count):
    """Raise a ValueError if places that hold a position are known to leave the cache."""
    length = cache["values"].shape[2]
    leaving = n if count is None else known_values(count)
    written = None if leaving is None else known_values(cache["values"][:, 0, :, -1])
    if written is None:
        return
    free = (written != 0).argmax(axis=1)
    free[~(written != 0).any(axis=1)] = length
    if (free < leaving).any():
        raise ValueError(
            "`max_length` of the state must be at least the number of positions that are read. "
            f"Received: max_length={length}, and {length - free.min()} read before {leaving} more"
        )
