"""What models say of themselves: the arrays they take and give, and how their weights lie on a mesh."""

import re

import keras
import pytest
from test_encoder import batch, make

from krpe_tf.models import (
    Array,
    Encoder,
    Interface,
    MaskedLM,
    TextClassifier,
    TextEmbedder,
    TokenClassifier,
    interface_of,
)

TOKENS = tuple(Array(name, "int32", ("batch", "length")) for name in ("token_ids", "padding_mask"))


def described(model):
    interface = interface_of(model)
    assert interface == getattr(model, "interface", interface)
    assert interface.state == ()
    return interface.inputs, [(each.dtype, each.axes) for each in interface.outputs]


@pytest.mark.parametrize(
    ("model", "axes"),
    [
        (lambda: make(), ("length", 8)),
        (lambda: MaskedLM(make()), ("length", 30)),
        (lambda: TextClassifier(make(), 3), (3,)),
        (lambda: TokenClassifier(make(dtype="mixed_bfloat16"), 3), ("length", 3)),
        (lambda: TextEmbedder(make()), (8,)),
    ],
)
def test_every_model_has_an_interface(model, axes):
    assert described(model()) == (TOKENS, [("float32", ("batch", *axes))])


def test_a_length_that_is_fixed_is_a_size():
    inputs, outputs = described(TokenClassifier(make(length=6), 3))
    assert {each.axes for each in inputs} == {("batch", 6)}
    assert outputs == [("float32", ("batch", 6, 3))]


def test_positions_are_an_axis_of_their_own():
    inputs, outputs = described(MaskedLM(make(), at_positions=True))
    assert inputs == (*TOKENS, Array("mask_positions", "int32", ("batch", "positions")))
    assert outputs == [("float32", ("batch", "positions", 30))]


def test_a_functional_model_of_a_user():
    encoder = make()
    model = keras.Model(encoder.input, keras.layers.Dense(5)(encoder.output))
    assert described(model) == (TOKENS, [("float32", ("batch", "length", 5))])
    image = keras.Input((None, 32, 3), dtype="uint8", name="image")
    parts = keras.layers.Rescaling(1.0)(image)
    model = keras.Model(image, {"small": keras.layers.GlobalAveragePooling2D()(parts), "whole": parts})
    interface = interface_of(model)
    assert interface.inputs == (Array("image", "uint8", ("batch", "length", 32, 3)),)
    assert {each.name: each.axes for each in interface.outputs} == {
        "small": ("batch", 3),
        "whole": ("batch", "length", 32, 3),
    }
    several = keras.Model(image, [keras.layers.GlobalAveragePooling2D()(parts), parts])
    assert [each.name for each in interface_of(several).outputs] == ["output_0", "output_1"]


def test_a_sequential_model_with_an_input():
    model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])
    assert described(model) == ((Array("x", "float32", ("batch", 3)),), [("float32", ("batch", 2))])


def test_an_interface_of_its_own_is_taken():
    class Stateful(keras.Model):
        interface = Interface(TOKENS, (), state=(Array("state", "float32", ("batch", 2, 4)),))

    assert interface_of(Stateful()) is Stateful.interface


@pytest.mark.parametrize("model", [None, keras.layers.Dense(3), keras.Sequential([keras.layers.Dense(3)])])
def test_what_is_not_functional_has_none(model):
    with pytest.raises(ValueError, match=r"`model` must be a functional Keras model\. Received: model="):
        interface_of(model)


def test_shapes_of_an_array():
    array = Array("vectors", "float32", ("batch", "length", 8))
    assert array.shape(batch=2, length=5) == (2, 5, 8)
    assert array.shape(length=5) == (None, 5, 8)
    assert str(array) == "vectors (batch, length, 8)"


def test_outputs_have_the_shapes_that_the_interface_says():
    for model in (make(), TextClassifier(make(), 3), TokenClassifier(make(), 3)):
        (output,) = model.interface.outputs
        assert tuple(model(batch(7)).shape) == output.shape(batch=2, length=7)


def mesh(*axes):
    return keras.distribution.DeviceMesh((1,) * len(axes), axes, ["cpu:0"])


SHARDED = {
    "attention/(query|key|value|gate)/kernel": (None, "model", None),
    "attention/(query|key|value|gate)/bias": ("model", None),
    "attention/attention_output/kernel": ("model", None, None),
    "feed_forward_in/kernel": (None, "model"),
    "feed_forward_in/bias": ("model",),
    "feed_forward_out/kernel": ("model", None),
    "token_embedding/embeddings": (None, "model"),
    "transform/kernel": (None, "model"),
    "transform/bias": ("model",),
}


@pytest.mark.parametrize(
    "make_model",
    [
        make,
        lambda: make(share_position_bias=False, use_gate=True),
        lambda: MaskedLM(make()),
        lambda: TextClassifier(make(), 3),
        lambda: TokenClassifier(make(), 3),
    ],
)
def test_weights_of_heads_and_of_feed_forward_blocks_are_sharded_and_all_others_whole(make_model):
    model = make_model()
    layout = model.get_layout_map(mesh("batch", "model"))
    found = set()
    for weight in model.weights:
        expected = [axes for path, axes in SHARDED.items() if re.search(rf"(^|[_/]){path}$", weight.path)]
        layout_of_weight = layout[weight.path]
        assert (layout_of_weight and tuple(layout_of_weight.axes)) == (expected[0] if expected else None), weight.path
        found.update(path for path in SHARDED if re.search(rf"(^|[_/]){path}$", weight.path))
    head = {"transform/kernel", "transform/bias"}
    assert found == set(SHARDED) - (set() if isinstance(model, MaskedLM) else head)


def test_a_mesh_needs_an_axis_for_the_model():
    for model_class in (Encoder, MaskedLM):
        with pytest.raises(ValueError, match=r"`device_mesh` must have an axis \"model\"\. Received: .*\('batch',\)"):
            model_class.get_layout_map(mesh("batch"))
