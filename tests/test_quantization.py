"""Quantized files: what is small in them and what stays float32, and how far their numbers are off."""

import keras
import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from export_models import export_tflite, make_encoder

from krpe_tf import models

SIZES = {"vocabulary_size": 1024, "hidden_dim": 64, "intermediate_dim": 256, "num_features": 32}
TOLERANCES = {"float16": 2e-3, "int8": 5e-2, "int8_static": 8e-2}
POLICIES = {"float16": "mixed_float16", "int8": "bfloat16", "int8_static": "mixed_bfloat16"}
TYPES = flatbuffer_utils.schema_fb.TensorType
FLOAT32, FLOAT16, INT8 = TYPES.FLOAT32, TYPES.FLOAT16, TYPES.INT8


def trained_like(model):
    """Biases that are not zero, as training leaves them."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.name == "bias":
            weight.assign(rng.normal(scale=0.1, size=weight.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return trained_like(models.TextClassifier(make_encoder(**SIZES, num_layers=2), 3))


@pytest.fixture(scope="module")
def full_bytes(model, tmp_path_factory):
    return export_tflite(model, tmp_path_factory.mktemp("full") / "model.tflite", (16, None)).bytes


@pytest.fixture(scope="module", params=TOLERANCES)
def exported(request, model, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "model.tflite"
    report = export_tflite(model, path, (16, None), quantization=request.param)
    return report, flatbuffer_utils.read_model(str(path))


def operators(file):
    for graph in file.subgraphs:
        for op in graph.operators:
            tensors = [graph.tensors[i] for i in (*op.inputs, *op.outputs) if i >= 0]
            yield flatbuffer_utils.opcode_to_name(file, op.opcodeIndex), tensors


def test_file_is_small_and_agrees(exported, full_bytes):
    report, _ = exported
    assert report.custom_ops == {}
    assert sorted(report.max_error) == ["ids_16", "ids_any"]
    assert 1e-6 < max(report.max_error.values()) < TOLERANCES[report.quantization]
    assert report.bytes < (0.7 if report.quantization == "float16" else 0.5) * full_bytes


def test_attention_stays_float32(exported, model):
    report, file = exported
    touched = {name for name, tensors in operators(file) if any(tensor.type in (FLOAT16, INT8) for tensor in tensors)}
    layers = {"FULLY_CONNECTED", "EMBEDDING_LOOKUP"}
    assert (
        touched
        == {
            "float16": {"DEQUANTIZE"},
            "int8": layers,
            "int8_static": {*layers, "QUANTIZE", "DEQUANTIZE"},
        }[report.quantization]
    )
    # What is small are the tables of dense layers and embeddings, by their size; random directions are none of them.
    small = [t for graph in file.subgraphs for t in graph.tensors if t.type in (FLOAT16, INT8)]
    shapes = {tuple(t.shape) for t in small if file.buffers[t.buffer].data is not None}
    assert shapes == {(1024, 64), (64, 64), (256, 64), (64, 256)}
    directions = [np.asarray(w).T.tobytes() for w in model.weights if w.name == "projection"]
    kept = [tensors[1] for name, tensors in operators(file) if name == "FULLY_CONNECTED"]
    kept = [file.buffers[t.buffer].data.tobytes() for t in kept if t.type == FLOAT32 and t.shape[0] == 32]
    assert {*kept} == {*directions}
    assert len(kept) == 2 * 2 * 2  # signatures, layers, queries and keys


def test_signatures_share_the_small_weights(exported):
    report, file = exported
    size = 1024 * 64 * (2 if report.quantization == "float16" else 1)
    assert [len(buffer.data) for buffer in file.buffers if buffer.data is not None].count(size) == 1
    # All tables are 2.5 times the embeddings; the attention's constants and scales come to a half of them here.
    assert sum(len(buffer.data) for buffer in file.buffers if buffer.data is not None) < 3.2 * size


@pytest.mark.parametrize("quantization", TOLERANCES)
def test_tied_embeddings_stay_tied(quantization, tmp_path):
    """Also where the model that is exported computes in half precision, as all of these do."""
    model = trained_like(models.MaskedLM(make_encoder(**SIZES, dtype=POLICIES[quantization])))
    report = export_tflite(model, tmp_path / "model.tflite", (40,), quantization=quantization)
    assert report.max_error["ids_40"] < TOLERANCES[quantization]
    assert report.model_dtypes == [POLICIES[quantization].removeprefix("mixed_"), "float32"]
    file = flatbuffer_utils.read_model(str(tmp_path / "model.tflite"))
    size = 1024 * 64 * (2 if quantization == "float16" else 1)
    assert [len(buffer.data) for buffer in file.buffers if buffer.data is not None].count(size) == 1


def test_a_table_that_is_no_embedding_is_left_alone(tmp_path):
    table = np.random.default_rng(0).normal(size=(64, 32)).astype("float32")

    class Picked(keras.layers.Layer):
        def call(self, x, ids, mask):
            picked = keras.ops.transpose(keras.ops.take(table, ids[0] % 32, axis=1))
            return (x + picked) * keras.ops.cast(mask, "float32")[..., None]

    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    hidden = keras.layers.Embedding(128, 64)(inputs["token_ids"])
    picked = Picked()(hidden, inputs["token_ids"], inputs["padding_mask"])  # keras 3.13 wants every input connected.
    model = keras.Model(inputs, keras.layers.Dense(64)(picked))
    ops = export_tflite(model, tmp_path / "model.tflite", (8,), quantization="int8").ops
    assert (ops["EMBEDDING_LOOKUP"], ops["GATHER"]) == (1, 1)
