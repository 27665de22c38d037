"""Several documents in a row: on every route that serves them each sees itself alone, values and gradients."""

import keras
import numpy as np
import pytest
from calls import call, jit
from definition import Attention, error, forward_backward, randomize, to_numpy
from hypothesis import given
from hypothesis import strategies as st
from toeplitz_checks import BIASES, MASKS, check, make_bias, make_inputs, make_mask, run, tensorflow_only

from krpe_tf import KernelizedRPEAttention, LearnedBias, LearnedBias2D, toeplitz_attention
from krpe_tf.models import Encoder, MaskedLM, TextClassifier, TextEmbedder, TokenClassifier
from krpe_tf.toeplitz import banded, choose_route, exact_attention
from krpe_tf.toeplitz.banded import SMALLEST_CHUNK

# Route and order.
SERVED = [("dense", False), ("dense", True), ("banded", False), ("banded", True), ("streaming", True)]


def ids_of(*lengths):
    """The ids of a row of documents of these lengths; they need not ascend."""
    return np.repeat(np.arange(len(lengths)) * 7 % 5, lengths).astype("int32")


def rows(n):
    """Borders of every kind, a row each: within a chunk several, at borders of chunks, over many chunks, none."""
    chunk = SMALLEST_CHUNK
    return np.stack(
        [
            ids_of(1, 2, 30, 1, 3 * chunk, n - 3 * chunk - 34),
            ids_of(chunk, chunk // 2, chunk // 2, chunk + 1, n - 3 * chunk - 1),
            ids_of(n),
            np.random.default_rng(0).integers(0, 2, n, dtype="int32"),
        ]
    )


@pytest.mark.parametrize("bias", ["none", "decay", "bucketed", "whole table"])
@pytest.mark.parametrize(("route", "causal"), SERVED)
def test_documents_do_not_see_each_other(route, causal, bias, optimized):
    n = 5 * SMALLEST_CHUNK - 3
    check(make_inputs(n, n, batch=4), make_bias(bias), route, causal=causal, segment_ids=rows(n))


@pytest.mark.parametrize("group", [2, 5])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", ["none", "decay", "bucketed"])
def test_sums_are_carried_within_documents_alone(monkeypatch, bias, causal, group):
    """From group to group: documents over many groups, and borders at those of groups."""
    monkeypatch.setattr(banded, "group_size", lambda key_chunks: group)
    chunk = SMALLEST_CHUNK
    n = 11 * chunk + 9
    ids = np.stack([ids_of(5 * chunk, 6 * chunk + 9), ids_of(3, n - 73, 70), ids_of(*[2 * chunk] * 5, chunk + 9)])
    check(make_inputs(n, n, batch=3, m=2, d=1), make_bias(bias), "banded", causal=causal, segment_ids=ids)


def test_a_flat_tail_over_a_long_length_leaks_nothing(optimized):
    """A document of values that are huge, and one of small ones behind it: no subtraction could keep them apart."""
    n = 2000
    query, key, value, _ = make_inputs(n, n, batch=1, heads=1)
    ids = ids_of(n // 2 + 7, n // 2 - 7)[None]
    key = key * np.where(ids == 0, 1e6, 1e-6)[:, None, :, None].astype("float32")
    value = value * np.where(ids == 0, 1e6, 1)[:, None, :, None].astype("float32")
    bias = make_bias("learned", heads=1)
    for causal in (False, True):
        options = {"causal": causal, "segment_ids": ids}
        expected = Attention(query, key, value, bias, **options).output
        output, _ = run((query, key, value), bias, "banded", **options)
        for document in (0, 7 % 5):
            assert error(output[:, :, ids[0] == document], expected[:, :, ids[0] == document]) < 1e-5


@st.composite
def packed_requests(draw, causal):
    n = draw(st.integers(1, 400))
    sizes = {"heads": draw(st.integers(1, 3)), **{name: draw(st.integers(1, 3)) for name in ("batch", "m", "d")}}
    # Runs of any length, in which ids return.
    borders = draw(st.lists(st.sets(st.integers(1, max(1, n - 1)), max_size=12), min_size=1, max_size=3))
    ids = [np.isin(np.arange(n), list(borders[row % len(borders)])).cumsum() % 3 for row in range(sizes["batch"])]
    options = {"causal": causal, "segment_ids": np.stack(ids).astype("int32")}
    mask = make_mask(draw(st.sampled_from(list(MASKS))), n, sizes["batch"])
    if mask is not None:
        options["key_mask"] = mask
    return make_inputs(n, n, **sizes), make_bias(draw(st.sampled_from(list(BIASES))), sizes["heads"]), options


@pytest.mark.parametrize(("route", "causal"), SERVED)
@given(data=st.data())
def test_random_borders(route, causal, data):
    inputs, bias, options = data.draw(packed_requests(causal))
    check(inputs, bias, route, **options)


@pytest.mark.parametrize("causal", [False, True])
def test_dense_over_several_blocks(causal):
    n = 1030
    ids = ids_of(100, 500, 1, n - 601)[None]
    check(make_inputs(n, n, batch=1, m=2, d=1), make_bias("learned"), "dense", causal=causal, segment_ids=ids)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [140, 700])
def test_the_exact_kernel_and_its_scores(n, causal):
    query, key, value, cotangent = make_inputs(n, n, m=2)
    bias, ids = make_bias("decay"), np.stack([ids_of(70, n - 70), ids_of(1, n - 2, 1)])
    expected = Attention(query, key, value, bias, causal=causal, segment_ids=ids, kernel="softmax")
    options = {"causal": causal, "key_mask": None, "exact_kernel": True, "segment_ids": ids}
    output, gradients, _ = forward_backward(
        lambda *arrays: exact_attention(*arrays, bias, **options), (query, key, value), cotangent
    )
    assert error(output, expected.output, np.abs(value).max()) < 1e-5
    right = expected.gradients(cotangent)[:3]
    scale = max(np.abs(x).max() for x in right)
    assert max(error(*pair, scale) for pair in zip(gradients, right, strict=True)) < 1e-5
    _, scores = exact_attention(query, key, value, bias, scores=True, **options)
    assert error(to_numpy(scores), expected.scores) < 1e-5


@tensorflow_only
@pytest.mark.parametrize(("route", "causal"), SERVED)
def test_float64_stays_float64(route, causal):
    inputs = [x.astype("float64") for x in make_inputs(240, 240)]
    bias, ids = make_bias("learned"), np.stack([ids_of(100, 140), ids_of(3, 127, 110)])
    options = {"causal": causal, "segment_ids": ids}
    output, gradients = run(inputs[:3], bias, route, inputs[3], **options)
    expected = Attention(*inputs[:3], bias, **options)
    assert error(output, expected.output) < 1e-10
    for actual, right in zip(gradients, expected.gradients(inputs[3])[:3], strict=False):
        assert error(actual, right) < 1e-10


@tensorflow_only
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("route", ["dense", "banded", "auto"])
def test_one_graph_serves_all_lengths(route, causal, jit_compile):
    import tensorflow as tf

    bias = make_bias("decay")
    known = 600 if jit_compile else None
    shapes = [tf.TensorSpec([None if known is None else 2, 2, known, width]) for width in (3, 3, 2)]

    @tf.function(
        input_signature=[*shapes, tf.TensorSpec([shapes[0].shape[0], known], tf.int32)], jit_compile=jit_compile
    )
    def graph(query, key, value, ids):
        return toeplitz_attention(query, key, value, bias, causal=causal, segment_ids=ids, route=route)

    for n in (600,) if known else (7, 230, 600):
        *inputs, _ = make_inputs(n, n)
        ids = np.stack([ids_of(3, n - 3), ids_of(n // 2, n - n // 2)])
        expected = Attention(*inputs, bias, causal=causal, segment_ids=ids).output
        assert error(graph(*inputs, ids), expected, np.abs(inputs[2]).max()) < 1e-5


def test_requests_that_no_route_serves_say_so():
    query, key, value, _ = make_inputs(6, 6)
    ids, bias = np.zeros((2, 6), "int32"), make_bias("decay")

    def call(message, *arrays, bias=bias, segment_ids=ids, **options):
        with pytest.raises(ValueError, match=message):
            toeplitz_attention(*(arrays or (query, key, value)), bias, segment_ids=segment_ids, **options)
        if options.get("route") != "fft":
            options = {"causal": False, "key_mask": None, **options}
            with pytest.raises(ValueError, match=message):
                exact_attention(*(arrays or (query, key, value)), bias, segment_ids=segment_ids, **options)

    call(r'(?s)"fft" serves no `segment_ids`.*take "banded".*Received: route=\'fft\'', route="fft")
    call(r"exclude each other.*Received: prefix_length=2", causal=True, prefix_length=2)
    call(r"must be integers \(batch, n\).*Received: segment_ids.shape=\(2, 5\)", segment_ids=ids[:, :5])
    call(r"must be integers.*Received: segment_ids.shape=\(6,\)", segment_ids=ids[0])
    call(r"must be integers.*segment_ids.dtype=float32", segment_ids=ids.astype("float32"))
    call(r"must be integers.*n_q=4, n_k=6", query[:, :, :4], key, value)
    call(r"take a bias over one axis\. Received: .*LearnedBias2D", bias=LearnedBias2D(2, 2, 3))


def test_auto_never_takes_fft():
    class Untailed:
        num_heads, log_weights = 2, make_bias("decay").log_weights

    for n in (None, 64, 4096, 1_000_000):
        for causal in (False, True):
            for bias in (make_bias("decay"), randomize(LearnedBias(2, 2000))):
                assert choose_route(bias, n, n, 4, 4, causal, packed=True) in ("dense", "banded")
            assert choose_route(Untailed(), n, n, 4, 4, causal, packed=True) == "dense"


# --- The layer


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


LENGTHS = (7, 70, 1, 52)
IDS = np.stack([ids_of(*LENGTHS), ids_of(*LENGTHS[::-1])])


def each_alone(function, x):
    """What a function of a row gives for each document of IDS in a row of its own, joined."""
    joined = []
    for row, ids in zip(x, IDS, strict=True):
        parts = [function(part[None]) for part in np.split(row, np.flatnonzero(np.diff(ids)) + 1)]
        joined.append(np.concatenate([to_numpy(part) for part in parts], axis=1))
    return np.concatenate(joined)


@pytest.mark.parametrize(
    "arguments",
    [{"route": "banded"}, {"feature_map": "softmax"}, {"causal": True, "route": "streaming"}, {"position_bias": None}],
)
def test_the_layer_takes_segments(arguments):
    layer = KernelizedRPEAttention(2, 4, num_features=5, seed=1, **arguments)
    x = normal(2, 130, 6)
    layer.build(x.shape, x.shape)
    packed = to_numpy(call(layer, x, x, segment_ids=IDS))
    assert error(packed, each_alone(lambda row: call(layer, row, row), x)) < 1e-5


def test_segments_are_an_input_of_functional_models():
    x, ids = keras.Input((130, 6)), keras.Input((130,), dtype="int32")
    layer = KernelizedRPEAttention(2, 4, seed=1)
    model = keras.Model([x, ids], layer(x, x, segment_ids=ids))
    values = normal(2, 130, 6)
    assert error(to_numpy(model([values, IDS])), to_numpy(call(layer, values, values, segment_ids=IDS))) < 1e-6
    with pytest.raises(ValueError, match=r"must be integers.*Received: segment_ids.shape=\(None, 130, 6\)"):
        layer(x, x, segment_ids=x)
    with pytest.raises(ValueError, match='take "banded"'):
        KernelizedRPEAttention(2, 4, route="fft")(x, x, segment_ids=ids)


@pytest.mark.parametrize("sizes", [(130,), (20, 70, 1, 39), (8, 122)])
def test_a_step_starts_documents_at_any_place(sizes):
    layer = KernelizedRPEAttention(2, 4, num_features=5, causal=True, seed=1)
    x = normal(2, 130, 6)
    layer.build(x.shape, x.shape)
    starts = np.pad(np.diff(IDS) != 0, [[0, 0], [1, 0]], constant_values=True)
    # What was read before the first document is none of theirs, whatever it was.
    step = jit(layer.step) if keras.backend.backend() == "jax" else layer.step
    _, state = step(np.full((2, 3, 6), np.nan, "float32"), layer.initial_state(2))
    outputs, place = [], 0
    for size in sizes:
        part = slice(place, place + size)
        output, state = step(x[:, part], state, reset=starts[:, part])
        outputs.append(to_numpy(output))
        place += size
    assert error(np.concatenate(outputs, axis=1), to_numpy(call(layer, x, x, segment_ids=IDS))) < 1e-5


def test_a_broken_document_does_not_reach_the_next_step():
    layer = KernelizedRPEAttention(2, 4, num_features=5, causal=True, seed=1)
    x = normal(1, 30, 6)
    layer.build(x.shape, x.shape)
    broken = np.where(np.arange(30)[:, None] < 10, np.float32("nan"), x)
    _, state = layer.step(broken[:, :20], layer.initial_state(1), reset=(np.arange(20) == 10)[None])
    output, _ = layer.step(broken[:, 20:], state)
    assert error(to_numpy(output), to_numpy(call(layer, x[:, 10:], x[:, 10:]))[:, 10:]) < 1e-5


# --- Models


def test_models_take_segments_and_keep_their_interface():
    encoder = Encoder(30, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=12, dropout=0.0, seed=0)
    ids = np.random.default_rng(0).integers(5, 30, IDS.shape, dtype="int32")
    positions = np.array([[0, 8, 129], [3, 60, 70]], "int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    packed = {**inputs, "segment_ids": IDS}

    def alone(model):
        return each_alone(lambda row: call(model, {"token_ids": row, "padding_mask": np.ones_like(row)}), ids)

    for model in (encoder, MaskedLM(encoder), TokenClassifier(encoder, 3)):
        assert [each.name for each in model.interface.inputs] == ["token_ids", "padding_mask"]
        expected = alone(model)
        assert error(to_numpy(call(model, packed)), expected) < 1e-5
        assert error(to_numpy(call(model, inputs)), expected) > 1e-3
    model = MaskedLM(encoder, at_positions=True)
    logits = to_numpy(model({**packed, "mask_positions": positions}))
    full = MaskedLM(encoder)
    full.set_weights(model.get_weights())
    assert error(logits, np.take_along_axis(alone(full), positions[..., None], axis=1)) < 1e-5


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="gradients by its tape")
def test_layers_that_are_computed_again_in_the_backward_pass_see_the_same_documents():
    import tensorflow as tf

    ids = np.random.default_rng(0).integers(5, 30, IDS.shape, dtype="int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": IDS}
    gradients = []
    for mode in (None, "full"):
        keras.utils.set_random_seed(0)
        with keras.RematScope(mode=mode):
            encoder = Encoder(30, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=12, dropout=0.0, seed=0)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(inputs) ** 3)
        gradients.append(tape.gradient(loss, encoder.get_layer("layer_0_attention").query_dense.kernel.value))
    assert error(to_numpy(gradients[1]), to_numpy(gradients[0])) < 1e-5


def test_segments_are_symbolic_inputs_of_models():
    encoder = Encoder(30, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=12, dropout=0.0, seed=0)
    names = ("token_ids", "padding_mask", "segment_ids")
    symbols = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    model = keras.Model(symbols, encoder(symbols))
    values = dict(zip(names, (np.abs(IDS) + 5, np.ones_like(IDS), IDS), strict=True))
    assert error(to_numpy(model(values)), to_numpy(encoder(values))) < 1e-6


@pytest.mark.parametrize("head", [TextEmbedder, lambda encoder: TextClassifier(encoder, 3)])
def test_heads_of_whole_rows_refuse_segments(head):
    model = head(Encoder(30, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=12, seed=0))
    inputs = {"token_ids": IDS + 5, "padding_mask": np.ones_like(IDS), "segment_ids": IDS}
    with pytest.raises(ValueError, match=r"takes no `segment_ids`.*Received: inputs token_ids"):
        model(inputs)
