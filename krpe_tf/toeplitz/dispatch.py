"""Attention with a Toeplitz matrix of position weights: pure functions, one module a route.

`toeplitz_attention` is the one place where a route is chosen.
"""

import math

from keras import ops

from ..checks import check_at_least, check_one_of
from ..position_bias import LearnedBias2D, NoBias
from .banded import banded_attention, banded_cost
from .dense import BLOCK, dense_attention
from .fft import fast_length, fft_attention
from .grid import dense_grid_attention, fft_grid_attention
from .numerics import wide
from .overrides import _forced_route, _replacements
from .streaming import streaming_attention

LINE_ROUTES = {
    "dense": dense_attention,
    "fft": fft_attention,
    "banded": banded_attention,
    "streaming": streaming_attention,
}

GRID_ROUTES = {"dense": dense_grid_attention, "fft": fft_grid_attention}

ROUTES = ("auto", *LINE_ROUTES)


def toeplitz_attention(
    query_features,
    key_features,
    value,
    position_bias,
    *,
    causal: bool = False,
    prefix_length: int | None = None,
    key_mask=None,
    route: str = "auto",
):
    """Kernelized attention with relative positions (Eq. 10 of arXiv 2106.12566),

        z_i = sum_j c_{j-i} (phi(q_i) . phi(k_j)) v_j / sum_j c_{j-i} (phi(q_i) . phi(k_j)),    c_t = exp(b_t).

    A query that sees no key gets zeros. What stands in masked places, NaN included, changes nothing. Computed in
    float32 whatever the inputs are (in float64 when they are). With features that may be negative (the trigonometric
    map) a denominator may be, too, or come close to zero: such a row is finite and far off.

    Args:
        query_features: phi(q), (batch, heads, n_q, m).
        key_features: phi(k), (batch, heads, n_k, m).
        value: (batch, heads, n_k, d).
        position_bias: None, or a bias with as many heads: its `log_weights` is b.
        causal: whether c_t = 0 for keys after the query, t > 0.
        prefix_length: with `causal`, how many first keys every query sees all the same.
        key_mask: None, or bool or integer (batch, n_k), zero where a key is hidden.
        route: "dense" (n^2, any bias), "fft" (n log n, any bias; the paper's Algorithm 1), "banded" (linear),
            "streaming" (linear, causal, in constant memory; what `KernelizedRPEAttention.step` does), or "auto",
            which takes the cheapest by `choose_route`.

    Returns:
        (batch, heads, n_q, d), float32 or float64.

    Raises:
        ValueError: for an unknown route, ranks, widths or heads that do not agree, or a route that does not serve the
            request; the message names one that does.
    """
    check_one_of(ROUTES, route=route)
    route = _forced_route.get() or route
    replacements = _replacements.get()
    if replacements and position_bias in replacements:
        position_bias, route = replacements[position_bias], "banded"
    _check_shapes(query_features, key_features, value, position_bias, key_mask)
    heads, n_q, m = query_features.shape[1:]
    n_k, d = value.shape[2:]
    position_bias = position_bias or NoBias(heads)
    _check_route(route, position_bias, n_q, n_k, causal, prefix_length)
    if 0 in (query_features.shape[0], n_q, n_k):
        return _zeros(query_features, value, d)
    if route == "auto":
        ordered_grid = causal and is_grid(position_bias)
        route = "dense" if ordered_grid else choose_route(position_bias, n_q, n_k, m, d, causal)
    attention = (GRID_ROUTES if is_grid(position_bias) else LINE_ROUTES)[route]
    arrays, options = (query_features, key_features, value), {"causal": causal, "key_mask": key_mask}
    if prefix_length is None or prefix_length == 0:
        return attention(*arrays, position_bias, **options)
    if route == "dense":
        return attention(*arrays, position_bias, **options, prefix_length=prefix_length)
    # The first p queries see the first p keys, on both sides, and the others look back.
    first = (x[:, :, :prefix_length] for x in arrays)
    mask = None if key_mask is None else key_mask[:, :prefix_length]
    first = attention(*first, position_bias, causal=False, key_mask=mask)
    if n_q is not None and n_q <= prefix_length:
        return first
    rest = attention(*arrays, position_bias, **options)[:, :, prefix_length:]
    return ops.concatenate([first, rest], axis=2)


def exact_attention(query, key, value, position_bias, *, scores: bool = False, **options):
    """Every pair of positions: for the kernel exp(q . k) (`exact_kernel`) or for the weights themselves (`scores`).

    Args and returns: as `dense_attention`.
    """
    _check_shapes(query, key, value, position_bias, options["key_mask"])
    _check_prefix(options.get("prefix_length"), options["causal"])
    n_q, n_k = query.shape[2], value.shape[2]
    if is_grid(position_bias):
        _check_grid(position_bias, n_q, n_k)
    if 0 in (query.shape[0], n_q, n_k):
        output = _zeros(query, value, value.shape[3])
        return (output, _zeros(query, value, ops.shape(value)[2])) if scores else output
    attention = (GRID_ROUTES if is_grid(position_bias) else LINE_ROUTES)["dense"]
    return attention(query, key, value, position_bias, scores=scores, **options)


def _zeros(query, value, width):
    """What queries get where there are no keys, no queries, or no batch."""
    return ops.zeros((*ops.shape(query)[:3], width), wide(value).dtype)


def is_grid(position_bias) -> bool:
    """Whether offsets have two axes."""
    return isinstance(position_bias, LearnedBias2D)


def choose_route(position_bias, n_q: int | None, n_k: int | None, m: int, d: int, causal: bool = False) -> str:
    """The cheapest route by a cost model.

    The unit is the time of one operation of the banded route's matmuls; the factors of the others are fitted to
    `benchmarks/routes.py` on two cores: plain graphs that see both sides, 4 heads, batch 1, forward passes and training
    alike (their geometric mean):

        dense   n_q n_k (120 + 0.4 (m + d))     a pair costs passes through memory more than matmuls
        fft     18 L log2(L) m (d + 1)          L, the length of the transforms, is about n_q + n_k
        banded  1.6e7 / heads + n (2 blocks C (m + d) + 4 sides terms m (d + 1))     C, blocks: `chunk_plan`

    Args:
        position_bias: a bias; one without `radius` and `tails` is served by dense and fft only.
        n_q, n_k: lengths, or None where they are not known at trace time. Then banded is taken for a radius of up to
            256, and fft otherwise.
        m, d: widths of features and values.
        causal: whether keys after the query are hidden: dense skips most of them.
    """
    banded = hasattr(position_bias, "tails")
    if is_grid(position_bias):
        n_q = n_k = position_bias.num_positions
    if n_q is None or n_k is None:
        return "banded" if banded and position_bias.radius <= 256 else "fft"
    seen = 5 / 8 if causal and n_q > BLOCK and not is_grid(position_bias) else 1
    cost = {"dense": seen * n_q * n_k * (120 + 0.4 * (m + d))}
    line = 2 * position_bias.height * (2 * position_bias.width - 1) if is_grid(position_bias) else n_q + n_k - 1
    length = fast_length(line)
    cost["fft"] = 18 * length * math.log2(length + 1) * m * (d + 1)
    if banded:
        n = max(n_q, n_k)
        terms = position_bias.tails()[0].shape[-1]
        cost["banded"] = banded_cost(n, position_bias.radius, terms, m, d, causal)
        if isinstance(position_bias, NoBias) and not causal:
            cost["banded"] = n * 4 * m * (d + 1)
        # What a call costs at any length, shared by the heads.
        cost["banded"] += 1.6e7 / position_bias.num_heads
    return min(cost, key=cost.get)


def _check_route(route, position_bias, n_q, n_k, causal, prefix_length):
    """Raises unless the route serves the bias, the order and the lengths."""
    if is_grid(position_bias):
        _check_grid(position_bias, n_q, n_k)
        if causal and route == "fft":
            raise ValueError(
                'route="fft" serves a bias over two axes without causal only; take "dense". '
                f"Received: causal={causal}, position_bias={position_bias!r}"
            )
    if route in ("banded", "streaming") and not hasattr(position_bias, "tails"):
        others = '"dense"' if causal and is_grid(position_bias) else '"fft" or "dense"'
        raise ValueError(
            f'route="{route}" needs a bias with `radius` and `tails`; take {others}. '
            f"Received: position_bias={position_bias!r}"
        )
    _check_prefix(prefix_length, causal)
    if route != "streaming":
        return
    if not causal or prefix_length:
        raise ValueError(
            'route="streaming" needs causal=True and no prefix, as it reads what comes and nothing ahead; take '
            f'"banded". Received: causal={causal}, prefix_length={prefix_length}'
        )
    if n_q is None or n_q != n_k:
        raise ValueError(
            'route="streaming" needs queries and keys at the same positions, of a known length; take "banded". '
            f"Received: n_q={n_q}, n_k={n_k}"
        )


def _check_prefix(prefix_length, causal):
    if prefix_length is None:
        return
    check_at_least(0, prefix_length=prefix_length)
    if not causal:
        raise ValueError(
            f"prefix_length goes with causal=True: without it every key is seen. "
            f"Received: prefix_length={prefix_length}, causal={causal}"
        )


def _check_grid(position_bias, n_q, n_k):
    expected = position_bias.num_positions
    if any(n not in (None, expected) for n in (n_q, n_k)):
        raise ValueError(
            f"queries and keys must be the {expected} positions of the bias's grid, class token included; for other "
            f"lengths take a bias over one axis. Received: n_q={n_q}, n_k={n_k}, position_bias={position_bias!r}"
        )


def _check_shapes(query_features, key_features, value, position_bias, key_mask):
    shapes = {"query_features": query_features, "key_features": key_features, "value": value}
    shapes = {name: tuple(x.shape) for name, x in shapes.items()}
    for name, shape in shapes.items():
        if len(shape) != 4:
            raise ValueError(f"{name} must have rank 4: (batch, heads, length, width). Received: {name}.shape={shape}")
    query, key, value = shapes.values()
    if _differ(query, key, (0, 1, 3)) or _differ(key, value, (0, 1, 2)):
        raise ValueError(
            "query_features and key_features must have the same batch, heads and width, key_features and value the "
            f"same batch, heads and length. Received: query_features.shape={query}, key_features.shape={key}, "
            f"value.shape={value}"
        )
    if position_bias is not None and position_bias.num_heads != query[1]:
        raise ValueError(
            f"position_bias must have as many heads as query_features, {query[1]}. "
            f"Received: position_bias.num_heads={position_bias.num_heads}"
        )
    if key_mask is None:
        return
    mask, expected = tuple(key_mask.shape), (key[0], key[2])
    if len(mask) != 2 or _differ(mask, expected, (0, 1)):
        raise ValueError(f"key_mask must have shape (batch, n_k) = {expected}. Received: key_mask.shape={mask}")


def _differ(shape, other, axes) -> bool:
    """Whether two shapes differ at some axis where both are known."""
    return any(None not in (shape[axis], other[axis]) and shape[axis] != other[axis] for axis in axes)
