"""Classification: the mean over what the mask shows, files, any length, and that it learns."""

import keras
import numpy as np
import pytest
from calls import call
from definition import error, float64, to_numpy
from test_encoder import batch, make

from krpe_tf import LearnedBias
from krpe_tf.models import TextClassifier


def run(model, inputs):
    return to_numpy(call(model, inputs))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_logits_are_of_the_mean_over_unmasked_positions(policy):
    encoder = make(dtype=policy)
    model = TextClassifier(encoder, 3)
    inputs = batch(9)
    inputs["padding_mask"] = np.array([[1] * 9, [1, 0, 1, 1, 0, 0, 0, 0, 0]], "int32")
    vectors = to_numpy(keras.ops.cast(call(encoder, inputs), "float32")).astype("float64")
    mean = np.stack([vectors[0].mean(0), vectors[1, [0, 2, 3]].mean(0)])
    dense = model.get_layer("logits")
    output = run(model, inputs)
    assert output.dtype == np.float32
    assert error(output, mean @ float64(dense.kernel) + float64(dense.bias)) < 1e-5
    # Not compiled: as another program, the same numbers may be rounded otherwise.
    as_bool = {**inputs, "padding_mask": inputs["padding_mask"].astype(bool)}
    np.testing.assert_array_equal(to_numpy(model(as_bool)), to_numpy(model(inputs)))


def test_a_document_of_padding_alone_has_mean_zero():
    model = TextClassifier(make(), 3)
    model.get_layer("logits").bias.assign([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(run(model, batch(6, padded=6)), [[1, 2, 3]] * 2)


def test_the_first_vector_may_be_classified():
    encoder = make()
    model, inputs = TextClassifier(encoder, 3, pooling="first"), batch(9, padded=2)
    dense = model.get_layer("logits")
    first = float64(call(encoder, inputs))[:, 0]
    assert error(run(model, inputs), first @ float64(dense.kernel) + float64(dense.bias)) < 1e-5
    assert TextClassifier.from_config(model.get_config()).pooling == "first"
    with pytest.raises(ValueError, match=r"`pooling` must be one of 'mean', 'first'. Received: pooling='last'"):
        TextClassifier(encoder, 3, pooling="last")


def test_padding_and_batching_change_nothing():
    model = TextClassifier(make(), 2)
    inputs = batch(30, padded=11)
    whole = run(model, inputs)
    assert error(run(model, {name: x[:, :19] for name, x in inputs.items()}), whole) < 1e-5
    assert error(run(model, {name: x[:1] for name, x in inputs.items()}), whole[:1], np.abs(whole).max()) < 1e-5


def test_any_length_runs():
    model = TextClassifier(make(), 4)
    for n in (1, 16, 40, 200):
        assert tuple(call(model, batch(n)).shape) == (2, 4)


@pytest.mark.parametrize(
    "arguments", [{}, {"share_position_bias": False}, {"position_bias": LearnedBias(2, 4)}, {"dtype": "mixed_float16"}]
)
def test_keras_file_round_trip(tmp_path, arguments):
    model = TextClassifier(make(**arguments), 3, dropout=0.2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is TextClassifier
    assert (again.num_classes, again.dropout) == (3, 0.2)
    np.testing.assert_array_equal(run(again, batch(9, padded=2)), run(model, batch(9, padded=2)))


def test_config_round_trip():
    model = TextClassifier(make(), 3, name="classifier")
    again = TextClassifier.from_config(model.get_config())
    assert again.name == "classifier"
    assert [(w.path, w.shape) for w in again.weights] == [(w.path, w.shape) for w in model.weights]


@pytest.mark.slow
def test_it_learns_to_tell_an_order():
    # The same tokens rising or falling: without positions, the two classes are the same bag of words.
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 256)
    ids = np.sort(rng.integers(1, 30, (256, 12)), axis=1)
    ids = np.where(labels[:, None] == 1, ids, ids[:, ::-1]).astype("int32")
    mask = (np.arange(12) < rng.integers(8, 13, (256, 1))).astype("int32")
    model = TextClassifier(make(hidden_dim=16, dropout=0.0), 2)
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    inputs = {"token_ids": ids * mask, "padding_mask": mask}
    history = model.fit(inputs, labels, epochs=20, batch_size=32, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    assert history["loss"][-1] < history["loss"][0] / 2


@pytest.mark.parametrize("num_classes", [0, 1, 2.5, None])
def test_bad_num_classes_raises(num_classes):
    with pytest.raises(ValueError, match=r"num_classes.*Received: num_classes="):
        TextClassifier(make(), num_classes)


@pytest.mark.parametrize("dropout", [-0.1, 1.5])
def test_bad_dropout_raises(dropout):
    with pytest.raises(ValueError, match=r"dropout.*Received: dropout="):
        TextClassifier(make(), 2, dropout=dropout)


@pytest.mark.parametrize("encoder", [None, "tiny", keras.layers.Dense(3)])
def test_bad_encoder_raises(encoder):
    with pytest.raises(ValueError, match=r"encoder.*Received: encoder="):
        TextClassifier(encoder, 2)


def test_a_model_in_half_precision_has_one_in_float32_with_its_weights():
    half = TextClassifier(make(dtype="mixed_bfloat16", position_bias=LearnedBias(2, 8)), 3, dropout=0.4)
    model = half.in_float32()
    assert {layer.compute_dtype for layer in model.encoder.layers} == {"float32"}
    assert model.get_layer("classifier_dropout").rate == 0.4
    for ours, theirs in zip(model.weights, half.weights, strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
    difference = np.abs(run(model, batch(9)) - run(half, batch(9))).max()
    assert 0 < difference < 2.0**-5
    assert model.in_float32() is model


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_an_h5_file_loads_by_its_registered_name(tmp_path):
    model = TextClassifier(make(), 3)
    model.save(tmp_path / "model.h5")
    again = keras.saving.load_model(tmp_path / "model.h5", compile=False)
    assert type(again) is TextClassifier
    np.testing.assert_array_equal(run(again, batch(9)), run(model, batch(9)))


def test_quantize_names_the_way():
    with pytest.raises(ValueError, match=r'export_tflite.*quantization="int8".*Received: mode=\'int8\''):
        TextClassifier(make(), 3).quantize("int8")


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch refuses such ids by itself")
@pytest.mark.parametrize("wrong", [-1, 30])
def test_ids_outside_of_the_vocabulary_are_refused_where_they_are_known(wrong):
    model, inputs = TextClassifier(make(), 3), batch(9)
    inputs["token_ids"][1, 4] = wrong
    on_device = {name: keras.ops.convert_to_tensor(each) for name, each in inputs.items()}
    uses = (lambda: model(inputs), lambda: model(on_device), lambda: model.predict(inputs, verbose=0))
    for use in (*uses, lambda: model.encoder(inputs), lambda: model.evaluate(inputs, verbose=0)):
        with pytest.raises(ValueError, match=r"`token_ids`.*from 0 to 29.*Received: ids from"):
            use()
