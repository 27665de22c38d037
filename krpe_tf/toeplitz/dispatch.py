"""The one place where a route is chosen and called."""

from keras import ops

from ..checks import check_one_of
from ..position_bias import NoBias
from .banded import banded_attention
from .checks import check_grid, check_pair_mask, check_prefix, check_route, check_segments, check_shapes
from .cost_model import choose_route
from .dense import dense_attention
from .fft import fft_attention
from .grid import dense_grid_attention, fft_grid_attention, is_grid
from .numerics import at_least_float32, number_segments
from .overrides import active_overrides
from .streaming import streaming_attention

LINE_ROUTES = {
    "dense": dense_attention,
    "fft": fft_attention,
    "banded": banded_attention,
    "streaming": streaming_attention,
}

GRID_ROUTES = {"dense": dense_grid_attention, "fft": fft_grid_attention}

ROUTES = ("auto", *LINE_ROUTES)


# Long: what hides a key from a query, in each of its ways.
def toeplitz_attention(
    query_features,
    key_features,
    value,
    position_bias,
    *,
    causal: bool = False,
    prefix_length: int | None = None,
    key_mask=None,
    pair_mask=None,
    segment_ids=None,
    route: str = "auto",
):
    """Compute kernelized attention with relative positions (Eq. 10 of arXiv 2106.12566),

        z_i = sum_j c_{j-i} (phi(q_i) . phi(k_j)) v_j / sum_j c_{j-i} (phi(q_i) . phi(k_j)),    c_t = exp(b_t).

    A query that sees no key gets zeros. Masked places may hold anything, NaN included. The computation is in float32,
    or in float64 for float64 inputs. Features that may be negative (the trigonometric map) may give a denominator that
    is negative or close to zero: such a row is finite but inaccurate.

    Args:
        query_features: phi(q), (batch, heads, n_q, m).
        key_features: phi(k), (batch, heads, n_k, m).
        value: (batch, heads, n_k, d).
        position_bias: None, or a bias with as many heads: its `log_weights` is b.
        causal: whether c_t = 0 for keys after the query, t > 0.
        prefix_length: with `causal`, how many first keys every query sees nevertheless.
        key_mask: None, or bool or integer (batch, n_k), zero where a key is hidden.
        pair_mask: None, or bool or integer (batch or 1, heads or 1, n_q, n_k), zero where a key is hidden from a query:
            for "dense", which "auto" then takes.
        segment_ids: None, or integers (batch, n), for several documents in a row: a query sees the keys of its own
            document alone. Each run of equal ids is a document, also where the same id came before. Queries and keys
            are the same positions, so that offsets are those within the document. Not for fft, a prefix or two axes.
        route: "dense" (n^2, any bias), "fft" (n log n, any bias; the paper's Algorithm 1), "banded" (linear),
            "streaming" (linear, causal, in constant memory, as in `KernelizedRPEAttention.step`), or "auto", the
            cheapest by `choose_route`.

    Returns:
        (batch, heads, n_q, d), float32 or float64.

    Raises:
        ValueError: If the route is unknown, if ranks, widths or heads do not agree, or if the route does not serve the
            request; the message then names one that does.
    """
    check_one_of(ROUTES, route=route)
    position_bias, route = active_overrides().apply(position_bias, route)
    check_shapes(query_features, key_features, value, position_bias, key_mask)
    heads, n_q, m = query_features.shape[1:]
    n_k, d = value.shape[2:]
    position_bias = position_bias or NoBias(heads)
    check_segments(segment_ids, route, position_bias, value.shape[0], n_q, n_k, prefix_length)
    check_route(route, position_bias, n_q, n_k, causal, prefix_length)
    if pair_mask is not None:
        route = check_pair_mask(pair_mask, query_features, key_features, route)
    if 0 in (query_features.shape[0], n_q, n_k):
        return _zeros(query_features, value, d)
    if route == "auto":
        ordered_grid = causal and is_grid(position_bias)
        packed = segment_ids is not None
        route = "dense" if ordered_grid else choose_route(position_bias, n_q, n_k, m, d, causal, packed)
    attention = (GRID_ROUTES if is_grid(position_bias) else LINE_ROUTES)[route]
    arrays, options = (query_features, key_features, value), {"causal": causal, "key_mask": key_mask}
    if segment_ids is not None:
        options["segments"] = number_segments(segment_ids)
    if pair_mask is not None:
        options["pair_mask"] = pair_mask
    if route == "dense":
        return attention(*arrays, position_bias, **options, prefix_length=prefix_length or None)
    if prefix_length is None or prefix_length == 0:
        return attention(*arrays, position_bias, **options)
    # The first p queries see the first p keys, on both sides, and the others look back.
    first = (x[:, :, :prefix_length] for x in arrays)
    mask = None if key_mask is None else key_mask[:, :prefix_length]
    first = attention(*first, position_bias, causal=False, key_mask=mask)
    if n_q is not None and n_q <= prefix_length:
        return first
    rest = attention(*arrays, position_bias, **options)[:, :, prefix_length:]
    return ops.concatenate([first, rest], axis=2)


def exact_attention(query, key, value, position_bias, *, scores: bool = False, segment_ids=None, **options):
    """Compute attention over every pair of positions: for the kernel exp(q . k) (`exact_kernel`) or for `scores`.

    Args and returns: as `dense_attention`; `segment_ids` as in `toeplitz_attention`.
    """
    check_shapes(query, key, value, position_bias, options["key_mask"])
    check_prefix(options.get("prefix_length"), options["causal"])
    if options.get("pair_mask") is not None:
        check_pair_mask(options["pair_mask"], query, key)
    n_q, n_k = query.shape[2], value.shape[2]
    check_segments(segment_ids, "dense", position_bias, value.shape[0], n_q, n_k, options.get("prefix_length"))
    if is_grid(position_bias):
        check_grid(position_bias, n_q, n_k)
    if 0 in (query.shape[0], n_q, n_k):
        output = _zeros(query, value, value.shape[3])
        return (output, _zeros(query, value, ops.shape(value)[2])) if scores else output
    if segment_ids is not None:
        options["segments"] = number_segments(segment_ids)
    attention = (GRID_ROUTES if is_grid(position_bias) else LINE_ROUTES)["dense"]
    return attention(query, key, value, position_bias, scores=scores, **options)


def _zeros(query, value, width):
    """Return the output where there are no keys, no queries, or no batch."""
    return ops.zeros((*ops.shape(query)[:3], width), at_least_float32(value).dtype)
