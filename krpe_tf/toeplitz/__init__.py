"""Attention with a Toeplitz matrix of position weights: pure functions, one module a route.

`toeplitz_attention` is the one place where a route is chosen.
"""

import math

from .._checks import check_one_of
from ._common import NoBias, wide
from .banded import banded_attention, chunk_length
from .dense import dense_attention
from .fft import fast_length, fft_attention

__all__ = ["ROUTES", "choose_route", "dense_attention", "toeplitz_attention", "wide"]

ROUTES = ("auto", "dense", "fft", "banded")


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
    float32 whatever the inputs are (in float64 when they are).

    Args:
        query_features: phi(q), (batch, heads, n_q, m).
        key_features: phi(k), (batch, heads, n_k, m).
        value: (batch, heads, n_k, d).
        position_bias: None, or a bias with as many heads: its `log_weights` is b.
        causal: whether c_t = 0 for keys after the query, t > 0.
        prefix_length: with `causal`, how many first keys every query sees all the same. Served by the dense route.
        key_mask: None, or bool or integer (batch, n_k), zero where a key is hidden.
        route: "dense" (n^2, any bias), "fft" (n log n, any bias; the paper's Algorithm 1), "banded" (linear), or
            "auto", which takes the cheapest by `choose_route`.

    Returns:
        (batch, heads, n_q, d), float32 or float64.

    Raises:
        ValueError: for an unknown route, ranks, widths or heads that do not agree, or a route that does not serve the
            request.
    """
    check_one_of(ROUTES, route=route)
    _check_shapes(query_features, key_features, value, position_bias, key_mask)
    if route == "banded" and position_bias is not None and not hasattr(position_bias, "tails"):
        raise ValueError(
            'route="banded" needs a bias with `radius` and `tails`; take "fft" or "dense". '
            f"Received: position_bias={position_bias!r}"
        )
    if prefix_length is not None:
        if not causal:
            raise ValueError(
                f"prefix_length goes with causal=True: without it every key is seen. "
                f"Received: prefix_length={prefix_length}, causal={causal}"
            )
        if route not in ("auto", "dense"):
            raise ValueError(f'prefix_length is served by route="dense". Received: route={route!r}')
        route = "dense"
    heads, n_q, m = query_features.shape[1:]
    position_bias = position_bias or NoBias(heads)
    if route == "auto":
        route = choose_route(position_bias, n_q, key_features.shape[2], m, value.shape[-1])
    if route == "dense":
        return dense_attention(
            query_features,
            key_features,
            value,
            position_bias,
            causal=causal,
            prefix_length=prefix_length,
            key_mask=key_mask,
        )
    attention = fft_attention if route == "fft" else banded_attention
    return attention(query_features, key_features, value, position_bias, causal=causal, key_mask=key_mask)


def choose_route(position_bias, n_q: int | None, n_k: int | None, m: int, d: int) -> str:
    """The cheapest route by counted operations, with the fft's weighed by how slowly they run beside matmuls.

    Args:
        position_bias: a bias; one without `radius` and `tails` is served by dense and fft only.
        n_q, n_k: lengths, or None where they are not known at trace time. Then banded is taken for a radius of up to
            256, and fft otherwise.
        m, d: widths of features and values.
    """
    banded = hasattr(position_bias, "tails")
    if n_q is None or n_k is None:
        return "banded" if banded and position_bias.radius <= 256 else "fft"
    cost = {"dense": 2 * n_q * n_k * (m + d)}
    length = fast_length(n_q + n_k - 1)
    # Two transforms of 2.5 L log2 L for each channel, taken to run at a tenth of a matmul's rate; not fitted.
    cost["fft"] = 10 * 5 * length * math.log2(length + 1) * m * (d + 1)
    if banded:
        n = max(n_q, n_k)
        terms = position_bias.tails()[0].shape[-1]
        chunk = chunk_length(n, position_bias.radius, m, d, terms)
        chunks = -(-n // chunk)
        near = 2 * min(chunks, 3) * chunk * (m + d)
        far = 8 * terms * m * (d + 1) * (1 + chunks / chunk) if chunks > 2 else 0
        cost["banded"] = chunks * chunk * (near + far)
    return min(cost, key=cost.get)


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
