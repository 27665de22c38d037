"""What attention computes between its projections, shared by the Keras layer and the tf_keras layer of `garden`."""

from keras import ops

from ..feature_maps import apply_feature_map
from ..toeplitz import at_least_float32, exact_attention, toeplitz_attention
from .masks import zero_masked


def heads_first(x):
    """Return (batch, length, heads, width) as (batch, heads, length, width), in float32 or float64."""
    return at_least_float32(ops.transpose(x, (0, 2, 1, 3)))


def to_features(query, key, value, query_mask, *, feature_map: str, projection, normalize: bool):
    """Return phi(q), phi(k) and v of projected heads.

    Args:
        query, key, value: (batch, length, heads, width).
        query_mask: None, or bool (batch, n_q), false where a query is padding: its features are zeros.
        feature_map, projection, normalize: as in `apply_feature_map`.

    Returns:
        The three, (batch, heads, length, width), in float32 or float64.
    """
    query, key, value = map(heads_first, (query, key, value))
    query, key = (apply_feature_map(feature_map, x, projection, normalize) for x in (query, key))
    return zero_masked(query, None if query_mask is None else query_mask[:, None]), key, value


def attend(query, key, value, position_bias, query_mask=None, *, feature_map: str, route: str, scores: bool, **options):
    """Compute attention of what `to_features` returns.

    Args:
        query, key, value: from `to_features`, with the same `feature_map` and `query_mask`.
        position_bias, route: as in `toeplitz_attention`. The exact kernel and `scores` ignore `route` and compute every
            pair of positions.
        scores: whether to return the weights too.
        **options: `causal`, `prefix_length`, `key_mask`, `pair_mask` and `segment_ids`, as in `toeplitz_attention`.

    Returns:
        (batch, n_q, heads, width), and the scores (batch, heads, n_q, n_k) or None.
    """
    weights, exact = None, feature_map == "softmax"
    if exact or scores:
        output = exact_attention(query, key, value, position_bias, exact_kernel=exact, scores=scores, **options)
        if scores:
            output, weights = output
            weights = weights if query_mask is None else zero_masked(weights, query_mask[:, None])
    else:
        output = toeplitz_attention(query, key, value, position_bias, route=route, **options)
    if exact and query_mask is not None:
        output = zero_masked(output, query_mask[:, None])  # other maps: features of zeros have given zeros
    return ops.transpose(output, (0, 2, 1, 3)), weights
