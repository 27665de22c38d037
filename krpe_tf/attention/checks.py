"""Checks of an attention layer's arguments: each raises a ValueError that names the argument and what was received."""

import numpy as np
from keras import backend

from ..checks import check_at_least, check_one_of, known_values, shapes_differ
from ..feature_maps import FEATURE_MAPS
from ..toeplitz import ROUTES
from .masks import is_mask_of_pairs


def check_kernel(feature_map: str, route: str):
    """Raise a ValueError unless there is such a feature map and such a route, and the route serves the map."""
    check_one_of(FEATURE_MAPS, feature_map=feature_map)
    check_one_of(ROUTES, route=route)
    if feature_map == "softmax" and route not in ("auto", "dense"):
        raise ValueError(f'`feature_map="softmax"` needs `route="dense"` or "auto". Received: route={route!r}')


def check_window(sliding_window: int | None, route: str):
    """Raise a ValueError unless there is no window, or a width of one, and the route serves it."""
    if sliding_window is None:
        return
    check_at_least(1, sliding_window=sliding_window)
    if route not in ("auto", "dense"):
        raise ValueError(
            '`sliding_window` needs `route="dense"` or "auto"; on a linear route let a position bias fall with the '
            f"distance. Received: sliding_window={sliding_window}, route={route!r}"
        )


def check_features(feature_map: str, num_features: int):
    """Raise a ValueError unless there are random features, or the feature map uses none."""
    check_at_least(0 if feature_map in ("elu", "softmax") else 1, num_features=num_features)


def check_output_shape(output_shape) -> tuple[int, ...] | None:
    """Return the axes of an output behind batch and length.

    Raises:
        ValueError: Unless `output_shape` is None, or one or more integers of at least 1.
    """
    if output_shape is None:
        return None
    axes = tuple(output_shape) if isinstance(output_shape, (list, tuple)) else (output_shape,)
    if not axes or any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1 for n in axes):
        raise ValueError(
            "Invalid `output_shape`: it must be an integer of at least 1, or a tuple of them. "
            f"Received: output_shape={output_shape!r}"
        )
    return axes


def check_attention_mask(attention_mask, batch, heads, n_q, n_k, of_pairs: bool = True):
    """Raise a ValueError unless the mask is None or has an entry for each key, or for each pair of positions.

    Args:
        attention_mask: the mask.
        batch, heads, n_q, n_k: sizes, None where they are not known.
        of_pairs: whether a mask with an entry for each pair is served.
    """
    if attention_mask is None:
        return
    shape = tuple(attention_mask.shape)
    rank, pairs = len(shape), is_mask_of_pairs(attention_mask)
    if pairs and not of_pairs:
        raise ValueError(
            "`attention_mask` must have shape (batch, n_k) or (batch, 1, n_k), one entry for each key: a linear route "
            'cannot hide a key from some queries only. `route="dense"` or "auto" can, at quadratic cost. To hide the '
            "future, set `causal=True` or `use_causal_mask=True`; for several documents in a row, pass `segment_ids`. "
            f"Received: attention_mask.shape={shape}"
        )
    sizes = {2: (batch, n_k), 3: (batch, n_q if pairs else 1, n_k), 4: (batch, heads, n_q, n_k)}.get(rank, ())
    # A single document, head or query stands for all, as in Keras; a single key does not.
    sizes = [
        1 if size == 1 and axis < rank - 1 else wanted
        for axis, (size, wanted) in enumerate(zip(shape, sizes, strict=False))
    ]
    if shapes_differ(shape, sizes):
        raise ValueError(
            "`attention_mask` must have shape (batch, n_k) or (batch, 1, n_k), one entry for each key, or (batch, n_q, "
            f"n_k) or (batch, 1, n_q, n_k), one for each pair; here batch={batch}, n_q={n_q}, n_k={n_k}. A mask (n_q, "
            "n_k) needs an axis for the batch: `attention_mask[None]`. To hide the future, set `causal=True` or "
            f"`use_causal_mask=True`. Received: attention_mask.shape={shape}"
        )
    if rank == 2 and n_k is not None and n_k > 1 and batch == n_q == n_k:
        _check_not_triangular(attention_mask)


def _check_not_triangular(attention_mask):
    """Raise a ValueError for (n, n), of n documents, that looks like a causal mask. In a graph no one can tell."""
    values = known_values(attention_mask)
    if values is not None and np.diag(values).all() and not np.triu(values, 1).any():
        raise ValueError(
            "`attention_mask` of shape (batch, n_k) has an entry for each key of each document, and this one looks "
            "like a mask (n_q, n_k) that hides the future. For that set `causal=True` or `use_causal_mask=True`, or "
            "pass `attention_mask[None]`. If each row does belong to a document, pass `attention_mask[:, None]`. "
            f"Received: attention_mask of shape {tuple(attention_mask.shape)}, lower triangular"
        )


def check_mask_values(**masks):
    """Raise a ValueError for a mask that is known to be negative anywhere, or floating and not known to be of 0 and 1.

    Additive masks, 0 where a position is seen and -1e9 where it is not, mean the opposite of what is read here.
    """
    for name, mask in masks.items():
        dtype = "bool" if mask is None else backend.standardize_dtype(mask.dtype)
        if dtype == "bool":
            continue
        values, floating = known_values(mask), backend.is_float_dtype(dtype)
        if values is None and not floating:
            continue
        if values is None:
            raise ValueError(
                f"`{name}` must be bool or integer in a graph or a symbolic call, where its values are not known: 1 "
                f'where a position counts, 0 where not. Convert it before: keras.ops.cast({name}, "bool") for a mask '
                f"of ones and zeros, {name} >= 0 for an additive one. Received: {name} of dtype {dtype}"
            )
        values = values.astype("float32")
        if (values < 0).any() or (floating and not np.isin(values, (0, 1)).all()):
            raise ValueError(
                f"`{name}` must be bool or integer, or hold zeros and ones only: 1 where a position counts, 0 where "
                f"not. An additive mask, of 0 and -1e9, means the opposite: pass {name} >= 0 in its place. "
                f"Received: {name} of dtype {dtype} with values from {values.min()} to {values.max()}"
            )


def check_input_shape(name, shape):
    """Raise a ValueError unless the shape is (batch, length, width) with a known width."""
    if len(shape) != 3 or shape[-1] is None:
        raise ValueError(
            f"`{name}` must have shape (batch, length, width) with a known width. Received: {name}.shape={shape}"
        )


def check_inputs(query, value, key):
    """Raise a ValueError unless the three have rank 3 and agree in batch and length."""
    check_input_shapes(query.shape, value.shape, key.shape)


def check_input_shapes(query_shape, value_shape, key_shape):
    """Raise a ValueError unless the three shapes have rank 3 and agree in batch and length."""
    shapes = {"query": tuple(query_shape), "value": tuple(value_shape), "key": tuple(key_shape)}
    # First: a key of another rank than the value is best explained by the value's.
    if shapes_differ(shapes["key"][:-1], shapes["value"][:-1]):
        raise ValueError(
            "`key` and `value` must be equal in batch and length. "
            f"Received: key.shape={shapes['key']}, value.shape={shapes['value']}"
        )
    for name, shape in shapes.items():
        check_input_shape(name, shape)
    if shapes_differ(shapes["query"][:1], shapes["value"][:1]):
        raise ValueError(
            "`query` and `value` must have the same batch. "
            f"Received: query.shape={shapes['query']}, value.shape={shapes['value']}"
        )


def check_widths(inputs, widths, names=("query", "value", "key")):
    """Raise a ValueError unless query, value and key, in this order, are as wide as those the layer was built for."""
    for name, x, width in zip(names, inputs, widths, strict=False):
        if x.shape[-1] != width:
            raise ValueError(
                f"`{name}` must have width {width}, for which the layer was built. "
                f"Received: {name}.shape={tuple(x.shape)}"
            )


def check_masks(query, key, **masks):
    """Raise a ValueError unless every mask has an entry for each position of its sequence, or is None."""
    for name, mask in masks.items():
        x = query if name == "query_mask" else key
        if mask is not None and shapes_differ(mask.shape, x.shape[:2]):
            raise ValueError(
                f"`{name}` must have shape (batch, length) = {tuple(x.shape[:2])}. "
                f"Received: {name}.shape={tuple(mask.shape)}"
            )


def check_step(query, state, expected, mask, reset, count):
    """Raise a ValueError unless all arguments of a decoding step fit one another.

    Args:
        query, state, mask, reset, count: the arguments.
        expected: the state of one stream; `state` must hold the same arrays for the whole batch.
    """
    check_input_shape("query", tuple(query.shape))
    batch, n = query.shape[:2]
    if not n:
        raise ValueError(
            f"`query` must have a known length of at least one position. Received: query.shape={tuple(query.shape)}"
        )
    check_mask_values(mask=mask)
    if reset is not None and backend.is_float_dtype(backend.standardize_dtype(reset.dtype)):
        values = known_values(reset)
        if values is None or not np.isin(values.astype("float32"), (0, 1)).all():
            raise ValueError(
                "`reset` must be bool or integer, nonzero where a sequence starts. "
                f"Received: reset of dtype {backend.standardize_dtype(reset.dtype)}"
            )
    _check_count(count, reset, n)
    shapes_of = {"mask": [(batch, n)], "reset": [(batch,), (batch, n)], "count": [(), (batch,)]}
    for name, x, shapes in zip(shapes_of, (mask, reset, count), shapes_of.values(), strict=True):
        if x is not None and all(shapes_differ(x.shape, shape) for shape in shapes):
            wanted = " or ".join(map(str, shapes))
            raise ValueError(f"`{name}` must have shape {wanted}. Received: {name}.shape={tuple(x.shape)}")
    wanted = {name: (batch, *x.shape[1:]) for name, x in expected.items()}
    received = {name: tuple(x.shape) for name, x in state.items()} if isinstance(state, dict) else state
    if isinstance(received, dict) and received.keys() == wanted.keys():
        if batch is None:
            wanted = {name: (received[name][:1] + shape[1:]) for name, shape in wanted.items()}
        if received == wanted:
            return
    raise ValueError(
        f"`state` must come from `initial_state(batch_size={batch})` or from the previous step: arrays of shapes "
        f"{wanted}. Received: state of shapes {received}"
    )


def check_cross_step(query, state, expected: dict):
    """Raise a ValueError unless a query (batch, n, width) fits a state of cross-attention.

    Args:
        query, state: the arguments of the step.
        expected: shapes of the arrays that the state holds, without the batch.
    """
    check_input_shape("query", tuple(query.shape))
    shapes = {name: tuple(x.shape) for name, x in state.items()} if isinstance(state, dict) else {}
    fits = shapes.keys() == expected.keys()
    fits = fits and not any(shapes_differ(shape[1:], expected[name]) for name, shape in shapes.items())
    rows = next(iter(shapes.values()))[0] if fits else None
    if not fits or (rows and query.shape[0] is not None and query.shape[0] % rows):
        raise ValueError(
            "`state` must come from `cross_state`, of a batch that divides that of `query`: arrays of shapes "
            f"{ {name: ('batch', *shape) for name, shape in expected.items()} }. "
            f"Received: state of shapes {shapes or f'{state!r:.80}'}, query.shape={tuple(query.shape)}"
        )


def _check_count(count, reset, n: int):
    if count is None:
        return
    values = known_values(count) if backend.is_int_dtype(backend.standardize_dtype(count.dtype)) else np.array([-1])
    if values is not None and values.size and (values.min() < 0 or values.max() > n):
        raise ValueError(
            f"`count` must be integers from 0 to {n}, the number of positions in `query`. Received: count={count}"
        )
    if reset is not None and len(reset.shape) == 2:
        raise ValueError(
            "`count` needs a `reset` of shape (batch,), or none. Received: both count and reset (batch, n)"
        )
