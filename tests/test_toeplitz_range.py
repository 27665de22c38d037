"""What must not matter to a route, or only in a stated range: masked places, order, constants, sizes of numbers."""

import numpy as np
import pytest
from definition import Attention, error, to_numpy
from toeplitz_checks import LINEAR_ROUTES, ROUTES, check, make_bias, make_inputs, make_mask, run, tensorflow_only

from krpe_tf import LearnedBias, toeplitz_attention


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
    assert kept[expected.depth[..., 0] < 70].all()
    assert all(np.isfinite(x).all() for x in gradients)
    check([*inputs, cotangent], bias, route, causal=True)


def test_dense_has_no_range():
    check(make_inputs(60, 60, batch=1), far_peak(200), "dense", causal=True)


@pytest.mark.parametrize("shape", ["growing", "falling", "wild", "far peaks"])
@pytest.mark.parametrize(
    ("route", "causal"), [*((route, causal) for route in ROUTES for causal in (False, True)), ("streaming", True)]
)
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
    check(make_inputs(n, n, batch=1), bias, route, causal=causal)
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
