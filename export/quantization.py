"""Smaller weights: dense layers and embeddings in float16 or int8, with ai-edge-quantizer.

What lies between an attention's projections stays float32: its sums of positive terms range over dozens of orders of
magnitude. There are no weights in it but the random directions of the feature map, and an exponential follows those.
"""

import contextlib
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .samples import Document, shortened

if TYPE_CHECKING:
    import keras

QUANTIZATIONS = (None, "float16", "int8", "int8_static")
# Tokens of the documents that ranges are measured on, beside the whole ones: attention averages over few, so that its
# outputs range further.
SHORT_DOCUMENTS = (1, 2, 8, 32, 128)
# Smaller tables are not worth their error: the last layer of a classifier.
SMALLEST_WEIGHTS = 1024


def check_quantization(quantization: str | None) -> None:
    """Raise a ValueError for a quantization that there is not, with the reason."""
    if quantization == "full_int8":
        raise ValueError(
            "`quantization` cannot be 'full_int8': the denominators of kernelized attention range too widely for 8 "
            "bits, such a file aborts when it runs. Take 'int8_static', which has int8 arithmetic in the dense layers "
            "and float32 in the attention. Received: quantization='full_int8'"
        )
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"`quantization` must be None, 'float16', 'int8' or 'int8_static'. Received: quantization={quantization!r}"
        )


def quantize(
    content: bytes, quantization: str, model: "keras.Model", signature: str, documents: Sequence[Document]
) -> bytes:
    """Quantize the dense layers and embeddings of a float32 .tflite file, the same for all its signatures.

    Args:
        content: The file as converted, its tensors with their names.
        quantization: "float16": weights, unpacked when a model is loaded. "int8": weights, one scale a row; dense
            layers quantize what comes in at every call. "int8_static": the same with fixed ranges for what goes in and
            out of dense layers.
        model: The Keras model that it came from: tells dense layers from random features.
        signature: For "int8_static", the signature that the ranges are measured with.
        documents: For "int8_static", what they are measured on.

    Returns:
        The quantized file.
    """
    from ai_edge_litert.tools import flatbuffer_utils
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    content = _lookups_for_gathers(content)
    file = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    projections = {np.asarray(w).T.tobytes() for w in model.weights if w.name == "projection"}
    dense, lookup = qtyping.TFLOperationName.FULLY_CONNECTED, qtyping.TFLOperationName.EMBEDDING_LOOKUP
    recipe = quantizer.Quantizer(bytearray(content))
    if quantization == "float16":
        for kind in (dense, lookup):
            recipe.add_weight_only_config(".*", kind, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    else:
        recipe.add_dynamic_config(".*", lookup, 8)
        if quantization == "int8":
            recipe.add_dynamic_config(".*", dense, 8)
        else:
            recipe.add_static_config(".*", dense, 8, 8)
    layers = [list(_dense_layers(file, graph)) for graph in file.subgraphs]
    for _, _, weights, output in (layer for graph in layers for layer in graph):
        if weights.size < SMALLEST_WEIGHTS * 4 or weights.tobytes() in projections:
            name = f"^{re.escape(output)};"
            recipe.update_quantization_recipe(name, dense, algorithm_key=AlgorithmName.NO_QUANTIZE)
    ranges = None
    with _quiet():
        if quantization == "int8_static":
            graph = next(s.subgraphIndex for s in file.signatureDefs if s.signatureKey.decode() == signature)
            ranges = _measure(content, recipe.get_quantization_recipe(), signature, documents, layers, graph)
        done = recipe.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(done.quantized_model)


def _measure(
    content: bytes,
    recipe: list[dict],
    signature: str,
    documents: Sequence[Document],
    layers: list[list[tuple]],
    measured: int,
) -> dict[str, Any]:
    """Measure the ranges of what goes in and out of every dense layer: those of one graph, for all graphs.

    Signatures that take text have ops that the calibrator's interpreter does not know, and one scale for all is what
    lets signatures share their weights.
    """
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    calibration = calibrator.Calibrator(content, num_threads=2, qsv_update_func=qsv_utils.min_max_update)
    inputs = []
    for document in documents:
        count = int(document.valid.sum())
        inputs += [shortened(document, n).inputs for n in (count, *(n for n in SHORT_DOCUMENTS if n < count))]
    calibration.calibrate({signature: inputs}, manager)
    ranges = calibration.get_model_qsvs()
    known = {place: (source, output) for place, source, _, output in layers[measured]}
    for place, source, _, output in (layer for graph in layers for layer in graph):
        for name, as_in in zip((source, output), known[place], strict=True):
            if as_in in ranges:
                ranges[name] = ranges[as_in]
    return ranges


def _dense_layers(model: Any, graph: Any) -> Iterator[tuple[tuple[int, int], str, np.ndarray, str]]:
    """Yield the dense ops of a graph: (buffer of the weights, times it was used before), input, weights, output."""
    from ai_edge_litert.tools import flatbuffer_utils

    used = Counter()
    for op in graph.operators:
        if flatbuffer_utils.opcode_to_name(model, op.opcodeIndex) != "FULLY_CONNECTED":
            continue
        source, weights, output = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]], graph.tensors[op.outputs[0]]
        data = model.buffers[weights.buffer].data
        if data is not None:
            yield (weights.buffer, used[weights.buffer]), source.name.decode(), data, output.name.decode()
            used[weights.buffer] += 1


def _lookups_for_gathers(content: bytes) -> bytes:
    """Put EMBEDDING_LOOKUP in place of GATHER from tables of weights: a row may then have a scale of its own.

    It takes a list of ids and gives a list of rows, so one RESHAPE goes before it and one after.
    """
    import flatbuffers
    from ai_edge_litert.tools import flatbuffer_utils

    schema = flatbuffer_utils.schema_fb
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))

    def opcode(builtin):
        for index, code in enumerate(model.operatorCodes):
            if code.builtinCode == builtin:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = 1
        model.operatorCodes.append(code)
        return len(model.operatorCodes) - 1

    def tensor(graph, name, kind, shape, data=None):
        made = schema.TensorT()
        made.name, made.type, made.shape = name, kind, np.array([abs(n) for n in shape], np.int32)
        made.shapeSignature = np.array(shape, np.int32) if -1 in shape else None
        buffer = schema.BufferT()
        buffer.data = None if data is None else np.frombuffer(np.array(data, np.int32).tobytes(), np.uint8)
        model.buffers.append(buffer)
        made.buffer = len(model.buffers) - 1
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def op(builtin, inputs, outputs):
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = opcode(builtin), inputs, outputs
        return made

    for graph in model.subgraphs:
        operators = []
        for gather in graph.operators:
            if flatbuffer_utils.opcode_to_name(model, gather.opcodeIndex) != "GATHER" or not _is_lookup(
                model, graph, gather
            ):
                operators.append(gather)
                continue
            table = graph.tensors[gather.inputs[0]]
            rows = graph.tensors[gather.outputs[0]]
            shape = rows.shape if rows.shapeSignature is None else rows.shapeSignature
            count = int(np.prod(shape[:-1])) if -1 not in shape else -1
            name = rows.name
            integers, floats = schema.TensorType.INT32, schema.TensorType.FLOAT32
            flat = tensor(graph, name + b"/ids", integers, [count])
            flat_shape = tensor(graph, name + b"/ids_shape", integers, [1], [-1])
            looked_up = tensor(graph, name + b"/rows", floats, [count, table.shape[1]])
            rows_shape = tensor(graph, name + b"/rows_shape", integers, [len(shape)], shape)
            operators += [
                op(schema.BuiltinOperator.RESHAPE, [gather.inputs[1], flat_shape], [flat]),
                op(schema.BuiltinOperator.EMBEDDING_LOOKUP, [flat, gather.inputs[0]], [looked_up]),
                op(schema.BuiltinOperator.RESHAPE, [looked_up, rows_shape], list(gather.outputs)),
            ]
        graph.operators = operators
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _is_lookup(model: Any, graph: Any, gather: Any) -> bool:
    """Return whether a GATHER takes whole rows of a table of weights."""
    table = graph.tensors[gather.inputs[0]]
    rows = gather.builtinOptions.axis == 0 and gather.builtinOptions.batchDims == 0 and len(table.shape) == 2
    return rows and table.type == 0 and model.buffers[table.buffer].data is not None  # 0: float32


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Run without ai-edge-quantizer's progress bars and its warnings of shared weights and memory."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors", category=UserWarning)
            yield
    finally:
        logging.disable(before)
