"""Masks with an entry for each pair of positions, and masks that mean something else than they seem to."""

import keras
import numpy as np
import pytest
from definition import error, forward_backward, layer_output, randomize, to_numpy
from toeplitz_checks import check, make_bias, make_inputs, tensorflow_only

from krpe_tf import KernelizedRPEAttention, LearnedBias2D, toeplitz_attention
from krpe_tf.models import Encoder, TextClassifier


def make(**arguments):
    return KernelizedRPEAttention(**{"num_heads": 2, "key_dim": 4, "seed": 1, **arguments})


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def pairs(*shape, seed=0):
    """A mask in which the second query of the first document sees nothing, and its third key is seen by none."""
    mask = np.random.default_rng(seed).random(shape) < 0.6
    mask[0, ..., min(1, shape[-2] - 1), :] = False
    mask[0, ..., 2] = False
    return mask


# --- Pairs


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "prefix_length": 7}])
@pytest.mark.parametrize("shape", [(2, 1), (1, 2)])
@pytest.mark.parametrize(("n_q", "n_k"), [(9, 13), (1100, 30)])  # one block of queries, and three, the last padded
def test_a_mask_of_pairs_is_that_of_the_definition(n_q, n_k, shape, options):
    mask = pairs(*shape, n_q, n_k)
    check(make_inputs(n_q, n_k), make_bias("learned"), "auto", pair_mask=mask, **options)


@pytest.mark.parametrize("class_token", [False, True])
def test_a_mask_of_pairs_on_a_grid(class_token):
    bias = randomize(LearnedBias2D(2, 3, 4, class_token=class_token))
    n = bias.num_positions
    check(make_inputs(n, n), bias, "dense", pair_mask=pairs(2, 1, n, n))


def test_a_grid_of_several_blocks(monkeypatch):
    from krpe_tf.toeplitz import grid

    monkeypatch.setattr(grid, "BLOCK", 8)
    bias = randomize(LearnedBias2D(2, 5, 4, class_token=True))
    check(make_inputs(21, 21), bias, "dense", pair_mask=pairs(2, 2, 21, 21))


@pytest.mark.parametrize("route", ["fft", "banded", "streaming"])
def test_linear_routes_refuse_a_mask_of_pairs_and_name_dense(route):
    *inputs, _ = make_inputs(9, 9)
    options = {"route": route, "causal": route == "streaming"}
    with pytest.raises(ValueError, match=r"`pair_mask` does; take \"dense\".*Received: pair_mask.shape=\(2, 1, 9, 9\)"):
        toeplitz_attention(*inputs, make_bias("decay"), pair_mask=np.ones((2, 1, 9, 9), bool), **options)
    with pytest.raises(ValueError, match=r"`pair_mask` must have shape.*Received: pair_mask.shape=\(9, 9\)"):
        toeplitz_attention(*inputs, make_bias("decay"), pair_mask=np.ones((9, 9), bool))
    if route != "streaming":
        with pytest.raises(
            ValueError, match=r"(?s)`attention_mask`.*`route=\"dense\"`.*Received: attention_mask.shape="
        ):
            make(route=route)(normal(2, 9, 6), normal(2, 9, 6), attention_mask=np.ones((2, 1, 9, 9), bool))


@pytest.mark.parametrize("shape", [(2, 9, 13), (2, 1, 9, 13), (2, 2, 9, 13), (1, 9, 13), (2, 2, 1, 13)])
@pytest.mark.parametrize("feature_map", ["orthogonal", "softmax"])
def test_a_layer_takes_masks_of_pairs(feature_map, shape):
    layer, query, value = make(feature_map=feature_map), normal(2, 9, 6), normal(2, 13, 6, seed=1)
    mask, padding = pairs(*shape), np.arange(13)[None] < np.array([[13], [8]])
    options = {"attention_mask": mask.astype("int32"), "value_mask": padding, "use_causal_mask": True}
    output, scores = layer(query, value, return_attention_scores=True, **options)
    definition = {"pair_mask": mask if mask.ndim == 4 else mask[:, None], "key_mask": padding, "causal": True}
    expected, expected_scores = layer_output(layer, query, value, **definition)
    assert error(to_numpy(output), expected) < 1e-5
    assert error(to_numpy(scores), expected_scores) < 1e-5
    assert error(to_numpy(layer(query, value, **options)), expected) < 1e-5


def test_a_layer_takes_one_mask_of_keys_for_all_documents():
    layer, x, mask = make(), normal(3, 9, 6), np.arange(9)[None] < 7
    expected, _ = layer_output(layer, x, key_mask=np.broadcast_to(mask, (3, 9))) if layer(x, x) is not None else None
    for each in (mask, mask[None], mask[None, None]):
        assert error(to_numpy(layer(x, x, attention_mask=each)), expected) < 1e-5


@pytest.mark.parametrize("feature_map", ["orthogonal", "softmax"])
def test_what_a_hidden_key_holds_changes_nothing(feature_map):
    layer, x = make(feature_map=feature_map), normal(2, 9, 6)
    mask = np.broadcast_to(np.tri(9, dtype=bool), (2, 9, 9)) & (np.arange(9) != 4)
    cotangent = normal(2, 9, 6, seed=1)
    cotangent[:, 4] = 0
    layer(x, x)

    def call(x):
        rows = keras.ops.where((np.arange(9) != 4)[:, None], layer(x, x, query_mask=mask[:, 8], attention_mask=mask), 0)
        return rows

    dirty = x.copy()
    dirty[:, 4] = np.nan
    clean, dirty = (forward_backward(call, [data], cotangent, layer.trainable_weights) for data in (x, dirty))
    for before, after in zip([clean[0], *clean[1], *clean[2]], [dirty[0], *dirty[1], *dirty[2]], strict=True):
        np.testing.assert_array_equal(after, before)


def test_a_sliding_window():
    layer, x = make(sliding_window=3), normal(2, 9, 6)
    near = np.abs(np.arange(9) - np.arange(9)[:, None]) < 3
    for options in ({}, {"attention_mask": pairs(2, 9, 9)}):
        output = to_numpy(layer(x, x, use_causal_mask=True, **options))
        mask = near & options.get("attention_mask", True)
        expected, _ = layer_output(layer, x, pair_mask=np.reshape(mask, (-1, 1, 9, 9)), causal=True)
        assert error(output, expected) < 1e-5
    with pytest.raises(ValueError, match=r"`sliding_window` needs `route=.*Received: sliding_window=3, route='banded'"):
        make(sliding_window=3, route="banded")
    with pytest.raises(ValueError, match=r"no sliding window.*Received: .*sliding_window=3"):
        make(sliding_window=3, causal=True).initial_state(1)


@tensorflow_only
def test_masks_whose_sizes_a_graph_does_not_know():
    import tensorflow as tf

    layer, x, mask = make(), normal(2, 9, 6), pairs(2, 9, 9)
    layer(x, x)
    for spec, each in (((None, None, None), mask), ((None, None, None), mask[:, :1]), ((None, None), mask[:, 0])):
        signature = [tf.TensorSpec((None, None, 6)), tf.TensorSpec(spec, tf.bool)]
        graph = tf.function(lambda x, mask: layer(x, x, attention_mask=mask), input_signature=signature)
        assert error(to_numpy(graph(x, each)), to_numpy(layer(x, x, attention_mask=each))) < 1e-5
    # (n, n) for (batch, n): what fails names the mask.
    with pytest.raises(tf.errors.InvalidArgumentError, match="mask"):
        graph(x, mask[0])


# --- What looks like a mask


def test_a_causal_mask_is_no_mask_of_keys():
    layer = make()
    for dtype in ("bool", "int32", "float32"):
        causal = np.tri(6).astype(dtype)
        with pytest.raises(
            ValueError, match=r"(?s)`causal=True`.*`attention_mask\[None\]`.*\(6, 6\), lower triangular"
        ):
            layer(normal(6, 6, 6), normal(6, 6, 6), attention_mask=causal)
    x = normal(6, 6, 6)
    expected = to_numpy(layer(x, x, use_causal_mask=True))
    assert error(to_numpy(layer(x, x, attention_mask=causal[None])), expected) < 1e-5
    # What may be padding is taken: rows of a document each, and queries of another length.
    rows = to_numpy(layer(x, x, attention_mask=causal[:, None]))
    assert error(rows, layer_output(layer, x, key_mask=causal)[0]) < 1e-5
    layer(x, x, attention_mask=causal[::-1])
    layer(x, x, attention_mask=np.ones((6, 6), bool))
    layer(normal(6, 4, 6), x, attention_mask=causal)


def additive(mask):
    return np.where(mask, 0, -1e9).astype("float32")


MASKS = ("query_mask", "value_mask", "key_mask", "attention_mask")
ONES = np.array([[1, 1, 1, 1, 0, 0]] * 2)


@pytest.mark.parametrize("name", MASKS)
def test_an_additive_mask_is_refused(name):
    layer, x = make(), normal(2, 6, 6)
    expected = to_numpy(layer(x, x, **{name: ONES}))
    np.testing.assert_array_equal(to_numpy(layer(x, x, **{name: ONES.astype("float32")})), expected)
    np.testing.assert_array_equal(to_numpy(layer(x, x, **{name: additive(ONES) >= 0})), expected)
    integers = np.where(ONES, 0, -10_000)
    for mask in (additive(ONES), np.where(ONES, 0, -np.inf), np.where(ONES, 1, np.nan), 0.5 * ONES, integers):
        with pytest.raises(
            ValueError, match=rf"(?s)`{name}` must be bool or integer.*Received: {name} of dtype (float32|int)"
        ):
            layer(x, x, **{name: mask})
    # Where the values are not known yet, no floating mask is taken.
    symbol = keras.Input(batch_shape=(2, 6), dtype="float32")
    with pytest.raises(
        ValueError, match=rf"(?s)`{name}` must be bool or integer.*not known.*Received: {name} of dtype"
    ):
        layer(keras.Input(batch_shape=(2, 6, 6)), keras.Input(batch_shape=(2, 6, 6)), **{name: symbol})
    with pytest.raises(
        ValueError, match=rf"(?s)`{name}` must be bool or integer.*not known.*Received: {name} of dtype"
    ):
        in_a_graph(lambda mask: layer(x, x, **{name: mask}), ONES.astype("float32"))


def in_a_graph(function, *arrays):
    """Call the function where the values of its arguments are not known."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)(*(tf.constant(x) for x in arrays))
    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch computes eagerly: values are always known")
    import jax

    return jax.jit(function)(*arrays)


def test_an_additive_mask_of_pairs_is_refused():
    layer, x = make(), normal(2, 6, 6)
    with pytest.raises(ValueError, match=r"(?s)`attention_mask`.*additive.*values from -1000000000.0 to 0.0"):
        layer(x, x, attention_mask=additive(np.broadcast_to(np.tri(6), (2, 6, 6))))


@pytest.mark.parametrize("name", ["mask", "reset"])
def test_a_step_refuses_floating_masks(name):
    layer, x = make(causal=True), normal(2, 6, 6)
    layer(x, x)
    values = {"mask": ONES, "reset": np.array([1, 0])}[name]
    layer.step(x, layer.initial_state(2), **{name: values.astype("float32")})
    with pytest.raises(ValueError, match=rf"`{name}` must be bool or integer.*Received: {name} of dtype float32"):
        layer.step(x, layer.initial_state(2), **{name: additive(values)})


def test_models_refuse_floating_padding_masks():
    encoder = Encoder(10, 1, 2, 8, 8, seed=0)
    ids = np.array([[3, 4, 5, 6, 0, 0]] * 2)
    for model in (encoder, TextClassifier(encoder, 2)):
        expected = to_numpy(model({"token_ids": ids, "padding_mask": ONES}))
        ones = {"token_ids": ids, "padding_mask": ONES.astype("float32")}
        np.testing.assert_array_equal(to_numpy(model(ones)), expected)
        refused = {"token_ids": ids, "padding_mask": additive(ONES)}
        with pytest.raises(
            ValueError, match=r"(?s)`padding_mask` must be bool.*Received: padding_mask of dtype float32"
        ):
            model(refused)
    with pytest.raises(
        ValueError, match=r"(?s)`padding_mask` must be bool.*not known.*Received: padding_mask of dtype"
    ):
        in_a_graph(lambda ids, mask: model({"token_ids": ids, "padding_mask": mask}), *ones.values())


def test_documents_as_many_as_positions_pad_as_they_like():
    """Rows of 1, 2, ... tokens are a lower triangle, and no causal mask."""
    encoder = Encoder(10, 1, 2, 8, 8, seed=0)
    ids, mask = np.full((4, 4), 3), np.tri(4).astype("int32")
    together = to_numpy(encoder({"token_ids": ids, "padding_mask": mask}))
    alone = to_numpy(encoder({"token_ids": ids[:1, :2], "padding_mask": mask[1:2, :2]}))
    assert error(together[1, :2], alone[0]) < 1e-5
