"""Attention, ours and its peers, as functions of query, key and value (1, heads, n, width).

`count_gflop` counts what each computes.
"""

import math

import tensorflow as tf
from _measure import normal
from scipy.fft import next_fast_len

from krpe_tf import BucketedBias, DecayBias, toeplitz_attention
from krpe_tf.feature_maps import apply_feature_map, draw_projection, scale_for_kernel
from krpe_tf.toeplitz import exact_attention

# How the routes divide their work, which `count_gflop` has to know.
from krpe_tf.toeplitz.banded import chunk_plan, group_size
from krpe_tf.toeplitz.dense import BLOCK
from krpe_tf.toeplitz.fft import TRANSFORM_BUDGET

HEADS, WIDTH = 4, 64
BIASES = {
    "DecayBias(16, 2)": lambda heads: DecayBias(heads, radius=16, num_terms=2),
    "DecayBias(32, 2)": lambda heads: DecayBias(heads, radius=32, num_terms=2),
    "BucketedBias(32, 128)": lambda heads: BucketedBias(heads, num_buckets=32, max_distance=128),
}


def inputs(n: int, heads: int = HEADS, width: int = WIDTH) -> list:
    """Draw query, key and value, (1, heads, n, width), float32."""
    return [normal((1, heads, n, width), seed) for seed in range(3)]


def kernelized(bias, num_features: int, route: str):
    """Return our attention: normalised queries and keys, orthogonal features, and the route."""

    def attention(query, key, value):
        projection = draw_projection("orthogonal", query.shape[-1], num_features, seed=0)
        query, key = (apply_feature_map("orthogonal", x, projection, normalize=True) for x in (query, key))
        return toeplitz_attention(query, key, value, bias, route=route)

    return attention


def softmax_in_blocks(bias):
    """Return the exact twin: softmax attention with the same bias, a block of queries at a time."""

    def attention(query, key, value):
        query, key = (scale_for_kernel(x, normalize=True) for x in (query, key))
        return exact_attention(query, key, value, bias, exact_kernel=True, causal=False, key_mask=None)

    return attention


def softmax(bias=None):
    """Return softmax attention as it is usually written, n x n scores in memory, with or without the bias."""

    def attention(query, key, value):
        scores = tf.matmul(query * query.shape[-1] ** -0.5, key, transpose_b=True)
        if bias is not None:
            scores += bias_matrix(bias, query.shape[2])
        return tf.matmul(tf.nn.softmax(scores), value)

    return attention


def bias_matrix(bias, n: int):
    """Return b between all pairs of n positions, (heads, n, n), without a gather: its gradient is a slow scatter."""
    # A period of 2n: rows of 2n - 1 each start one diagonal further left than the one above. The n-th is never seen.
    period = bias.log_weights(tf.concat([tf.range(n), [0], tf.range(1 - n, 0)], axis=0))
    flat = tf.slice(tf.tile(period, (1, n)), (0, 0), (-1, n * (2 * n - 1)))
    return tf.slice(tf.reshape(flat, (-1, n, 2 * n - 1)), (0, 0, 0), (-1, n, n))


def contestants(bias, num_features: int) -> dict:
    """Return all of them by name: (function, variables)."""
    weights = bias.trainable_variables
    return {
        "banded": (kernelized(bias, num_features, "banded"), weights),
        "linear, no positions": (kernelized(None, num_features, "banded"), []),
        "fft": (kernelized(bias, num_features, "fft"), weights),
        "dense": (kernelized(bias, num_features, "dense"), weights),
        "softmax with bias, in blocks": (softmax_in_blocks(bias), weights),
        "softmax with bias": (softmax(bias), weights),
        "softmax": (softmax(), []),
    }


def count_gflop(name: str, kind: str, n: int, num_features: int, bias, heads: int = HEADS, width: int = WIDTH):
    """Count the GFLOP of one call: matmuls (2 for a multiplication and an addition) and transforms, no more.

    Two matmuls of its size stand behind each in the backward pass, and one transform behind each; blocks of queries and
    groups of features, where there are several, are computed once more there.
    """
    m, sums = num_features, width + 1
    features = 2 * 2 * n * width * m
    backward = 3
    if name == "linear, no positions":
        count = features + 2 * 2 * n * m * sums
    elif name == "banded":
        terms = bias.tails()[0].shape[-1]
        chunk, blocks = chunk_plan(n, bias.radius, m, causal=False)
        chunks = -(-n // chunk)
        near = 2 * n * blocks * chunk * (m + sums)
        # For every term on both sides: sums of chunks, carrying them within a group and to it, and meeting the queries.
        carried = chunks * (group_size(chunks + blocks - 1) + 2)
        far = 2 * 2 * terms * (2 * n + carried) * m * sums if chunks > (blocks + 1) // 2 else 0
        count = features + near + far
    elif name == "fft":
        length = next_fast_len(2 * n - 1, real=True)
        # A real transform there and one back for each feature and column, and the product with the spectrum.
        count = features + m * sums * (2 * 2.5 * length * math.log2(length) + 3 * length)
        backward = 3 if heads * m * sums * length > TRANSFORM_BUDGET else 2
    elif name == "dense":
        count, backward = features + 2 * n * n * (m + width), 4 if n > BLOCK else 3
    elif name == "softmax with bias, in blocks":
        count, backward = 2 * n * n * 2 * width, 4 if n > BLOCK else 3
    elif name in ("softmax with bias", "softmax"):
        count = 2 * n * n * 2 * width
    else:
        raise ValueError(f"name must be that of a contestant. Received: name={name!r}")
    return heads * count * (1 if kind == "forward" else backward) / 1e9
