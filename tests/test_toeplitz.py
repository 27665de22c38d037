"""Every route against the float64 definition: values and gradients."""

import keras
import numpy as np
import pytest
from definition import Attention, error, forward_backward, randomize, to_numpy
from hypothesis import given
from hypothesis import strategies as st

from krpe_tf import BucketedBias, DecayBias, LearnedBias, toeplitz_attention
from krpe_tf.toeplitz import fft
from krpe_tf.toeplitz.banded import SMALLEST_CHUNK

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
    deep = (expected.depth > 65) & (route != "dense")
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


# --- Agreement


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", ["none", "decay", "alibi", "bucketed", "learned", "whole table"])
@pytest.mark.parametrize("route", ROUTES)
def test_route_computes_the_definition_over_several_chunks(route, bias, causal, optimized):
    n = 5 * SMALLEST_CHUNK - 3
    check(make_inputs(n, n), make_bias(bias), route, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 2, 15, SMALLEST_CHUNK + 1, 2 * SMALLEST_CHUNK + 1])
@pytest.mark.parametrize("route", ROUTES)
def test_route_computes_the_definition_at_short_lengths(route, n, causal, optimized):
    # Shorter than the radius, than a chunk, than two; one more than a chunk and than two.
    check(make_inputs(n, n, batch=1), make_bias("decay"), route, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n_q", "n_k"), [(17, 260), (260, 17), (1, 70), (70, 1)])
@pytest.mark.parametrize("route", ROUTES)
def test_cross_attention_between_different_lengths(route, n_q, n_k, causal):
    # A causal query far past the last of few keys sees only small weights; a flat tail keeps the fft in range.
    check(make_inputs(n_q, n_k, batch=1), make_bias("learned"), route, causal=causal)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_masked_keys_leave_both_sums(route, causal, mask):
    n = 3 * SMALLEST_CHUNK + 5
    inputs = make_inputs(n, n, batch=2)
    output = check(inputs, make_bias("decay"), route, causal=causal, key_mask=make_mask(mask, n))
    if mask == "all":
        np.testing.assert_array_equal(output[-1], 0)
    if mask == "first" and causal:
        np.testing.assert_array_equal(output[-1, :, : (n + 1) // 3], 0)


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


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("route", LINEAR_ROUTES)
def test_route_computes_the_definition_at_a_long_length(route, causal, optimized):
    check(make_inputs(1101, 1101, batch=1, m=2, d=1), make_bias("decay"), route, causal=causal)


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


# --- Masks, order, range


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize(
    ("route", "causal"), [*((route, causal) for route in ROUTES for causal in (False, True)), ("streaming", True)]
)
def test_rubbish_in_masked_places_changes_nothing(route, causal, rubbish):
    n = 140
    query, key, value, cotangent = make_inputs(n, n)
    mask = make_mask("some", n)
    hidden = ~mask[:, None, :, None]
    bias = make_bias("learned")
    options = {"causal": causal, "key_mask": mask}
    clean = run((query, key, value), bias, route, cotangent, **options)
    dirty = (query, np.where(hidden, np.float32(rubbish), key), np.where(hidden, np.float32(rubbish), value))
    dirty = run(dirty, bias, route, cotangent, **options)
    np.testing.assert_array_equal(clean[0], dirty[0])
    for before, after in zip(clean[1], dirty[1], strict=True):
        assert np.isfinite(after).all()
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", ["int32", "float32", "bool"])
def test_masks_may_be_boolean_or_numbers(kind):
    inputs, mask = make_inputs(9, 9), make_mask("last", 9)
    expected, _ = run(inputs, None, "dense", key_mask=mask)
    np.testing.assert_array_equal(run(inputs, None, "dense", key_mask=mask.astype(kind))[0], expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [20, 270])
@pytest.mark.parametrize("route", ROUTES)
def test_masked_equals_sliced(route, n, causal):
    seen = n - n // 3
    query, key, value, _ = make_inputs(n, n)
    mask = make_mask("last", n, batch=1).repeat(2, axis=0)
    bias = make_bias("learned")
    masked, _ = run((query, key, value), bias, route, causal=causal, key_mask=mask)
    sliced, _ = run((query[:, :, :seen], key[:, :, :seen], value[:, :, :seen]), bias, route, causal=causal)
    tolerance = 1e-4 if route == "fft" else 1e-6
    assert error(masked[:, :, :seen], sliced, np.abs(value).max()) < tolerance


@pytest.mark.parametrize("n", [20, 250])
@pytest.mark.parametrize("route", [*ROUTES, "streaming"])
def test_the_future_does_not_leak(route, n):
    query, key, value, cotangent = make_inputs(n, n)
    last = n // 2
    cotangent[:, :, last + 1 :] = 0
    bias = make_bias("learned")
    output, gradients = run((query, key, value), bias, route, cotangent, causal=True)
    scale = max(np.abs(x).max() for x in gradients)
    tolerance = 1e-5 * scale if route == "fft" else 0
    for gradient in gradients[1:3]:
        assert np.abs(gradient[:, :, last + 1 :]).max() <= tolerance
        assert np.abs(gradient[:, :, last]).max() > 0
    assert np.abs(gradients[3][:, 10:]).max() <= tolerance  # weights of offsets after the query
    if route != "fft":
        key[:, :, last + 1 :] *= 7
        value[:, :, last + 1 :] += 7
        changed, _ = run((query, key, value), bias, route, causal=True)
        np.testing.assert_array_equal(changed[:, :, : last + 1], output[:, :, : last + 1])


@pytest.mark.parametrize("route", ROUTES)
def test_permuting_heads_permutes_the_output(route):
    order = [2, 0, 1]
    inputs = make_inputs(70, 70, heads=3)[:3]
    bias = make_bias("learned", heads=3)
    output, _ = run(inputs, bias, route)
    permuted_bias = LearnedBias(3, 9)
    permuted_bias.table.assign(to_numpy(bias.table)[order])
    permuted, _ = run([x[:, order] for x in inputs], permuted_bias, route)
    assert error(permuted, output[:, order]) < 1e-6


@pytest.mark.parametrize("route", ROUTES)
def test_a_constant_added_to_the_bias_changes_nothing(route):
    inputs, bias = make_inputs(70, 70)[:3], make_bias("learned")
    before, _ = run(inputs, bias, route)
    bias.table.assign(to_numpy(bias.table) + np.array([[60.0], [-60.0]], "float32"))
    assert error(run(inputs, bias, route)[0], before) < 1e-5


@pytest.mark.parametrize("route", ROUTES)
def test_features_of_any_size_are_seen(route):
    # Only their ratios count: features of 1e-12, whose product is far below a fixed threshold for zero, count too.
    query, key, value, _ = make_inputs(40, 40)
    expected, _ = run((query, key, value), None, route)
    for factor in (1e-12, 1e12):
        output, _ = run((query * np.float32(factor), key * np.float32(factor), value), None, route)
        assert error(output, expected, np.abs(value).max()) < 1e-4, factor


def far_peak(height, heads=2, last=40):
    """A causal bias whose largest weight lies `last` positions back: the rows before cannot see it."""
    bias = LearnedBias(heads, last)
    table = np.zeros((heads, 2 * last + 1), "float32")
    table[:, 0] = height
    bias.table.assign(table)
    return bias


@pytest.mark.parametrize("height", [4, 16, 70])
@pytest.mark.parametrize("route", [*ROUTES, "streaming"])
def test_rows_that_cannot_see_the_largest_weight_stay_right(route, height):
    # A plain fft is wrong by hundreds here.
    check(make_inputs(60, 60, batch=1), far_peak(height), route, causal=True)


@tensorflow_only
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("below", [4.5, 15.0])  # compiled arithmetic must put 15, between two levels, into one
def test_such_rows_stay_right_when_compiled(route, below):
    import tensorflow as tf

    *inputs, cotangent = make_inputs(60, 60, batch=1)
    bias = far_peak(0)
    table = np.full((2, 81), -np.nextafter(np.float32(below), np.float32(0)), "float32")
    table[:, 0] = 0
    bias.table.assign(table)
    expected = Attention(*inputs, bias, causal=True)
    *right, by_name = expected.gradients(cotangent)
    for jit_compile in (False, True):

        @tf.function(jit_compile=jit_compile)
        def graph(*inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                output = toeplitz_attention(*inputs, bias, causal=True, route=route)
            return output, tape.gradient(output, [*inputs, bias.table.value], output_gradients=cotangent)

        output, gradients = graph(*map(tf.constant, inputs))
        assert error(output, expected.output, np.abs(inputs[2]).max()) < 1e-4
        scale = max(np.abs(x).max() for x in right)
        for actual, definition in zip(gradients, [*right, by_name["table"]], strict=True):
            assert error(tf.convert_to_tensor(actual), definition, scale) < 1e-4


@pytest.mark.parametrize("shape", ["steep", "steeper", "step"])
@pytest.mark.parametrize("route", [*LINEAR_ROUTES, "streaming"])
def test_rows_at_the_end_of_the_range_are_right_or_zeros(route, shape):
    n = 200
    t = np.arange(1 - n, n)
    table = {"steep": -0.45 * t - 45, "steeper": -0.5 * t - 50, "step": np.where(t < -150, 43.5, -43.5)}[shape]
    bias = LearnedBias(2, n - 1)
    bias.table.assign(np.broadcast_to(table, bias.table.shape))
    *inputs, cotangent = make_inputs(n, n, batch=1)
    output, gradients = run(inputs, bias, route, cotangent, causal=True)
    expected = Attention(*inputs, bias, causal=True)
    kept = output.any(-1)
    assert error(output[kept], expected.output[kept], np.abs(inputs[2]).max()) < 1e-4
    assert kept[expected.depth[..., 0] < 65].all()
    assert all(np.isfinite(x).all() for x in gradients)
    check([*inputs, cotangent], bias, route, causal=True)


def test_dense_has_no_range():
    check(make_inputs(60, 60, batch=1), far_peak(200), "dense", causal=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", ["growing", "falling", "wild", "far peaks"])
@pytest.mark.parametrize("route", [*ROUTES, "streaming"])
def test_tables_over_a_wide_range(route, shape, causal):
    n = 301
    t = np.arange(1 - n, n)
    table = {
        "growing": np.abs(t) * 0.15,
        "falling": np.abs(t) * -0.15,
        "wild": np.random.default_rng(0).uniform(-50, 50, (2, len(t))),
        "far peaks": 40.0 * (np.abs(t) % 100 == 99),
    }[shape]
    bias = LearnedBias(2, n - 1)
    bias.table.assign(np.broadcast_to(table, bias.table.shape))
    if route == "streaming" and not causal:
        return
    check(make_inputs(n, n, batch=1), bias, route, causal=causal)
    if route != "streaming":
        mask = make_mask("first", n, batch=1) & make_mask("some", n, batch=1)
        check(make_inputs(n, n, batch=1), bias, route, causal=causal, key_mask=mask)


def test_the_fft_gives_zeros_or_the_right_row():
    # Weights past its range, and features over 30 orders of magnitude, of which no transform can hold the small ones.
    n = 80
    query, key, value, cotangent = make_inputs(n, n, batch=1)
    for bias, factor in ((far_peak(200), 1), (make_bias("none"), np.logspace(0, 30, n)[::-1, None])):
        inputs = (query, (key * factor).astype("float32"), value)
        output, gradients = run(inputs, bias, "fft", cotangent, causal=True)
        assert all(np.isfinite(x).all() for x in gradients)
        kept = output.any(-1)
        expected = Attention(*inputs, bias, causal=True).output
        assert error(output[kept], expected[kept], np.abs(value).max()) < 1e-3


@pytest.mark.parametrize("shift", [80.0, 1e4])
def test_dense_sees_a_key_however_small_its_weight_is(shift):
    # Only keys beyond the near band are visible, and their weight is exp(-shift) of the others.
    n = 30
    bias = LearnedBias(2, 4)
    table = np.zeros((2, 9), "float32")
    table[:, [0, -1]] = -shift
    bias.table.assign(table)
    mask = np.repeat((np.arange(n) >= n - 3)[None], 2, axis=0)
    check(make_inputs(n, n), bias, "dense", key_mask=mask)


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

    for n_q, n_k in ((7, 7), (40, 230), (600, 600)):
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
