"""Every route against the float64 definition: values and gradients."""

import keras
import numpy as np
import pytest
from definition import Attention, error, randomize, to_numpy
from hypothesis import given
from hypothesis import strategies as st
from toeplitz_checks import (
    BIASES,
    LINEAR_ROUTES,
    MASKS,
    ROUTES,
    check,
    make_bias,
    make_inputs,
    make_mask,
    run,
    tensorflow_only,
)

from krpe_tf import LearnedBias, toeplitz_attention
from krpe_tf.toeplitz import banded, fft
from krpe_tf.toeplitz.banded import SMALLEST_CHUNK


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("route", "bias"),
    [
        ("dense", "alibi"),
        ("fft", "alibi"),
        ("fft", "whole table"),
        ("banded", "none"),
        ("banded", "decay"),
        ("banded", "alibi"),
        ("banded", "whole table"),
    ],
)
def test_route_computes_the_definition_over_several_chunks(route, bias, causal, optimized):
    # tests/test_cells.py holds every route, bias and order at one length, of three chunks.
    n = 5 * SMALLEST_CHUNK - 3
    check(make_inputs(n, n), make_bias(bias), route, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 2, 15, 2 * SMALLEST_CHUNK, 2 * SMALLEST_CHUNK + 1])
@pytest.mark.parametrize("route", ROUTES)
def test_route_computes_the_definition_at_short_lengths(route, n, causal, optimized):
    # Shorter than the radius and a chunk; the most that is one chunk, and one more.
    check(make_inputs(n, n, batch=1), make_bias("decay"), route, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n_q", "n_k"), [(129, 129), (192, 192), (193, 193), (130, 10), (10, 130)])
@pytest.mark.parametrize("bias", ["decay", "learned", "whole table"])
def test_banded_at_the_first_lengths_of_two_long_chunks(bias, n_q, n_k, causal):
    # Many features make the chunks long.
    check(make_inputs(n_q, n_k, batch=1, m=40), make_bias(bias), "banded", causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n_q", "n_k"), [(17, 260), (260, 17), (1, 70), (70, 1)])
@pytest.mark.parametrize("route", ROUTES)
def test_cross_attention_between_different_lengths(route, n_q, n_k, causal):
    # A causal query far past the last of few keys sees only small weights; a flat tail keeps the fft in range.
    check(make_inputs(n_q, n_k, batch=1), make_bias("learned"), route, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_masked_keys_leave_both_sums(route, causal):
    # A sequence for each kind of mask: one program serves all.
    n = 3 * SMALLEST_CHUNK + 5
    mask = np.stack(
        [np.ones(n, bool) if kind == "none" else MASKS[kind](n, np.random.default_rng(0)) for kind in MASKS]
    )
    output = check(make_inputs(n, n, batch=len(MASKS)), make_bias("decay"), route, causal=causal, key_mask=mask)
    output = dict(zip(MASKS, output, strict=True))
    np.testing.assert_array_equal(output["all"], 0)
    if causal:
        np.testing.assert_array_equal(output["first"][:, : (n + 1) // 3], 0)


@st.composite
def requests(draw, route):
    n_q = draw(st.integers(0, 300))
    n_k = n_q if route == "streaming" else draw(st.one_of(st.just(n_q), st.integers(0, 300)))
    sizes = {"heads": draw(st.integers(1, 4)), **{name: draw(st.integers(1, 3)) for name in ("batch", "m", "d")}}
    options = {"causal": route == "streaming" or draw(st.booleans())}
    mask = make_mask(draw(st.sampled_from(list(MASKS))), n_k, sizes["batch"])
    if mask is not None:
        options["key_mask"] = mask
    if options["causal"] and route != "streaming":
        options["prefix_length"] = draw(st.one_of(st.none(), st.integers(0, 300)))
    bias = make_bias(draw(st.sampled_from(list(BIASES))), sizes["heads"])
    return make_inputs(n_q, n_k, **sizes), bias, options


@pytest.mark.parametrize("route", [*ROUTES, "streaming", "auto"])
@given(data=st.data())
def test_route_computes_the_definition(route, data):
    inputs, bias, options = data.draw(requests(route))
    check(inputs, bias, route, **options)


def test_no_positions_give_no_rows_and_no_keys_zeros():
    for route in (*ROUTES, "auto"):
        for n_q, n_k in ((0, 0), (0, 5), (5, 0)):
            query, key, value, _ = make_inputs(n_q, n_k)
            output = to_numpy(toeplitz_attention(query, key, value, make_bias("decay"), route=route))
            np.testing.assert_array_equal(output, np.zeros((2, 2, n_q, 2)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n_q", "n_k"), [(1030, 700), (1025, 40), (40, 1025)])
def test_dense_computes_the_definition_over_several_blocks(n_q, n_k, causal):
    mask = make_mask("first", n_k, batch=1)
    check(make_inputs(n_q, n_k, batch=1), make_bias("learned"), "dense", causal=causal, key_mask=mask)


def test_dense_shows_a_long_prefix_to_the_first_parts():
    check(make_inputs(1030, 1100, batch=1), make_bias("learned"), "dense", causal=True, prefix_length=900)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("route", LINEAR_ROUTES)
def test_route_computes_the_definition_at_a_long_length(route, causal, optimized):
    check(make_inputs(1101, 1101, batch=1, m=2, d=1), make_bias("decay"), route, causal=causal)


@pytest.mark.parametrize("group", [2, 5])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", ["none", "decay", "alibi", "bucketed"])
def test_banded_carries_sums_from_group_to_group(monkeypatch, bias, causal, group):
    monkeypatch.setattr(banded, "group_size", lambda key_chunks: group)
    n = 8 * SMALLEST_CHUNK + 9
    mask = make_mask("some", n)
    check(make_inputs(n, n), make_bias(bias), "banded", causal=causal, key_mask=mask)


@pytest.mark.parametrize("key_chunks", [1, 16, 17, 33, 129, 257, 1025])
def test_groups_of_chunks_hold_all_and_leave_few_places_empty(key_chunks):
    size = banded.group_size(key_chunks)
    assert min(8, key_chunks) <= size <= 31
    assert -key_chunks % size <= key_chunks // 50


@pytest.mark.parametrize("m", [3, 40])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("radius", [1, 33, 34, 65, 66, 97, 98])
def test_chunks_that_meet_cover_the_near_band(radius, causal, m):
    chunk, blocks = banded.chunk_plan(1000, radius, m, causal)
    assert radius - 1 <= (chunk if causal or blocks == 3 else chunk // 2)
    bias = randomize(LearnedBias(2, radius))
    check(make_inputs(400, 400, batch=1, m=m), bias, "banded", causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_whole_table_of_a_long_sequence(route, causal):
    # The paper's 2n - 1 scalars.
    n = 601
    bias = randomize(LearnedBias(2, n - 1), scale=0.2)
    check(make_inputs(n, n, batch=1), bias, route, causal=causal)


@pytest.mark.parametrize("budget", [1, 4000])
@pytest.mark.parametrize("causal", [False, True])
def test_fft_takes_features_in_groups(monkeypatch, causal, budget):
    # One feature a group, and groups that do not divide their number.
    inputs = make_inputs(75, 75, m=5)
    whole, _ = run(inputs, make_bias("decay"), "fft", causal=causal)
    monkeypatch.setattr(fft, "TRANSFORM_BUDGET", budget)
    grouped = check(inputs, make_bias("decay"), "fft", causal=causal)
    assert error(grouped, whole) < 1e-5


def test_fast_length_is_the_next_with_small_factors():
    length = 600
    for n in range(600, 0, -1):
        if 30**10 % n == 0:
            length = n
        assert fft.fast_length(n) == length


@pytest.mark.parametrize("prefix_length", [0, 5, 150, 200])
@pytest.mark.parametrize("route", [*ROUTES, "auto"])
def test_prefix_is_seen_by_every_query(prefix_length, route):
    for n_q, n_k in ((150, 150), (140, 170)):
        mask = make_mask("some", n_k)
        check(make_inputs(n_q, n_k), make_bias("decay"), route, causal=True, prefix_length=prefix_length, key_mask=mask)


def test_prefix_over_several_blocks():
    check(make_inputs(700, 700, batch=1, m=1, d=1), make_bias("learned"), "dense", causal=True, prefix_length=600)


@tensorflow_only
@pytest.mark.parametrize("route", [*ROUTES, "streaming"])
def test_float64_stays_float64(route):
    # The bias is float32, so one whose values are weights, not computed.
    inputs = [x.astype("float64") for x in make_inputs(140, 140)]
    bias, causal = make_bias("learned"), route == "streaming"
    output, gradients = run(inputs[:3], bias, route, inputs[3], causal=causal)
    expected = Attention(*inputs[:3], bias, causal=causal)
    assert output.dtype == "float64"
    assert error(output, expected.output) < 1e-10
    for actual, right in zip(gradients, expected.gradients(inputs[3])[:3], strict=False):
        assert error(actual, right) < 1e-10


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("route", [*ROUTES, "streaming"])
def test_half_precision_is_computed_in_float32(route, dtype):
    inputs = [keras.ops.cast(x, dtype) for x in make_inputs(140, 140)[:3]]
    bias, causal = make_bias("decay"), route == "streaming"
    output = toeplitz_attention(*inputs, bias, route=route, causal=causal)
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    expected = Attention(*(to_numpy(keras.ops.cast(x, "float32")) for x in inputs), bias, causal=causal)
    assert error(to_numpy(output), expected.output) < 1e-4


@tensorflow_only
@pytest.mark.parametrize("causal", [False, True])
def test_the_definitions_gradients_are_those_of_automatic_differentiation(causal):
    import tensorflow as tf

    *inputs, cotangent = (x.astype("float64") for x in make_inputs(40, 40))
    mask, bias = make_mask("some", 40), make_bias("decay")
    t = np.arange(40)[None] - np.arange(40)[:, None]
    side, near = (t > 0).astype(int), np.abs(t) < bias.radius
    sources = [tf.constant(x) for x in inputs] + [tf.cast(weight.value, "float64") for weight in bias.weights]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        query, key, value, table, log_amplitude, log_rate = sources
        beyond = np.maximum(np.abs(t) - bias.radius, 0)[..., None]
        tails = tf.gather(log_amplitude, side) - tf.gather(tf.exp(log_rate), side) * beyond[:, :, None]
        tails = tf.transpose(tf.reduce_logsumexp(tails, axis=-1), (2, 0, 1))
        b = tf.where(near, tf.gather(table, np.where(near, t + bias.radius - 1, 0), axis=1), tails)
        seen = mask[:, None, None] & ((t <= 0) | (not causal))
        weights = tf.where(seen, tf.exp(b) * tf.matmul(query, key, transpose_b=True), 0)
        total = tf.reduce_sum(weights, axis=-1, keepdims=True)
        output = tf.matmul(tf.math.divide_no_nan(weights, total), value)
        loss = tf.reduce_sum(output * cotangent)
    expected = Attention(*inputs, bias, causal=causal, key_mask=mask)
    assert error(output, expected.output) < 1e-12
    *right, by_name = expected.gradients(cotangent)
    right += [by_name[weight.name] for weight in bias.weights]
    for automatic, ours in zip(map(tf.convert_to_tensor, tape.gradient(loss, sources)), right, strict=True):
        assert error(ours, automatic) < 1e-10


# --- Lengths that are not known at trace time


@tensorflow_only
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("route", [*ROUTES, "auto"])
def test_one_graph_serves_all_lengths(route, causal):
    import tensorflow as tf

    bias = make_bias("decay")
    shapes = [tf.TensorSpec([None, 2, None, width]) for width in (3, 3, 2, 2)]

    @tf.function(input_signature=[*shapes, tf.TensorSpec([None, None], tf.bool)], autograph=False)
    def graph(query, key, value, cotangent, mask):
        with tf.GradientTape() as tape:
            tape.watch([query, key, value])
            output = toeplitz_attention(query, key, value, bias, causal=causal, key_mask=mask, route=route)
        sources = [query, key, value, *(weight.value for weight in bias.weights)]
        return output, tape.gradient(output, sources, output_gradients=cotangent)

    longest = 300 if route == "fft" else 600  # the transforms of unknown length are slow
    for n_q, n_k in ((7, 7), (40, 230), (longest, longest)):
        *inputs, cotangent = make_inputs(n_q, n_k)
        mask = make_mask("last", n_k)
        expected = Attention(*inputs, bias, causal=causal, key_mask=mask)
        output, gradients = graph(*inputs, cotangent, mask)
        assert error(output, expected.output, np.abs(inputs[2]).max()) < (1e-4 if route == "fft" else 1e-5)
        *of_arrays, of_weights = expected.gradients(cotangent)
        right = [*of_arrays, *(of_weights[weight.name] for weight in bias.weights)]
        scale = max(np.abs(x).max() for x in right)
        for actual, expected_gradient in zip(gradients, right, strict=True):
            assert error(actual, expected_gradient, scale) < (1e-4 if route == "fft" else 1e-5)
