"""Checks of a request: each raises a ValueError that names the argument, or a route that serves it."""

from keras import backend

from ..checks import check_at_least, shapes_differ
from .grid import is_grid


def check_shapes(query_features, key_features, value, position_bias, key_mask):
    """Raise a ValueError unless ranks, widths, lengths and heads agree."""
    shapes = {"query_features": query_features, "key_features": key_features, "value": value}
    shapes = {name: tuple(x.shape) for name, x in shapes.items()}
    for name, shape in shapes.items():
        if len(shape) != 4:
            raise ValueError(
                f"`{name}` must have rank 4: (batch, heads, length, width). Received: {name}.shape={shape}"
            )
    query, key, value = shapes.values()
    same_features = not shapes_differ(query[:2] + query[3:], key[:2] + key[3:])
    if not same_features or shapes_differ(key[:3], value[:3]):
        raise ValueError(
            "`query_features` and `key_features` must have the same batch, heads and width, `key_features` and `value` "
            f"the same batch, heads and length. Received: query_features.shape={query}, key_features.shape={key}, "
            f"value.shape={value}"
        )
    if position_bias is not None and position_bias.num_heads != query[1]:
        raise ValueError(
            f"`position_bias` must have as many heads as `query_features`, {query[1]}. "
            f"Received: position_bias.num_heads={position_bias.num_heads}"
        )
    expected = (key[0], key[2])
    if key_mask is not None and shapes_differ(key_mask.shape, expected):
        raise ValueError(
            f"`key_mask` must have shape (batch, n_k) = {expected}. Received: key_mask.shape={tuple(key_mask.shape)}"
        )


def check_route(route, position_bias, n_q, n_k, causal, prefix_length):
    """Raise a ValueError unless the route serves the bias, the order and the lengths."""
    if is_grid(position_bias):
        check_grid(position_bias, n_q, n_k)
        if causal and route == "fft":
            raise ValueError(
                'route="fft" serves a bias over two axes without `causal` only; take "dense". '
                f"Received: causal={causal}, position_bias={position_bias!r}"
            )
    if route in ("banded", "streaming") and not hasattr(position_bias, "tails"):
        others = '"dense"' if causal and is_grid(position_bias) else '"fft" or "dense"'
        raise ValueError(
            f'route="{route}" needs a bias with `radius` and `tails`; take {others}. '
            f"Received: position_bias={position_bias!r}"
        )
    check_prefix(prefix_length, causal)
    if route != "streaming":
        return
    if not causal or prefix_length:
        raise ValueError(
            'route="streaming" needs `causal=True` and no prefix, since it reads positions in order and never ahead; '
            f'take "banded". Received: causal={causal}, prefix_length={prefix_length}'
        )
    if n_q is None or n_q != n_k:
        raise ValueError(
            'route="streaming" needs queries and keys at the same positions, of a known length; take "banded". '
            f"Received: n_q={n_q}, n_k={n_k}"
        )


def check_pair_mask(pair_mask, query_features, key_features, route="auto"):
    """Return the route that serves a mask of pairs, the dense one.

    Raises:
        ValueError: If the mask does not fit, or for another route.
    """
    wanted = (*query_features.shape[:3], key_features.shape[2])
    shape = tuple(pair_mask.shape)
    # One row of the batch, or one head, stands for all.
    if len(shape) == 4:
        wanted = (*(1 if size == 1 else each for size, each in zip(shape[:2], wanted[:2], strict=True)), *wanted[2:])
    if shapes_differ(shape, wanted):
        raise ValueError(
            "`pair_mask` must have shape (batch or 1, heads or 1, n_q, n_k), here "
            f"{(*query_features.shape[:3], key_features.shape[2])}. Received: pair_mask.shape={shape}"
        )
    if route not in ("auto", "dense"):
        raise ValueError(
            f'route="{route}" cannot hide a key from some queries only, as `pair_mask` does; take "dense". '
            f"Received: pair_mask.shape={shape}"
        )
    return "dense"


def check_segments(segment_ids, route, position_bias, batch, n_q, n_k, prefix_length):
    """Raise a ValueError unless there are no segments, or they fit the positions and the route serves them."""
    if segment_ids is None:
        return
    shape, dtype = tuple(segment_ids.shape), backend.standardize_dtype(segment_ids.dtype)
    if len(shape) != 2 or shapes_differ(shape, (batch, n_k)) or shapes_differ(shape[1:], (n_q,)) or "int" not in dtype:
        raise ValueError(
            "`segment_ids` must be integers (batch, n), the document of each position, of queries and keys alike. "
            f"Received: segment_ids.shape={shape}, segment_ids.dtype={dtype}, batch={batch}, n_q={n_q}, n_k={n_k}"
        )
    if prefix_length:
        raise ValueError(
            "`segment_ids` and `prefix_length` exclude each other: the prefix would be that of the first document. "
            f"Received: prefix_length={prefix_length}"
        )
    if is_grid(position_bias):
        raise ValueError(
            "`segment_ids` are for rows of documents, and positions of a grid are those of one image; take a bias over "
            f"one axis. Received: position_bias={position_bias!r}"
        )
    if route == "fft":
        other = "banded" if position_bias is None or hasattr(position_bias, "tails") else "dense"
        raise ValueError(
            'route="fft" serves no `segment_ids`: it gives an offset the same weight at each place of the row; '
            f'take "{other}". Received: route={route!r}'
        )


def check_prefix(prefix_length, causal):
    """Raise a ValueError unless there is no prefix, or it has a length and `causal` holds."""
    if prefix_length is None:
        return
    check_at_least(0, prefix_length=prefix_length)
    if not causal:
        raise ValueError(
            "`prefix_length` needs `causal=True`: without it every query sees every key. "
            f"Received: prefix_length={prefix_length}, causal={causal}"
        )


def check_grid(position_bias, n_q, n_k):
    """Raise a ValueError unless queries and keys are the positions of the bias's grid."""
    expected = position_bias.num_positions
    if any(n not in (None, expected) for n in (n_q, n_k)):
        raise ValueError(
            f"queries and keys must be the {expected} positions of the bias's grid, class token included; for other "
            f"lengths take a bias over one axis. Received: n_q={n_q}, n_k={n_k}, position_bias={position_bias!r}"
        )
