"""What the attention layer checks about its inputs, and how masks become one."""

import functools

from keras import ops


def blank(x, mask):
    """x with zeros in its masked places, so that what stands there reaches neither outputs nor gradients."""
    return x if mask is None else ops.where(ops.cast(mask, "bool")[..., None], x, ops.zeros((), x.dtype))


def visible_keys(value_mask, key_mask, attention_mask):
    """All masks over keys in one, bool (batch, n_k), or None."""
    if attention_mask is not None and len(attention_mask.shape) == 3:
        attention_mask = attention_mask[:, 0]
    masks = [ops.cast(mask, "bool") for mask in (value_mask, key_mask, attention_mask) if mask is not None]
    return functools.reduce(ops.logical_and, masks) if masks else None


def check_attention_mask(attention_mask, batch, n_k):
    if attention_mask is None:
        return
    shape = tuple(attention_mask.shape)
    one_entry_a_key = len(shape) == 2 or (len(shape) == 3 and shape[1] == 1)
    sizes = ((shape[0], batch), (shape[-1], n_k)) if one_entry_a_key else ()
    if not one_entry_a_key or any(None not in pair and pair[0] != pair[1] for pair in sizes):
        raise ValueError(
            "attention_mask must have shape (batch, n_k) or (batch, 1, n_k), one entry a key: a linear route cannot "
            "hide a key from some queries only. For the past alone use causal=True or use_causal_mask=True; give "
            "packed segments an entry of the batch each. "
            f"Received: attention_mask.shape={shape}"
        )


def check_input_shape(name, shape):
    if len(shape) != 3 or shape[-1] is None:
        raise ValueError(
            f"{name} must have shape (batch, length, width) with a known width. Received: {name}.shape={shape}"
        )


def check_inputs(query, value, key):
    shapes = {"query": tuple(query.shape), "value": tuple(value.shape), "key": tuple(key.shape)}
    for name, shape in shapes.items():
        check_input_shape(name, shape)
    if _differ(shapes["key"][:2], shapes["value"][:2]):
        raise ValueError(
            "key and value must have the same batch and length. "
            f"Received: key.shape={shapes['key']}, value.shape={shapes['value']}"
        )
    if _differ(shapes["query"][:1], shapes["value"][:1]):
        raise ValueError(
            "query and value must have the same batch. "
            f"Received: query.shape={shapes['query']}, value.shape={shapes['value']}"
        )


def check_widths(inputs, widths):
    """Raises unless query, value and key, in this order, are as wide as those the layer was built for."""
    for name, x, width in zip(("query", "value", "key"), inputs, widths, strict=False):
        if x.shape[-1] != width:
            raise ValueError(
                f"{name} must be as wide as the one the layer was built for, {width}. "
                f"Received: {name}.shape={tuple(x.shape)}"
            )


def check_masks(query, key, **masks):
    """Raises unless every mask that is there has an entry for each position of its sequence."""
    for name, mask in masks.items():
        x = query if name == "query_mask" else key
        if mask is not None and _differ(mask.shape, x.shape[:2]):
            raise ValueError(
                f"{name} must have shape (batch, length) = {tuple(x.shape[:2])}. "
                f"Received: {name}.shape={tuple(mask.shape)}"
            )


def check_step(query, state, expected, mask, reset):
    """Raises unless all fit; `state` needs the arrays of `expected`, the state of one stream, for the whole batch."""
    check_input_shape("query", tuple(query.shape))
    batch, n = query.shape[:2]
    if not n:
        raise ValueError(
            f"a step needs a known length of at least one position. Received: query.shape={tuple(query.shape)}"
        )
    for name, x, shape in (("mask", mask, (batch, n)), ("reset", reset, (batch,))):
        if x is not None and _differ(x.shape, shape):
            raise ValueError(f"{name} must have shape {shape}. Received: {name}.shape={tuple(x.shape)}")
    wanted = {name: (batch, *x.shape[1:]) for name, x in expected.items()}
    received = {name: tuple(x.shape) for name, x in state.items()} if isinstance(state, dict) else state
    if isinstance(received, dict) and received.keys() == wanted.keys():
        if batch is None:
            wanted = {name: (received[name][:1] + shape[1:]) for name, shape in wanted.items()}
        if received == wanted:
            return
    raise ValueError(
        f"state must come from initial_state(batch_size={batch}) or from the step before: arrays of shapes {wanted}. "
        f"Received: state of shapes {received}"
    )


def _differ(shape, expected) -> bool:
    """Whether ranks differ, or sizes where both are known."""
    pairs = zip(shape, expected, strict=False)
    return len(shape) != len(expected) or any(None not in pair and pair[0] != pair[1] for pair in pairs)
