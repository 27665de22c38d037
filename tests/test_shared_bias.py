"""A bias that several layers share stays one object on every way through a config, and belongs to one model alone."""

import copy
import json
import threading

import keras
import numpy as np
import pytest

from krpe_tf import DecayBias, KernelizedRPEAttention
from krpe_tf.models import Encoder, TextClassifier

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")


def attention(bias):
    return KernelizedRPEAttention(2, 2, num_features=2, position_bias=bias, seed=0)


def two_layers(bias="decay"):
    """Two layers one after the other; the second gets the bias of the first."""
    x = keras.Input((None, 4))
    first = attention(bias)
    y = first(x, x)
    return keras.Model(x, attention(first.position_bias)(y, y))


def two_towers():
    """Two layers side by side, whose inputs meet behind them."""
    bias, inputs = DecayBias(2), [keras.Input((None, 4)) for _ in range(2)]
    return keras.Model(inputs, keras.layers.Add()([attention(bias)(x, x) for x in inputs]))


def two_encoders():
    bias = DecayBias(2)
    encoders = [Encoder(5, 2, 2, 4, 4, num_features=2, position_bias=bias, dropout=0.0, name=name) for name in "ab"]
    inputs = encoders[0].input
    return keras.Model(inputs, keras.layers.Add()([encoder(inputs) for encoder in encoders]))


MODELS = {
    "two layers": lambda: two_layers(DecayBias(2)),
    "the bias of a layer": two_layers,
    "two towers": two_towers,
    "an encoder": lambda: Encoder(5, 2, 2, 4, 4, num_features=2, dropout=0.0),
    "two encoders": two_encoders,
}


def through_a_file(name):
    def trip(model, folder):
        model.save(folder / name)
        return keras.saving.load_model(folder / name)

    return trip


TRIPS = {
    "clone_model": lambda model, _: keras.models.clone_model(model),
    "recursive clone_model": lambda model, _: keras.models.clone_model(model, recursive=True),
    "from_config": lambda model, _: type(model).from_config(copy.deepcopy(model.get_config())),
    "JSON": lambda model, _: keras.models.model_from_json(model.to_json()),
    ".h5": through_a_file("model.h5"),
    ".keras": through_a_file("model.keras"),
}


def biases(model):
    """All bias layers in a model, each once."""
    layers = {id(each): each for each in model._flatten_layers() if isinstance(each, DecayBias)}
    return set(layers)


@pytest.mark.parametrize(
    ("name", "trip"),
    [(name, trip) for name in MODELS for trip in TRIPS if name in ("two layers", "an encoder") or "." not in trip],
)
def test_a_shared_bias_stays_shared(tmp_path, name, trip):
    model = MODELS[name]()
    model.set_weights([np.random.default_rng(0).standard_normal(weight.shape) for weight in model.weights])
    once = TRIPS[trip](model, tmp_path)
    again, twice = TRIPS[trip](model, tmp_path), TRIPS[trip](once, tmp_path)
    models = [model, once, again, twice]
    for each in models:
        assert len(biases(each)) == 1
        assert len(each.weights) == len(model.weights)
        each.set_weights(model.get_weights())
    assert len(set.union(*map(biases, models))) == len(models)  # none is shared with another model


def test_the_config_of_a_model_is_text_and_the_same_each_time():
    model = two_layers()
    assert model.to_json() == model.to_json()
    config = json.loads(json.dumps(model.get_config()))
    first, second = (keras.Model.from_config(copy.deepcopy(config)) for _ in range(2))
    assert len(biases(first) | biases(second)) == 2


def test_a_layer_made_from_its_config_alone_has_its_own_bias():
    layers = [layer for layer in two_layers().layers if isinstance(layer, KernelizedRPEAttention)]
    alone = [KernelizedRPEAttention.from_config(layer.get_config()) for layer in layers]
    assert alone[0].position_bias is not alone[1].position_bias


def test_a_part_that_was_cloned_before_keeps_its_bias_to_itself():
    model = two_layers()
    part = keras.Model(model.layers[1].output, model.output)
    of_part, of_whole = keras.models.clone_model(part), keras.models.clone_model(model)
    assert len(biases(of_whole)) == 1
    assert not biases(of_part) & biases(of_whole)


def test_copies_of_one_layer_have_a_bias_each():
    model = two_layers()

    def renamed(layer):
        made = [type(layer).from_config({**layer.get_config(), "name": f"{layer.name}_{k}"}) for k in range(2)]
        assert made[0].position_bias is not made[1].position_bias
        return made[1]

    keras.models.clone_model(model, clone_function=renamed)


def test_threads_clone_one_model_at_a_time():
    model, clones = two_layers(), []

    def work():
        clones.extend(keras.models.clone_model(model) for _ in range(2))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(biases(clone)) for clone in clones] == [1] * 6
    assert len(set.union(*map(biases, clones))) == 6


def test_a_config_without_numbers_loads():
    """As krpe_tf 0.1 wrote it."""
    layer = two_layers(DecayBias(2, radius=3)).layers[1]
    config = layer.get_config()
    del config["position_bias"]["shared_object_id"], config["position_bias"]["owner_id"]
    assert KernelizedRPEAttention.from_config(config).position_bias.radius == 3


def fit_under_a_strategy(make_outside, make_model):
    """A step of what is made of `make_outside()` in the scope of a `MirroredStrategy`; how far its bias moved."""
    import tensorflow as tf

    made = make_outside()
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = make_model(made)
        model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    bias = next(each for each in model._flatten_layers() if isinstance(each, DecayBias))
    before = keras.ops.convert_to_numpy(bias.near)
    np.testing.assert_array_equal(before, keras.ops.convert_to_numpy(DecayBias(2).near))
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")
    model.fit(x, x, verbose=0)
    return np.abs(keras.ops.convert_to_numpy(bias.near) - before).max()


def over_inputs(layer):
    x = keras.Input((None, 4))
    return keras.Model(x, layer(x, x))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute")
class TestMadeOutsideOfAStrategysScope:
    def test_a_bias_or_a_layer_that_is_not_built_trains(self):
        assert fit_under_a_strategy(lambda: DecayBias(2), lambda bias: over_inputs(attention(bias))) > 0
        assert fit_under_a_strategy(lambda: attention("decay"), over_inputs) > 0

    def test_a_layer_that_is_built_is_refused_in_words(self):
        def built():
            layer = KernelizedRPEAttention(2, 2, name="outside")
            layer.build((None, None, 4), (None, None, 4))
            return layer

        with pytest.raises(ValueError, match=r"inside `with strategy\.scope\(\):`.*Received: layer 'outside'"):
            fit_under_a_strategy(built, over_inputs)

    @pytest.mark.parametrize("of_whom", [lambda encoder: encoder, lambda encoder: TextClassifier(encoder, 2)])
    def test_an_encoder_is_refused_when_it_is_compiled(self, of_whom):
        with pytest.raises(ValueError, match=r"inside `with strategy\.scope\(\):`.*MirroredStrategy"):
            fit_under_a_strategy(lambda: Encoder(5, 1, 2, 4, 4), of_whom)
