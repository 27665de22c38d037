"""Feature maps phi with phi(q) . phi(k) close to exp(q . k): Eq. 5 and section 4.5 of the paper.

All are functions of one position alone. No maximum over the sequence is ever subtracted: it would make the features of
one position depend on another, on padding, and on the future.
"""

import math

import numpy as np
from keras import ops

from .checks import check_at_least, check_one_of

FEATURE_MAPS = ("orthogonal", "positive", "spherical", "trigonometric", "taylor", "elu", "softmax")
# Maps that use no projection.
DETERMINISTIC_MAPS = ("taylor", "elu", "softmax")
# What "taylor" multiplies q . k by, so that no weight falls below 1/16: products rounded to bfloat16 stay above zero.
TAYLOR_SLOPE = 15 / 16


def draw_projection(feature_map: str, dim: int, num_features: int, seed: int) -> np.ndarray:
    """Draw the directions w_r of a feature map, with numpy, so that they are the same on every backend.

    Args:
        feature_map: one of `FEATURE_MAPS`. "taylor", "elu" and "softmax" do not use a projection; they get the
            orthogonal one, so that a model converts to another map by changing one argument.
        dim: width of a query or key, at least 1.
        num_features: number of directions m, at least 1.
        seed: the same seed draws the same directions.

    Returns:
        float32 array (dim, num_features). "positive" and "trigonometric": independent N(0, I). "spherical": uniform on
        the sphere of radius sqrt(dim). Otherwise orthogonal in blocks of `dim`, with norms drawn from chi(dim) (ORF).
    """
    check_one_of(FEATURE_MAPS, feature_map=feature_map)
    check_at_least(1, dim=dim, num_features=num_features)
    rng = np.random.default_rng(seed)
    if feature_map in ("positive", "spherical", "trigonometric"):
        directions = rng.standard_normal((dim, num_features))
        if feature_map == "spherical":
            directions *= np.sqrt(dim) / np.linalg.norm(directions, axis=0)
        return directions.astype("float32")
    blocks = []
    for _ in range(math.ceil(num_features / dim)):
        # The columns of Q are uniformly distributed once the signs of R's diagonal are taken out.
        q, r = np.linalg.qr(rng.standard_normal((dim, dim)))
        blocks.append(q * np.sign(np.diag(r)))
    directions = np.concatenate(blocks, axis=1)[:, :num_features]
    norms = np.linalg.norm(rng.standard_normal((dim, num_features)), axis=0)
    return (directions * norms).astype("float32")


def scale_for_kernel(x, normalize: bool):
    """Scale queries or keys (..., dim) before the feature map.

    `normalize=True` divides by the l2 norm: q . k lies in [-1, 1] and the estimate has low variance (section 3.3).
    `normalize=False` multiplies by dim^(-1/4): q . k is the usual scaled dot product.
    """
    x = ops.convert_to_tensor(x)
    return x * (_inverse_norm(x) if normalize else ops.cast(ops.shape(x)[-1] ** -0.25, x.dtype))


def _inverse_norm(x):
    """Return 1 / |x|, (..., 1); it is finite for a zero vector, and so is its gradient."""
    return ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-12))


def apply_feature_map(feature_map: str, x, projection, normalize: bool | None = None):
    """Compute phi(x).

        orthogonal, positive, spherical:  exp(w_r . x - |x|^2 / 2) / sqrt(m)                     Eq. 5
        trigonometric:                    exp(|x|^2 / 2) [sin(w_r . x), cos(w_r . x)] / sqrt(m)  Eq. 4
        taylor:                           [1, sqrt(15 / 16) x], for x of norm 1
        elu:                              elu(x) + 1                   the Linear Transformer, a baseline
        softmax:                          x itself; the exact kernel exp(q . k) is applied by the dense route

    phi(q) . phi(k) estimates exp(q . k): without bias for "orthogonal", "positive" and "trigonometric", slightly below
    it for "spherical", whose directions all have the same norm. Trigonometric features may be negative, and so may a
    sum of their products: an attention weight can then be of the wrong sign, and a denominator near zero. Their factor
    exp(|x|^2 / 2) stops growing at e^30.

    "taylor" is no estimate but a kernel of its own, 1 + (15 / 16) q . k, between 1/16 and 31/16: the first terms of exp
    (as in arXiv 2007.14902, where the slope is 1). Nothing in it is drawn, so its gradients have no noise.

    Args:
        feature_map: one of `FEATURE_MAPS`.
        x: queries or keys (..., dim), scaled already if `normalize` is None.
        projection: (dim, m), from `draw_projection`.
        normalize: as in `scale_for_kernel`, which this function then applies to `x` first, at lower cost than a call of
            both.

    Returns:
        Features (..., m), (..., 2 m) for "trigonometric", (..., dim + 1) for "taylor", or (..., dim) for "elu" and
        "softmax".
    """
    if normalize is False or (normalize and feature_map in DETERMINISTIC_MAPS):
        x = scale_for_kernel(x, normalize)
    if feature_map == "softmax":
        return x
    if feature_map == "taylor":
        x = ops.convert_to_tensor(x)
        return ops.concatenate([ops.ones_like(x[..., :1]), x * math.sqrt(TAYLOR_SLOPE)], axis=-1)
    if feature_map == "elu":
        return ops.elu(x) + 1
    along = ops.matmul(x, ops.cast(projection, x.dtype))
    if normalize:
        # Dividing the products is cheaper than dividing x where m < dim, and costs the same elsewhere.
        along, half_square = along * _inverse_norm(x), 0.5
    else:
        half_square = ops.sum(ops.square(x), axis=-1, keepdims=True) / 2
    half_log_m = math.log(projection.shape[-1]) / 2
    if feature_map == "trigonometric":
        waves = ops.concatenate([ops.sin(along), ops.cos(along)], axis=-1)
        half_square = half_square if normalize else ops.minimum(half_square, ops.cast(30.0, x.dtype))
        return waves * ops.exp(ops.cast(half_square - half_log_m, x.dtype))
    return ops.exp(along - (half_square + half_log_m))
