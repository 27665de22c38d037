"""Which route is chosen, and what `toeplitz_attention` refuses."""

import keras
import numpy as np
import pytest

from krpe_tf import DecayBias, LearnedBias, LearnedBias2D, toeplitz_attention
from krpe_tf.position_bias import NoBias
from krpe_tf.toeplitz import choose_route, override
from krpe_tf.toeplitz.overrides import Overrides, active_overrides

UNKNOWN = (None, None)


class WavyBias(keras.layers.Layer):
    """A user's own bias: only `log_weights`, so only the routes for any bias serve it."""

    num_heads = 2

    def log_weights(self, offsets):
        return keras.ops.stack([keras.ops.sin(keras.ops.cast(offsets, "float32") * f) for f in (0.5, 2.0)])


def features(n=9, batch=1, heads=2, width=3):
    return np.ones((batch, heads, n, width), "float32")


@pytest.mark.parametrize("n", [8192, 100_000])
def test_long_sequences_and_a_small_radius_take_the_banded_route(n):
    for bias in (NoBias(2), DecayBias(2), LearnedBias(2, 16)):
        assert choose_route(bias, n, n, 16, 64) == "banded"


def test_short_sequences_take_the_dense_route():
    for n in (1, 16, 64):
        assert choose_route(DecayBias(2), n, n, 16, 64) == "dense"


def test_an_unknown_length_takes_banded_for_a_small_radius_and_fft_otherwise():
    for lengths in (UNKNOWN, (None, 100), (100, None)):
        assert choose_route(LearnedBias(2, 256), *lengths, 16, 64) == "banded"
        assert choose_route(LearnedBias(2, 257), *lengths, 16, 64) == "fft"


def test_a_bias_without_tails_is_never_given_to_the_banded_route():
    for lengths in (UNKNOWN, (9, 9), (100_000, 100_000)):
        assert choose_route(WavyBias(), *lengths, 16, 64) in ("dense", "fft")


def test_a_grid_is_given_to_the_cheaper_of_its_routes():
    assert choose_route(LearnedBias2D(2, 14, 14), 196, 196, 32, 64) == "dense"
    assert choose_route(LearnedBias2D(1, 500, 500), *UNKNOWN, 1, 1) == "fft"


def test_a_small_problem_at_a_huge_length_takes_the_fft_when_banded_cannot():
    assert choose_route(WavyBias(), 200_000, 200_000, 1, 1) == "fft"


@pytest.mark.parametrize("route", ["dense", "fft", "auto"])
def test_a_bias_of_the_users_own(route):
    rng = np.random.default_rng(0)
    query, key, value = (np.exp(rng.standard_normal(features(20).shape)).astype("float32") for _ in range(3))
    t = np.arange(20)[None] - np.arange(20)[:, None]
    weights = np.exp(np.sin(t * np.array([0.5, 2.0])[:, None, None]))[None] * (query @ key.swapaxes(-1, -2))
    expected = weights @ value / weights.sum(-1, keepdims=True)
    output = keras.ops.convert_to_numpy(toeplitz_attention(query, key, value, WavyBias(), route=route))
    np.testing.assert_allclose(output, expected, rtol=1e-4)


def test_overrides_nest_and_end_with_their_scope():
    with override(route="dense"):
        with override(forward_transforms=True):
            assert active_overrides() == Overrides(route="dense", forward_transforms=True)
        with pytest.raises(ValueError, match="rank 4"), override(route="fft"):
            toeplitz_attention(*[features()[0]] * 3, None)
        assert active_overrides() == Overrides(route="dense")
    assert active_overrides() == Overrides()
    with pytest.raises(TypeError, match="routes"), override(routes="dense"):
        pass


def test_overrides_replace_biases_and_routes():
    rng = np.random.default_rng(0)
    query, key, value = (np.exp(rng.standard_normal(features(200).shape)).astype("float32") for _ in range(3))
    asked, other, wavy = DecayBias(2), LearnedBias(2, 3), WavyBias()

    def attend(bias, route):
        return keras.ops.convert_to_numpy(toeplitz_attention(query, key, value, bias, route=route))

    replaced, forced = attend(other, "banded"), attend(wavy, "dense")
    assert (attend(asked, "fft") != replaced).any()
    assert (attend(wavy, "fft") != forced).any()
    with override(replaced_biases={asked: other}, route="dense"):
        np.testing.assert_array_equal(attend(asked, "fft"), replaced)
        np.testing.assert_array_equal(attend(wavy, "fft"), forced)


BAD_REQUESTS = {
    "unknown route": ({"route": "fastest"}, "`route`"),
    "prefix without causal": ({"prefix_length": 3}, "`prefix_length`"),
    "negative prefix": ({"prefix_length": -1, "causal": True}, "`prefix_length`"),
    "streaming in both directions": ({"route": "streaming"}, "banded"),
    "streaming with a prefix": ({"route": "streaming", "causal": True, "prefix_length": 2}, "banded"),
    "streaming across": (
        {"route": "streaming", "causal": True, "key_features": features(n=8), "value": features(n=8)},
        "banded",
    ),
    "streaming for a bias without tails": ({"position_bias": WavyBias(), "route": "streaming", "causal": True}, "fft"),
    "banded for a grid": ({"position_bias": LearnedBias2D(2, 3, 3), "route": "banded"}, "fft"),
    "causal fft for a grid": ({"position_bias": LearnedBias2D(2, 3, 3), "route": "fft", "causal": True}, "dense"),
    "a grid of another size": ({"position_bias": LearnedBias2D(2, 3, 4)}, "one axis"),
    "query of rank 3": ({"query_features": features()[0]}, "`query_features`"),
    "key of rank 5": ({"key_features": features()[None]}, "`key_features`"),
    "value of rank 2": ({"value": features()[0, 0]}, "`value`"),
    "widths of the features": ({"key_features": features(width=4)}, "`key_features`"),
    "heads of the queries": ({"query_features": features(heads=3)}, "`query_features`"),
    "heads of the values": ({"value": features(heads=1)}, "`value`"),
    "lengths of key and value": ({"value": features(n=8)}, "`value`"),
    "batches of query and key": ({"query_features": features(batch=2)}, "`query_features`"),
    "heads of the bias": ({"position_bias": DecayBias(3)}, "`position_bias`"),
    "mask of another length": ({"key_mask": np.ones((1, 8), bool)}, "`key_mask`"),
    "mask of rank 3": ({"key_mask": np.ones((1, 9, 9), bool)}, "`key_mask`"),
    "banded for a bias without tails": ({"position_bias": WavyBias(), "route": "banded"}, "`radius` and `tails`.*fft"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests_raise(case):
    change, expected = BAD_REQUESTS[case]
    request = {"query_features": features(), "key_features": features(), "value": features(), "position_bias": None}
    with pytest.raises(ValueError, match=rf"(?s){expected}.*Received: "):
        toeplitz_attention(**{**request, **change})
