import dataclasses
import json
import logging
from functools import partial

import keras
import numpy as np
import pytest
from export_models import (
    export_tflite,
    make_classifier,
    make_encoder,
    make_ids,
    make_tokenizer,
    relative_error,
    run_python,
)

from krpe_tf import BucketedBias, DecayBias, models
from krpe_tf.export import LiteRTModel

LENGTHS = (16, 40)

# LiteRT alone: neither TensorFlow nor Keras nor krpe_tf can be imported.
PLAIN = """
import json, sys
sys.modules.update(dict.fromkeys(["tensorflow", "tensorflow_text", "keras", "krpe_tf"]))
import numpy as np
from ai_edge_litert.interpreter import Interpreter
path, signature, inputs = sys.argv[1:]
inputs = {k: np.array(v, np.int32) for k, v in json.loads(inputs).items()}
print(json.dumps(Interpreter(model_path=path).get_signature_runner(signature)(**inputs)["output"].tolist()))
"""


class Op(keras.layers.Layer):
    """Puts one function into a model."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


def with_op(function):
    encoder = make_encoder(num_layers=1)
    return keras.Model(encoder.inputs, Op(function)(encoder.output))


class Stateful(keras.Model):
    """A model that says that it carries an array from call to call."""

    interface = models.Interface(
        tuple(models.Array(name, "int32", ("batch", "length")) for name in ("token_ids", "padding_mask")),
        (models.Array("scores", "float32", ("batch", 2)),),
        state=(models.Array("cache", "float32", ("batch", 2)),),
    )


def of_two_lengths():
    """A model of token ids of any length and masks of 12 tokens."""
    lengths = {"token_ids": None, "padding_mask": 12}
    inputs = {name: keras.Input((length,), name=name) for name, length in lengths.items()}
    return keras.Model(inputs, keras.layers.Dense(2)(inputs["padding_mask"]))


@pytest.fixture(scope="module")
def classifier(shared):
    return shared.classifier


@pytest.fixture(scope="module")
def ids_file(shared):
    return shared.ids


@pytest.fixture(scope="module")
def text_file(shared):
    return shared.text


def test_file_runs_alone_and_agrees(classifier, ids_file):
    path, report = ids_file
    for length in LENGTHS:
        inputs = make_ids(1, length, [length - 5])
        expected = classifier({name: value[:, : length - 5] for name, value in inputs.items()})
        sent = json.dumps({name: value.tolist() for name, value in inputs.items()})
        assert relative_error(np.array(run_python(PLAIN, str(path), f"ids_{length}", sent)), expected) < 1e-5
    assert sorted(report.max_error) == ["ids_16", "ids_40"]
    assert max(report.max_error.values()) < 1e-5


def test_report_describes_the_file(ids_file):
    path, report = ids_file
    assert report.bytes == path.stat().st_size
    assert report.signatures == ["ids_16", "ids_40"]
    assert report.ops["FULLY_CONNECTED"] > 2
    assert report.custom_ops == {}
    assert report.highest_rank <= 4
    assert json.loads(json.dumps(dataclasses.asdict(report)))["lengths"] == [16, 40]


def test_weights_and_what_follows_from_them_are_constants(ids_file):
    _, report = ids_file
    assert not {"VAR_HANDLE", "READ_VARIABLE"} & set(report.ops)
    assert "FULLY_CONNECTED" not in report.recomputed


@pytest.mark.parametrize("make_bias", [DecayBias, BucketedBias, partial(DecayBias, num_terms=8)])
def test_what_follows_from_a_bias_is_constant(tmp_path, make_bias):
    """Copies of it for every feature or row are made at each call: as constants they would be large."""
    encoder = make_encoder(num_layers=1, num_heads=8, hidden_dim=64, position_bias=make_bias(8), route="banded")
    report = export_tflite(models.TextEmbedder(encoder), tmp_path / "model.tflite", (2048,))
    assert set(report.recomputed) <= {"MUL", "RESHAPE", "SLICE", "SPLIT", "STRIDED_SLICE", "TILE"}
    assert sum(report.recomputed.values()) <= 16


def test_recomputed_ops_are_reported(tmp_path):
    table = keras.random.normal((4, 1), seed=1)
    folded = export_tflite(with_op(lambda x: x + keras.ops.sum(keras.ops.exp(table))), tmp_path / "a", (8,))
    # The converter folds what stays small.
    left = export_tflite(with_op(lambda x: x + keras.ops.sum(keras.ops.tile(table, (8, 4096)))), tmp_path / "b", (8,))
    assert left.recomputed.get("TILE", 0) == folded.recomputed.get("TILE", 0) + 1


def test_pooled_embeddings(tmp_path):
    model = models.TextEmbedder(make_encoder(num_layers=1))
    export_tflite(model, tmp_path / "model.tflite", (24,))
    inputs = make_ids(3, 11, [11, 4, 7])
    assert relative_error(LiteRTModel(tmp_path / "model.tflite")(inputs), model(inputs)) < 1e-5


def test_a_masked_lm_at_positions_is_exported_as_the_full_one(tmp_path):
    model = models.MaskedLM(make_encoder(num_layers=1), at_positions=True)
    with pytest.raises(ValueError, match=r"at_positions=True is for training.*set_weights.*Received:"):
        export_tflite(model, tmp_path / "model.tflite", (8,))
    full = models.MaskedLM(model.encoder)
    full.set_weights(model.get_weights())
    export_tflite(full, tmp_path / "model.tflite", (8,))
    inputs, positions = make_ids(1, 8, [8]), np.array([[1, 5]])
    expected = model({**inputs, "mask_positions": positions})
    assert relative_error(LiteRTModel(tmp_path / "model.tflite")(inputs)[:, positions[0]], expected) < 1e-5


@pytest.mark.parametrize("head", [lambda x: x, models.MaskedLM, partial(models.TokenClassifier, num_classes=5)])
def test_outputs_with_a_length_axis(tmp_path, head):
    model = head(make_encoder(num_layers=1))
    path = tmp_path / "model.tflite"
    export_tflite(model, path, (8, 24))
    inputs = make_ids(3, 11, [11, 4, 7])
    result = LiteRTModel(path, num_threads=2)(inputs)
    valid = inputs["padding_mask"].astype(bool)
    assert result.shape[:2] == (3, 11)
    assert relative_error(result[valid], np.asarray(model(inputs))[valid]) < 1e-5
    assert not result[~valid].any()


@pytest.mark.parametrize("width", [1, 16, 17, 40])
def test_model_takes_any_batch_and_length(classifier, ids_file, width):
    inputs = make_ids(3, width, [width, max(1, width // 2), 1])
    assert relative_error(LiteRTModel(ids_file[0])(inputs), classifier(inputs)) < 1e-5


def test_model_counts_tokens_not_padding(classifier, ids_file):
    inputs = make_ids(2, 100, [40, 3])
    assert relative_error(LiteRTModel(ids_file[0])(inputs), classifier(inputs)) < 1e-5


def test_model_takes_masks_with_holes_and_empty_rows(classifier, ids_file):
    inputs = make_ids(2, 12, [12, 0])
    inputs["padding_mask"][0, [0, 5]] = 0
    assert relative_error(LiteRTModel(ids_file[0])(inputs), classifier(inputs)) < 1e-5


def test_model_refuses_bad_inputs(ids_file, tmp_path):
    model = LiteRTModel(ids_file[0])
    good = make_ids(1, 8, [8])
    with pytest.raises(ValueError, match=r"at most 40 tokens.*Received: token_ids\[0\] with 41 tokens"):
        model(make_ids(1, 41, [41]))
    with pytest.raises(ValueError, match="must hold token_ids and padding_mask"):
        model({"token_ids": good["token_ids"]})
    with pytest.raises(ValueError, match="one shape"):
        model({**good, "padding_mask": good["padding_mask"][:, :4]})
    with pytest.raises(ValueError, match="must be integers"):
        model({**good, "token_ids": good["token_ids"] + 0.5})
    with pytest.raises(ValueError, match="without a tokenizer"):
        model(["text"])
    with pytest.raises(ValueError, match="`num_threads`"):
        LiteRTModel(ids_file[0], num_threads=0)
    (tmp_path / "other").write_bytes(b"no model at all")
    for path in (tmp_path / "other", tmp_path / "missing"):
        with pytest.raises(ValueError, match=r"`path` must be a \.tflite file"):
            LiteRTModel(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": ()}, "`lengths`"),
        ({"lengths": (0,)}, "`lengths`"),
        ({"lengths": (8, -1)}, "`lengths`"),
        ({"lengths": (8.0,)}, "`lengths`"),
        ({"lengths": (True,)}, "`lengths`"),
        ({"lengths": (8, 8)}, "distinct.*Received: lengths="),
        ({"lengths": 8}, "`lengths`"),
        ({"lengths": "8"}, "`lengths`"),
        ({"lengths": (8, None, None)}, "`lengths`"),
        ({"quantization": "int4"}, "`quantization` must be None, 'float16', 'int8' or 'int8_static'.*'int4'"),
        ({"quantization": "full_int8"}, "cannot be 'full_int8': the denominators.*aborts when it runs.*'int8_static'"),
        ({"tolerance": 0}, "`tolerance`"),
        ({"tokenizer": "tokenizer"}, "`tokenizer`"),
        ({"sample_texts": ["text"]}, "`sample_texts` needs a tokenizer"),
        ({"model": "model"}, "`model` must be a Keras model"),
        ({"model": keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])}, "inputs token_ids and padding_mask"),
        ({"model": Stateful()}, r"must carry no state.*Received: a model with state cache \(batch, 2\)"),
        (
            {"model": of_two_lengths()},
            r"both \(batch, length\)\. Received: inputs token_ids \(batch, length\), padding_mask \(batch, 12\)",
        ),
    ],
)
def test_bad_arguments(classifier, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_tflite(**{"model": classifier, "path": tmp_path / "model.tflite", "lengths": (8,), **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_with_more_tokens_than_the_model_embeds_raises(tmp_path):
    model = models.TextClassifier(models.Encoder(9, 1, 2, 8, 8), num_classes=2)
    with pytest.raises(ValueError, match=r"at most the 9 tokens.*Received: tokenizer with"):
        export_tflite(model, tmp_path / "model.tflite", (8,), tokenizer=make_tokenizer())


def test_ids_outside_the_vocabulary_raise(ids_file):
    with pytest.raises(ValueError, match=r"vocabulary.*Received: token_ids from 99999 to 99999"):
        LiteRTModel(ids_file[0])({"token_ids": np.full((1, 4), 99999), "padding_mask": np.ones((1, 4), int)})
    with pytest.raises(ValueError, match=r"token_ids.*padding_mask.*Received: an array"):
        LiteRTModel(ids_file[0])(np.ones((1, 4), int))


def test_unwritable_path(classifier, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "model.tflite", tmp_path / "file" / "model.tflite", "/proc/model.tflite", ""):
        with pytest.raises(ValueError, match=r"`path` must be .*Received: path="):
            export_tflite(classifier, path, (8,))


def test_existing_file_is_kept_unless_replaced(classifier, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_text("old")
    with pytest.raises(ValueError, match="overwrite=True"):
        export_tflite(classifier, path, (8,))
    with pytest.raises(ValueError, match=r"max error over max\|output\|: ids_8 .*Received: tolerance=1e-30"):
        export_tflite(classifier, path, (8,), tolerance=1e-30, overwrite=True)
    assert path.read_text() == "old"
    export_tflite(classifier, path, (8,), overwrite=True)
    assert LiteRTModel(path).lengths == [8]
    assert {each.name for each in tmp_path.iterdir()} == {"model.tflite", "model.report.json", "model.report.md"}


def test_one_length_model_takes_that_one_only_and_half_precision_becomes_float32(tmp_path, caplog):
    caplog.set_level(logging.INFO, "krpe_tf.export")
    model = make_classifier(length=12, num_layers=1, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"`lengths` must be \(12,\)"):
        export_tflite(model, tmp_path / "model.tflite", (8, 12))
    with pytest.raises(ValueError, match=r"`lengths` must be \(12,\)"):
        export_tflite(model, tmp_path / "model.tflite", (12, None))
    report = export_tflite(model, tmp_path / "model.tflite", (12,))
    assert report.signatures == ["ids_12"]
    assert report.model_dtypes == ["bfloat16", "float32"]
    assert report.max_error["ids_12"] < 1e-5
    said = "the model computes in bfloat16, float32; the file"
    assert said in caplog.text
    assert said in (tmp_path / "model.report.md").read_text().replace("The", "the")
    expected = make_classifier(length=12, num_layers=1)
    expected.set_weights(model.get_weights())
    inputs = make_ids(2, 12, [12, 7])
    assert relative_error(LiteRTModel(tmp_path / "model.tflite")(inputs), expected(inputs)) < 1e-5


def test_what_does_not_run_on_every_litert_is_refused(tmp_path):
    import tensorflow as tf

    with pytest.raises(ValueError, match=r"builtin ops only.*Received: a model that needs Ndtri"):
        export_tflite(with_op(tf.math.ndtri), tmp_path / "model.tflite", (8,))
    folded = with_op(lambda x: keras.ops.reshape(x, (1, 8, 2, 4, 4)))
    with pytest.raises(
        ValueError, match=r"a row for each of the n tokens. Received: an output of shape \(1, 8, 2, 4, 4\)"
    ):
        export_tflite(folded, tmp_path / "model.tflite", (8,))
    squeezed = with_op(lambda x: x[..., 0])
    with pytest.raises(
        ValueError, match=r"a row for each of the n tokens. Received: an output of shape \(None, None\)"
    ):
        export_tflite(squeezed, tmp_path / "model.tflite", (8,))
    rank_5 = with_op(
        lambda x: keras.ops.mean(keras.ops.transpose(keras.ops.reshape(x, (1, 8, 2, 4, 4)), (0, 3, 1, 4, 2)), (1, 2, 4))
    )
    with pytest.raises(ValueError, match=r"above rank 4. Received: one of rank 5"):
        export_tflite(rank_5, tmp_path / "model.tflite", (8,))
    assert list(tmp_path.iterdir()) == []


def test_an_output_with_a_row_for_every_second_token_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must give output \(batch, length, 32\).*shape \(1, 4, 32\) for 8 tokens"):
        export_tflite(with_op(lambda x: x[:, ::2]), tmp_path / "model.tflite", (8,))
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must return finite values"):
        export_tflite(with_op(lambda x: keras.ops.log(x - 1e6)), tmp_path / "model.tflite", (8,))


@pytest.mark.slow
def test_lengths_share_the_weights(tmp_path):
    model = make_classifier(vocabulary_size=8192, num_layers=2, hidden_dim=128, num_heads=4, intermediate_dim=512)
    tokenizer = make_tokenizer()
    one = export_tflite(model, tmp_path / "one.tflite", (16,), tokenizer=tokenizer)
    two = export_tflite(model, tmp_path / "two.tflite", (16, 1024), tokenizer=tokenizer)
    assert two.bytes < 1.03 * one.bytes  # A constant for every pair of positions would be 4 MB.
    assert max(two.max_error.values()) < 1e-4


@pytest.mark.slow
def test_ids_of_a_text_file_need_no_tensorflow(classifier, text_file):
    inputs = make_ids(1, 16, [9])
    sent = json.dumps({name: value.tolist() for name, value in inputs.items()})
    result = np.array(run_python(PLAIN, str(text_file[0]), "ids_16", sent))
    assert relative_error(result, classifier(inputs)) < 1e-5
