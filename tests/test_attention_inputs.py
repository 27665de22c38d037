"""The layer's masks, what it saves and loads, and what it refuses."""

import keras
import numpy as np
import pytest
from definition import error, forward_backward, layer_output, randomize, to_numpy

from krpe_tf import BucketedBias, DecayBias, KernelizedRPEAttention, LearnedBias

ROUTES = ("dense", "fft", "banded")


def make(**arguments):
    return KernelizedRPEAttention(**{"num_heads": 2, "key_dim": 4, "seed": 1, **arguments})


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


# --- Masks


def test_masks_come_from_the_embedding():
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(20, 6, mask_zero=True)(inputs)
    layer = make()
    output = layer(x, x)
    model = keras.Model(inputs, [x, output, keras.layers.GlobalAveragePooling1D()(output)])
    ids = np.array([[3, 4, 5, 6, 0, 0], [7, 8, 9, 1, 2, 3]])
    embedded, output, pooled = (to_numpy(y) for y in model(ids))
    expected, _ = layer_output(layer, embedded, key_mask=ids != 0)
    assert error(output[ids != 0], expected[ids != 0]) < 1e-5
    assert error(pooled[0], expected[0, :4].mean(0)) < 1e-5  # the mask goes on to what follows


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["attention_mask", "broadcast attention_mask", "value_mask", "key_mask", "integers"])
def test_every_mask_over_keys_hides_them(kind, route):
    layer = make(route=route)
    query, value = normal(2, 9, 6), normal(2, 11, 6, seed=1)
    mask = np.arange(11)[None] < np.array([[11], [7]])
    options = {
        "attention_mask": {"attention_mask": mask},
        "broadcast attention_mask": {"attention_mask": mask[:, None]},
        "value_mask": {"value_mask": mask},
        "key_mask": {"key_mask": mask},
        "integers": {"attention_mask": mask.astype("int32")},
    }
    output = to_numpy(layer(query, value, **options[kind]))
    assert error(output, layer_output(layer, query, value, key_mask=mask)[0]) < 1e-5


def test_masks_over_keys_combine():
    layer, x = make(), normal(1, 6, 6)
    masks = {name: np.arange(6)[None] != i for i, name in enumerate(("value_mask", "key_mask", "attention_mask"))}
    output = to_numpy(layer(x, x, **masks))
    assert error(output, layer_output(layer, x, key_mask=np.arange(6)[None] >= 3)[0]) < 1e-5


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("route", [*ROUTES, "softmax"])
def test_rubbish_in_padding_changes_nothing(route, rubbish):
    layer = make(feature_map="softmax") if route == "softmax" else make(route=route)
    x = normal(2, 9, 6)
    layer(x, x)
    mask = np.arange(9)[None] < np.array([[9], [6]])
    dirty = np.where(mask[..., None], x, np.float32(rubbish))
    cotangent = np.broadcast_to(mask[..., None], x.shape).astype("float32")

    def call(x):
        output = layer(x, x, query_mask=mask, value_mask=mask)
        return keras.ops.where(mask[..., None], output, 0)

    (clean, clean_gradients, clean_weights), (output, gradients, weights) = (
        forward_backward(call, [data], cotangent, layer.trainable_weights) for data in (x, dirty)
    )
    np.testing.assert_array_equal(output, clean)
    for before, after in zip([*clean_gradients, *clean_weights], [*gradients, *weights], strict=True):
        assert np.isfinite(after).all()
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("route", [*ROUTES, "softmax"])
def test_padding_and_slicing_agree(route):
    layer = make(feature_map="softmax") if route == "softmax" else make(route=route)
    x = normal(2, 20, 6)
    mask = np.broadcast_to(np.arange(20) < 13, (2, 20))
    padded = to_numpy(layer(x, x, attention_mask=mask))[:, :13]
    assert error(padded, to_numpy(layer(x[:, :13], x[:, :13]))) < (1e-4 if route == "fft" else 1e-5)


@pytest.mark.parametrize("feature_map", ["orthogonal", "softmax"])
def test_a_query_that_sees_no_key_attends_to_zeros(feature_map):
    layer, x = make(feature_map=feature_map), normal(2, 5, 6)
    layer(x, x)
    layer.output_dense.bias.assign(np.arange(6, dtype="float32"))
    mask = np.array([[True] * 5, [False] * 5])
    output, gradients, weights = forward_backward(
        lambda x: layer(x, x, attention_mask=mask), [x], None, layer.trainable_weights
    )
    np.testing.assert_array_equal(output[1], np.broadcast_to(np.arange(6, dtype="float32"), (5, 6)))
    assert all(np.isfinite(gradient).all() for gradient in [*gradients, *weights])


@pytest.mark.parametrize("feature_map", ["orthogonal", "softmax"])
def test_causal_layers_see_nothing_of_the_future(feature_map):
    x, changed = normal(1, 40, 6), normal(1, 40, 6)
    changed[:, 20:] += 3
    for options in ({"causal": True}, {"causal": True, "route": "banded"}):
        if feature_map == "softmax":
            options.pop("route", None)
        layer = make(feature_map=feature_map, **options)
        before, after = (to_numpy(layer(data, data)) for data in (x, changed))
        np.testing.assert_array_equal(before[:, :20], after[:, :20])
        assert (before[:, 20:] != after[:, 20:]).any()


# --- Saving and loading


def shared_model(bias):
    x = keras.Input((None, 6))
    y = make(position_bias=bias, name="first")(x, x)
    y = make(position_bias=bias, name="second", feature_map="elu")(y, y)
    return keras.Model(x, y)


@pytest.mark.parametrize("bias", [DecayBias(2), LearnedBias(2, 5), BucketedBias(2)], ids=lambda bias: bias.name)
def test_a_shared_bias_stays_one_object_through_a_keras_file(bias, tmp_path):
    model, x = shared_model(randomize(bias)), normal(2, 30, 6)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    first, second = (again.get_layer(name) for name in ("first", "second"))
    assert first.position_bias is second.position_bias
    assert len(again.trainable_weights) == len(model.trainable_weights) == 16 + len(bias.weights)
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
    np.testing.assert_array_equal(to_numpy(model(x)), to_numpy(again(x)))
    # And once more, from what was loaded.
    again.save(tmp_path / "again.keras")
    third = keras.saving.load_model(tmp_path / "again.keras")
    assert third.get_layer("first").position_bias is third.get_layer("second").position_bias
    np.testing.assert_array_equal(to_numpy(model(x)), to_numpy(third(x)))


def test_biases_of_their_own_stay_apart(tmp_path):
    x = keras.Input((None, 6))
    model = keras.Model(x, make(name="second")(make(name="first")(x, x), x))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_layer("first").position_bias is not again.get_layer("second").position_bias


def test_weights_alone_save_and_load(tmp_path):
    first, second, x = shared_model(randomize(DecayBias(2))), shared_model(DecayBias(2)), normal(2, 30, 6)
    first.save_weights(tmp_path / "model.weights.h5")
    second.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(to_numpy(first(x)), to_numpy(second(x)))


def broken_weight(layer, kind):
    return {
        "kernel": layer.query_dense.kernel,
        "bias": layer.output_dense.bias,
        "position bias": layer.position_bias.near,
        "projection": layer.projection,
    }[kind]


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")  # Keras goes on after a failure
@pytest.mark.parametrize("kind", ["kernel", "bias", "position bias", "projection"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, kind, value):
    x = keras.Input((None, 6))
    layer = make()
    model = keras.Model(x, layer(x, x))
    weight = broken_weight(layer, kind)
    broken = to_numpy(weight).copy()
    broken[(0,) * broken.ndim] = value
    weight.assign(broken)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=r"(?s)finite.*Received: "):
        keras.saving.load_model(tmp_path / "model.keras")
    fresh = keras.models.clone_model(model)
    with pytest.raises(ValueError, match=r"(?s)finite.*Received: "):
        fresh.load_weights(tmp_path / "model.weights.h5")


# --- Bad input

BAD_ARGUMENTS = {
    "num_heads": [0, -1, 1.5, None, True],
    "key_dim": [0, "wide"],
    "value_dim": [0, 2.0],
    "num_features": [0, -4, None],
    "output_shape": [0, (), (3, 0), 8.0, "wide", True],
    "feature_map": ["relu", None, 3],
    "position_bias": ["t5", 3, DecayBias(3)],
    "route": ["fastest", None],
    "sliding_window": [0, -3, 2.5],
    "dropout": [-0.1, 1, 1.5],
}


@pytest.mark.parametrize(("argument", "value"), [(name, x) for name, values in BAD_ARGUMENTS.items() for x in values])
def test_bad_arguments_raise(argument, value):
    with pytest.raises(ValueError, match=rf"`{argument}`.*Received: {argument}"):
        make(**{argument: value})


@pytest.mark.parametrize("route", ["fft", "banded"])
def test_softmax_has_no_linear_route(route):
    with pytest.raises(ValueError, match=r"`feature_map=.softmax.`.*Received: route="):
        make(feature_map="softmax", route=route)


def test_taylor_needs_vectors_of_norm_1():
    with pytest.raises(ValueError, match=r"`normalize`.*Received: normalize=False"):
        make(feature_map="taylor", normalize=False)


@pytest.mark.parametrize("route", ["fft", "banded"])
def test_linear_routes_have_no_scores(route):
    layer = make(route=route)
    for x in (normal(2, 5, 6), keras.Input((5, 6))):
        with pytest.raises(ValueError, match=r"`return_attention_scores`.*Received: route="):
            layer(x, x, return_attention_scores=True)


def inputs(**changes):
    return {"query": normal(2, 5, 6), "value": normal(2, 7, 6), **changes}


BAD_CALLS = {
    "query of rank 2": ({"query": normal(5, 6)}, "query"),
    "value of rank 4": ({"value": normal(2, 7, 1, 6)}, "value"),
    "key of rank 2": ({"key": normal(7, 6)}, "key"),
    "lengths of key and value": ({"key": normal(2, 8, 6)}, "key"),
    "query_mask of another length": ({"query_mask": np.ones((2, 6), bool)}, "query_mask"),
    "value_mask of another length": ({"value_mask": np.ones((2, 6), bool)}, "value_mask"),
    "key_mask of another batch": ({"key_mask": np.ones((3, 7), bool)}, "key_mask"),
    "batches of query and value": ({"query": normal(3, 5, 6)}, "query"),
    "batches of key and value": ({"key": normal(3, 7, 6)}, "key"),
    "full mask of another length": ({"attention_mask": np.ones((2, 7, 5), bool)}, "attention_mask"),
    "full mask of three heads": ({"attention_mask": np.ones((2, 3, 5, 7), bool)}, "attention_mask"),
    "full mask of three documents": ({"attention_mask": np.ones((3, 1, 5, 7), bool)}, "attention_mask"),
    "full mask without a batch": ({"attention_mask": np.ones((5, 7), bool)}, "attention_mask"),
    "mask of another length": ({"attention_mask": np.ones((2, 6), bool)}, "attention_mask"),
    "mask of rank 1": ({"attention_mask": np.ones(7, bool)}, "attention_mask"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_raise(case):
    change, argument = BAD_CALLS[case]
    layer = make()
    layer.build((None, None, 6), (None, None, 6))
    with pytest.raises(ValueError, match=rf"(?s)`{argument}`.*Received: "):
        layer(**inputs(**change))


@pytest.mark.parametrize(
    "case", ["query of rank 2", "lengths of key and value", "full mask of another length", "mask of rank 1"]
)
def test_bad_symbolic_calls_raise(case):
    change, argument = BAD_CALLS[case]
    change = {name: keras.Input(batch_shape=x.shape, dtype=x.dtype) for name, x in inputs(**change).items()}
    with pytest.raises(ValueError, match=rf"(?s)`{argument}`.*Received: "):
        make()(**change)


@pytest.mark.parametrize("width", [4, 5, 12])
@pytest.mark.parametrize("argument", ["query", "value", "key"])
def test_a_width_other_than_the_built_one_raises(argument, width):
    layer = make()
    layer(normal(2, 5, 6), normal(2, 7, 6), normal(2, 7, 6))
    good = {"query": normal(2, 5, 6), "value": normal(2, 7, 6), "key": normal(2, 7, 6)}
    # Twice the width must not be folded into the length.
    with pytest.raises(ValueError, match=rf"(?s)`{argument}`.*Received: "):
        layer(**{**good, argument: normal(*good[argument].shape[:2], width)})


def test_the_refusal_of_a_full_mask_says_what_is_supported():
    x = normal(2, 5, 6)
    supported = r"\(batch, n_k\).*`route=.dense.`.*`causal=True`.*`segment_ids`"
    with pytest.raises(
        ValueError, match=rf"(?s)`attention_mask`.*{supported}.*Received: attention_mask.shape=\(2, 5, 5\)"
    ):
        make(route="banded")(x, x, attention_mask=np.ones((2, 5, 5), bool))


@pytest.mark.parametrize("feature_map", ["orthogonal", "softmax"])
def test_an_empty_sequence_gives_an_empty_output(feature_map):
    layer = make(feature_map=feature_map)
    assert tuple(layer(normal(2, 0, 6), normal(2, 0, 6)).shape) == (2, 0, 6)


@pytest.mark.parametrize("route", ROUTES)
def test_an_empty_batch_gives_an_empty_output(route):
    layer = make(route=route)
    layer(normal(2, 5, 6), normal(2, 5, 6))
    assert tuple(layer(normal(0, 5, 6), normal(0, 5, 6)).shape) == (0, 5, 6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="lengths unknown at trace time")
def test_the_default_layer_takes_an_empty_sequence_of_unknown_length():
    import tensorflow as tf

    layer, x = make(), normal(2, 9, 6)
    layer(x, x)
    graph = tf.function(lambda x: layer(x, x), input_signature=[tf.TensorSpec((None, None, 6))])
    assert graph(x[:, :0]).shape == (2, 0, 6)
    assert error(to_numpy(graph(x)), to_numpy(layer(x, x))) < 1e-5


def test_an_unknown_width_raises():
    for shapes in ([(1, 3, None), (1, 3, 6)], [(1, 3, 6), (1, 3, None)], [(1, 6), (1, 3, 6)]):
        with pytest.raises(ValueError, match=r"`(query|value)`.*Received: (query|value).shape="):
            make().build(*shapes)
