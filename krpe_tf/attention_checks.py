"""Checks of an attention layer's arguments: each raises a ValueError that names the argument and what was received."""

from .checks import check_one_of, shapes_differ
from .feature_maps import FEATURE_MAPS
from .toeplitz import ROUTES


def check_kernel(feature_map: str, route: str):
    """Raise a ValueError unless there is such a feature map and such a route, and the route serves the map."""
    check_one_of(FEATURE_MAPS, feature_map=feature_map)
    check_one_of(ROUTES, route=route)
    if feature_map == "softmax" and route not in ("auto", "dense"):
        raise ValueError(f'`feature_map="softmax"` needs `route="dense"` or "auto". Received: route={route!r}')


def check_attention_mask(attention_mask, batch, n_k):
    """Raise a ValueError unless the mask is None or has one entry for each key."""
    if attention_mask is None:
        return
    shape = tuple(attention_mask.shape)
    one_entry_a_key = len(shape) == 2 or (len(shape) == 3 and shape[1] == 1)
    if not one_entry_a_key or shapes_differ((shape[0], shape[-1]), (batch, n_k)):
        raise ValueError(
            "`attention_mask` must have shape (batch, n_k) or (batch, 1, n_k), one entry for each key: a linear route "
            "cannot hide a key from some queries only. To hide the future, set `causal=True` or "
            "`use_causal_mask=True`; put packed segments into separate batch entries. "
            f"Received: attention_mask.shape={shape}"
        )


def check_input_shape(name, shape):
    """Raise a ValueError unless the shape is (batch, length, width) with a known width."""
    if len(shape) != 3 or shape[-1] is None:
        raise ValueError(
            f"`{name}` must have shape (batch, length, width) with a known width. Received: {name}.shape={shape}"
        )


def check_inputs(query, value, key):
    """Raise a ValueError unless the three have rank 3 and agree in batch and length."""
    shapes = {"query": tuple(query.shape), "value": tuple(value.shape), "key": tuple(key.shape)}
    for name, shape in shapes.items():
        check_input_shape(name, shape)
    if shapes_differ(shapes["key"][:2], shapes["value"][:2]):
        raise ValueError(
            "`key` and `value` must have the same batch and length. "
            f"Received: key.shape={shapes['key']}, value.shape={shapes['value']}"
        )
    if shapes_differ(shapes["query"][:1], shapes["value"][:1]):
        raise ValueError(
            "`query` and `value` must have the same batch. "
            f"Received: query.shape={shapes['query']}, value.shape={shapes['value']}"
        )


def check_widths(inputs, widths):
    """Raise a ValueError unless query, value and key, in this order, are as wide as those the layer was built for."""
    for name, x, width in zip(("query", "value", "key"), inputs, widths, strict=False):
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


def check_step(query, state, expected, mask, reset):
    """Raise a ValueError unless all arguments of a decoding step fit one another.

    Args:
        query, state, mask, reset: the arguments.
        expected: the state of one stream; `state` must hold the same arrays for the whole batch.
    """
    check_input_shape("query", tuple(query.shape))
    batch, n = query.shape[:2]
    if not n:
        raise ValueError(
            f"`query` must have a known length of at least one position. Received: query.shape={tuple(query.shape)}"
        )
    for name, x, shape in (("mask", mask, (batch, n)), ("reset", reset, (batch,))):
        if x is not None and shapes_differ(x.shape, shape):
            raise ValueError(f"`{name}` must have shape {shape}. Received: {name}.shape={tuple(x.shape)}")
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
