"""What the tests of the routes share: biases, masks, inputs, and the check against the float64 definition."""

import keras
import numpy as np
import pytest
from definition import Attention, error, forward_backward, randomize

from krpe_tf import BucketedBias, DecayBias, LearnedBias, toeplitz_attention

LINEAR_ROUTES = ("fft", "banded")
ROUTES = ("dense", *LINEAR_ROUTES)
BIASES = {
    "none": lambda heads: None,
    "decay": lambda heads: DecayBias(heads),
    "alibi": lambda heads: DecayBias(heads, radius=1, num_terms=1),
    "bucketed": lambda heads: BucketedBias(heads),
    "short buckets": lambda heads: BucketedBias(heads, num_buckets=8, max_distance=11),
    "learned": lambda heads: LearnedBias(heads, 9),
    "one offset": lambda heads: LearnedBias(heads, 1),
    "whole table": lambda heads: LearnedBias(heads, 150),
}
MASKS = {
    "none": lambda n, rng: None,
    "first": lambda n, rng: np.arange(n) >= (n + 1) // 3,
    "last": lambda n, rng: np.arange(n) < n - n // 3,
    "some": lambda n, rng: rng.random(n) < 0.5,
    "all": lambda n, rng: np.zeros(n, bool),
}
tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="lengths unknown at trace time exist on TensorFlow only"
)


def make_bias(kind, heads=2, seed=0):
    bias = BIASES[kind](heads)
    return bias and randomize(bias, seed)


def make_inputs(n_q, n_k, batch=2, heads=2, m=3, d=2, seed=0):
    """Features (positive), values, and a cotangent for the output."""
    rng = np.random.default_rng(seed)
    features = (np.exp(rng.standard_normal((batch, heads, n, m)) / 2) for n in (n_q, n_k))
    value, cotangent = (rng.standard_normal((batch, heads, n, d)) for n in (n_k, n_q))
    return tuple(x.astype("float32") for x in (*features, value, cotangent))


def make_mask(kind, n, batch=2, seed=0):
    """One row a sequence, with another sequence that is not masked in the first row."""
    row = MASKS[kind](n, np.random.default_rng(seed))
    return None if row is None else np.stack([np.ones(n, bool)] * (batch - 1) + [row])


def run(inputs, bias, route, cotangent=None, **options):
    """Output, and gradients for the inputs and the weights of the bias, in this order."""

    def attention(query, key, value):
        return toeplitz_attention(query, key, value, bias, route=route, **options)

    output, of_arrays, of_weights = forward_backward(attention, inputs[:3], cotangent, bias.weights if bias else [])
    return output, [*of_arrays, *of_weights]


def check(inputs, bias, route, **options):
    """Values and gradients agree with the definition.

    The linear routes hold weights down to exp(-70) of a head's largest. A row that sees none above may be zeros.
    """
    *inputs, cotangent = inputs
    tolerance = 1e-4 if route == "fft" else 1e-5
    expected = Attention(*inputs, bias, **options)
    deep = (expected.depth > 70) & (route != "dense")
    cotangent = np.where(deep, 0, cotangent).astype("float32")
    output, gradients = run(inputs, bias, route, cotangent, **options)
    zeros = deep & ~output.any(-1, keepdims=True)
    assert error(output, np.where(zeros, 0, expected.output), np.abs(inputs[2]).max(initial=0)) < tolerance
    *of_arrays, of_weights = expected.gradients(cotangent)
    right = [*of_arrays, *(of_weights[weight.name] for weight in (bias.weights if bias else []))]
    scale = max(np.abs(x).max(initial=0) for x in right)
    for actual, expected_gradient in zip(gradients, right, strict=True):
        assert error(actual, expected_gradient, scale) < tolerance
    return output
