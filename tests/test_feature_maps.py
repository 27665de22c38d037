"""Feature maps: formulas by numpy, and the distribution of the directions by statistics with a stated confidence."""

import keras
import numpy as np
import pytest
from definition import feature_map, forward_backward, to_numpy
from hypothesis import given
from hypothesis import strategies as st

from krpe_tf.feature_maps import DETERMINISTIC_MAPS, FEATURE_MAPS, apply_feature_map, draw_projection, scale_for_kernel

RANDOM_MAPS = ("orthogonal", "positive")  # with norms from chi(dim)
UNBIASED_MAPS = (*RANDOM_MAPS, "trigonometric")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@given(dim=st.integers(1, 9), m=st.integers(1, 20), name=st.sampled_from(FEATURE_MAPS), seed=st.integers(0, 99))
def test_features_are_those_of_the_formula(dim, m, name, seed):
    x, projection = normal(2, 3, dim), draw_projection(name, dim, m, seed)
    assert projection.shape == (dim, m)
    assert projection.dtype == np.float32
    actual = to_numpy(apply_feature_map(name, x, projection))
    expected = feature_map(name, x.astype("float64"), projection.astype("float64"))
    # Only sines and cosines come near zero.
    atol = 1e-6 * np.abs(expected).max() if name == "trigonometric" else 0
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("normalize", [None, False, True])
def test_features_keep_the_dtype(name, normalize):
    dtypes = ["float32", "bfloat16"] + ["float64"] * (keras.backend.backend() == "tensorflow")
    for dtype in dtypes:
        x = keras.ops.cast(normal(2, 4), dtype)
        features = apply_feature_map(name, x, draw_projection(name, 4, 3, 0), normalize)
        assert keras.backend.standardize_dtype(features.dtype) == dtype


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_the_seed_decides(name):
    np.testing.assert_array_equal(draw_projection(name, 5, 12, 3), draw_projection(name, 5, 12, 3))
    assert np.abs(draw_projection(name, 5, 12, 3) - draw_projection(name, 5, 12, 4)).max() > 0.1


def test_maps_without_a_projection_get_the_orthogonal_one():
    # So that a trained twin converts by changing one argument.
    for name in DETERMINISTIC_MAPS:
        np.testing.assert_array_equal(draw_projection(name, 4, 6, 0), draw_projection("orthogonal", 4, 6, 0))


def test_orthogonal_directions_are_orthogonal_in_blocks():
    dim = 6
    directions = draw_projection("orthogonal", dim, 15, 0).astype("float64")
    for start in range(0, 15, dim):
        block = directions[:, start : start + dim]
        block = block / np.linalg.norm(block, axis=0)
        np.testing.assert_allclose(block.T @ block, np.eye(block.shape[1]), atol=1e-6)
    assert np.abs(directions[:, 0] @ directions[:, dim]) > 1e-3  # blocks are independent


@pytest.mark.parametrize("name", RANDOM_MAPS)
def test_norms_have_the_chi_distribution(name):
    # Kolmogorov-Smirnov at a confidence of 1 - 1e-6: the largest gap between the distributions is below 2.7 / sqrt(m).
    dim, m = 4, 4000
    square = np.sort((draw_projection(name, dim, m, 0).astype("float64") ** 2).sum(0))
    chi2 = 1 - np.exp(-square / 2) * (1 + square / 2)  # the distribution of |w|^2, w ~ N(0, I_4)
    rank = np.arange(1, m + 1) / m
    assert max(np.abs(rank - chi2).max(), np.abs(rank - 1 / m - chi2).max()) < 2.7 / np.sqrt(m)


@pytest.mark.parametrize("name", RANDOM_MAPS)
def test_directions_are_spread_over_the_sphere(name):
    # Each coordinate of w is N(0, 1): its mean over m draws lies within 5 / sqrt(m), confidence 1 - 6e-7 a coordinate.
    # Orthogonal blocks only lower the variance of the mean.
    m = 4000
    directions = draw_projection(name, 4, m, 0)
    assert np.abs(directions.mean(1)).max() < 5 / np.sqrt(m)
    covariance = directions @ directions.T / m
    assert np.abs(covariance - np.eye(4)).max() < 5 * np.sqrt(2 / m)


def test_spherical_directions_lie_on_the_sphere():
    directions = draw_projection("spherical", 6, 4000, 0)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), np.sqrt(6), rtol=1e-6)
    # Each coordinate has mean 0 and variance 1: confidence 1 - 6e-7 a coordinate.
    assert np.abs(directions.mean(1)).max() < 5 / np.sqrt(4000)


def estimates(name, q, k, m=10, draws=400):
    """phi(q) . phi(k) for independent draws of the projection, (draws, pairs)."""
    values = []
    for seed in range(draws):
        projection = draw_projection(name, q.shape[-1], m, seed)
        features = (to_numpy(apply_feature_map(name, x, projection)).astype("float64") for x in (q, k))
        values.append(np.multiply(*features).sum(-1))
    return np.array(values)


def unit(*shape, seed=0):
    x = normal(*shape, seed=seed)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("norm", [0.8, 1.0])
@pytest.mark.parametrize("name", UNBIASED_MAPS)
def test_the_estimate_of_the_kernel_is_unbiased(name, norm):
    # The mean over independent draws lies within 5 of its standard errors of exp(q . k), confidence 1 - 6e-7 a pair.
    q, k = norm * unit(8, 5, seed=1), norm * unit(8, 5, seed=2)
    values = estimates(name, q, k)
    standard_error = values.std(0, ddof=1) / np.sqrt(len(values))
    assert (np.abs(values.mean(0) - np.exp((q * k).sum(-1))) < 5 * standard_error).all()


def test_the_mean_of_the_spherical_estimate():
    # E exp(w . s) over the sphere of radius r = sqrt(d) is Gamma(d/2) (2 / (r |s|))^(d/2 - 1) I_(d/2 - 1)(r |s|).
    from scipy.special import gamma, iv

    q, k, dim = unit(8, 5, seed=1), unit(8, 5, seed=2), 5
    z = np.sqrt(dim) * np.linalg.norm((q + k).astype("float64"), axis=-1)
    mean = gamma(dim / 2) * (2 / z) ** (dim / 2 - 1) * iv(dim / 2 - 1, z) / np.e
    values = estimates("spherical", q, k)
    assert (np.abs(values.mean(0) - mean) < 5 * values.std(0, ddof=1) / np.sqrt(len(values))).all()
    assert (mean < np.exp((q * k).sum(-1))).all()


@pytest.mark.parametrize("norm", [0.3, 0.6])
def test_the_variance_of_positive_features_is_that_of_lemma_2(norm):
    # The standard error of a variance over N draws is sqrt((E e^4 - var^2) / N); 5 of them, confidence 1 - 6e-7 a pair.
    # exp is skewed: enough features a draw bring its estimate near a normal one.
    m, draws = 200, 2000
    q, k = (norm * unit(6, 5, seed=seed) for seed in (1, 2))
    product, square = (q * k).sum(-1).astype("float64"), ((q + k) ** 2).sum(-1).astype("float64")
    expected = (np.exp(square) - 1) * np.exp(product) ** 2 / m
    errors = np.empty((draws, 6))
    for seed in range(draws):
        projection = np.random.default_rng(seed).standard_normal((5, m))
        errors[seed] = (feature_map("positive", q, projection) * feature_map("positive", k, projection)).sum(-1)
    errors = errors - np.exp(product)
    variance = (errors**2).mean(0)
    standard_error = np.sqrt(((errors**4).mean(0) - variance**2) / draws)
    assert (np.abs(variance - expected) < 5 * standard_error).all()
    assert (standard_error < 0.1 * expected).all()  # the test can fail


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("size", [1e3, 1e6])
def test_features_of_huge_vectors_are_finite(name, size):
    x, projection = size * unit(3, 4), draw_projection(name, 4, 8, 0)
    output, (gradient,), _ = forward_backward(lambda x: apply_feature_map(name, x, projection), [x])
    assert np.isfinite(output).all()
    assert np.isfinite(gradient).all()


def test_taylor_weights_stay_above_zero_and_near_exp():
    q, k = unit(200, 5, seed=1), unit(200, 5, seed=2)
    q[:2], k[:2] = q[0], [q[0], -q[0]]  # the ends
    product = (q * k).sum(-1)
    weights = (to_numpy(apply_feature_map("taylor", q, None)) * to_numpy(apply_feature_map("taylor", k, None))).sum(-1)
    np.testing.assert_allclose(weights[:2], [31 / 16, 1 / 16], rtol=1e-5)
    assert (weights > 0.06).all()
    # The next term of exp, and what the slope is below 1.
    assert (np.abs(weights - np.exp(product)) <= (np.exp(np.abs(product)) - 1 - np.abs(product)) + 1 / 16 + 1e-6).all()


def test_orthogonal_directions_lower_the_variance():
    q, k = normal(1, 16, seed=1), normal(1, 16, seed=2)
    q, k = (x / np.linalg.norm(x) for x in (q, k))

    def error(name, seed):
        projection = draw_projection(name, 16, 16, seed).astype("float64")
        return (feature_map(name, q, projection) * feature_map(name, k, projection)).sum() - np.exp((q * k).sum())

    errors = {name: np.std([error(name, seed) for seed in range(600)]) for name in RANDOM_MAPS}
    # One in three less in fact; the spread of each estimate over 600 draws is 3 %.
    assert errors["orthogonal"] < 0.9 * errors["positive"]


def test_scaling():
    x = normal(2, 3, 16)
    np.testing.assert_allclose(to_numpy(scale_for_kernel(x, normalize=False)), x / 2, rtol=1e-6)
    norms = np.linalg.norm(to_numpy(scale_for_kernel(x, normalize=True)), axis=-1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("normalize", [False, True])
def test_features_scale_what_is_not_scaled(name, normalize):
    x, projection = 3 * normal(2, 5, 4), draw_projection(name, 4, 8, 0)
    cotangent = normal(*to_numpy(apply_feature_map(name, x, projection)).shape, seed=1)
    output, (gradient,), _ = forward_backward(
        lambda x: apply_feature_map(name, x, projection, normalize), [x], cotangent
    )
    expected, (of_scaled,), _ = forward_backward(
        lambda x: apply_feature_map(name, scale_for_kernel(x, normalize), projection), [x], cotangent
    )
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(gradient, of_scaled, rtol=1e-4, atol=1e-5 * np.abs(of_scaled).max())


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_normalised_features_of_a_zero_vector_have_a_finite_gradient(name):
    zeros, projection = np.zeros((1, 4), "float32"), draw_projection(name, 4, 8, 0)
    output, (gradient,), _ = forward_backward(lambda x: apply_feature_map(name, x, projection, True), [zeros])
    expected = to_numpy(apply_feature_map(name, scale_for_kernel(zeros, True), projection, True))
    np.testing.assert_array_equal(output, expected)
    assert np.isfinite(gradient).all()


def test_a_zero_vector_stays_zero_and_has_a_finite_gradient():
    output, (gradient,), _ = forward_backward(
        lambda x: scale_for_kernel(x, normalize=True), [np.zeros((1, 4), "float32")]
    )
    np.testing.assert_array_equal(output, 0)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_features_of_a_position_depend_on_this_position_alone(name):
    x, projection = normal(1, 6, 4), draw_projection(name, 4, 8, 0)
    whole = to_numpy(apply_feature_map(name, x, projection))
    x[:, 3:] = 100
    np.testing.assert_array_equal(to_numpy(apply_feature_map(name, x, projection))[:, :3], whole[:, :3])


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"feature_map": "relu"}, "feature_map"),
        ({"dim": 0}, "dim"),
        ({"num_features": 0}, "num_features"),
        ({"num_features": 2.5}, "num_features"),
        ({"num_features": True}, "num_features"),
    ],
)
def test_bad_input_raises(change, argument):
    arguments = {"feature_map": "orthogonal", "dim": 4, "num_features": 8, "seed": 0, **change}
    with pytest.raises(ValueError, match=f"`{argument}`.*Received: {argument}="):
        draw_projection(**arguments)
