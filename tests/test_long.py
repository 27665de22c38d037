"""Exactness at n = 65,536: rows picked by hand, and all gradients that reach them, against the float64 definition."""

import keras
import numpy as np
import pytest
from definition import Attention, error, forward_backward, to_numpy

from krpe_tf import DecayBias, LearnedBias, toeplitz_attention

N = 65_536
ROWS = [0, 1, 15, 16, 17, 63, 64, 127, 128, 129, 1000, 32_767, 32_768, 65_000, 65_535]
pytestmark = pytest.mark.slow


def decay():
    """Rates from one position to longer than the sequence."""
    bias = DecayBias(2)
    bias.log_rate.assign(np.log([[[0.5, 0.01], [1e-3, 1e-6]], [[0.3, 2.0], [1e-4, 0.1]]]))
    return bias


def wild():
    bias = LearnedBias(2, 40)
    bias.table.assign(np.random.default_rng(0).uniform(-50, 50, (2, 81)))
    return bias


BIASES = {"decay": decay, "alibi": lambda: DecayBias(2, radius=1, num_terms=1), "wild": wild, "none": lambda: None}


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize(
    ("route", "causal"), [("banded", False), ("banded", True), ("fft", False), ("fft", True), ("streaming", True)]
)
def test_rows_of_a_long_sequence(route, causal, bias):
    bias, rng = BIASES[bias](), np.random.default_rng(0)
    query, key = (np.exp(rng.standard_normal((1, 2, N, 2)) / 2).astype("float32") for _ in range(2))
    value = rng.standard_normal((1, 2, N, 2)).astype("float32")
    # The loss sees these rows only, so their definition gives the gradients of everything.
    cotangent = np.zeros_like(value)
    cotangent[:, :, ROWS] = rng.standard_normal((1, 2, len(ROWS), 2))
    expected = Attention(query[:, :, ROWS], key, value, bias, causal=causal, rows=ROWS)
    weights = bias.weights if bias else []

    def attention(*arrays):
        return toeplitz_attention(*arrays, bias, route=route, causal=causal)

    if route == "streaming" and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        attention = tf.function(attention)  # a thousand pieces, eagerly, take a minute
    output, of_arrays, of_weights = forward_backward(attention, [query, key, value], cotangent, weights)
    tolerance = 1e-4 if route == "fft" else 1e-5
    assert error(output[:, :, ROWS], expected.output, np.abs(value).max()) < tolerance
    d_query, *right, by_name = expected.gradients(cotangent[:, :, ROWS])
    right = [d_query, *right, *(by_name[weight.name] for weight in weights)]
    actual = [of_arrays[0][:, :, ROWS], *of_arrays[1:], *of_weights]
    scale = max(np.abs(x).max() for x in right)
    for ours, definition in zip(actual, right, strict=True):
        assert error(ours, definition, scale) < tolerance


def test_a_long_stream_read_piece_by_piece():
    from krpe_tf.toeplitz import initial_state, stream

    bias, rng = decay(), np.random.default_rng(0)
    query, key = (np.exp(rng.standard_normal((1, 2, N, 2)) / 2).astype("float32") for _ in range(2))
    value = rng.standard_normal((1, 2, N, 2)).astype("float32")
    state, outputs = initial_state(bias, 1, 2, 2), []
    for start in range(0, N, 8192):
        part = slice(start, start + 8192)
        output, state = stream(query[:, :, part], key[:, :, part], value[:, :, part], bias, state)
        outputs.append(to_numpy(output))
    expected = Attention(query[:, :, ROWS], key, value, bias, causal=True, rows=ROWS).output
    assert error(np.concatenate(outputs, axis=2)[:, :, ROWS], expected, np.abs(value).max()) < 1e-5
