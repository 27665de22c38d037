"""A .tflite file's flatbuffer: what it holds, and the file without the names that nothing needs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# tensorflow-text's tokenizers: LiteRT runs these where tensorflow_text's tflite_registrar.SELECT_TFTEXT_OPS are known.
TEXT_OPS = frozenset({"FastBertNormalize", "FastWordpieceTokenizeWithOffsets", "TFText>FastSentencepieceTokenize"})


@dataclass(frozen=True)
class Contents:
    """The ops of all signatures together.

    Attributes: `ops`, builtin ops by kind and count; `custom_ops`, the same for ops that are not builtin; `recomputed`,
    ops whose inputs are all constant, so that they give the same at every call; `highest_rank` of any tensor;
    `weight_bytes`, of all constants, the tokenizer's tables too; `signature_ops`, how many ops each signature has.
    """

    ops: dict[str, int]
    custom_ops: dict[str, int]
    recomputed: dict[str, int]
    highest_rank: int
    weight_bytes: int
    signature_ops: dict[str, int]


def inspect(content: bytes) -> Contents:
    """Read the contents of a .tflite file.

    Args:
        content: The file's bytes.

    Returns:
        What it holds.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    ops, custom_ops, recomputed = Counter(), Counter(), Counter()
    highest_rank = 0
    for graph in model.subgraphs:
        constant = {i for i, tensor in enumerate(graph.tensors) if model.buffers[tensor.buffer].data is not None}
        for op in graph.operators:
            code = model.operatorCodes[op.opcodeIndex]
            name = flatbuffer_utils.opcode_to_name(model, op.opcodeIndex)
            if code.customCode is None:
                ops[name] += 1
            else:
                custom_ops[code.customCode.decode()] += 1
            inputs = [i for i in op.inputs if i >= 0]  # -1 is an optional input left out.
            if inputs and constant.issuperset(inputs):
                constant.update(op.outputs)
                if name != "DEQUANTIZE":  # float16 weights: runtimes unpack them once.
                    recomputed[name] += 1
        ranks = [0 if tensor.shape is None else len(tensor.shape) for tensor in graph.tensors]
        highest_rank = max([highest_rank, *ranks])
    weight_bytes = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    signatures = {s.signatureKey.decode(): len(model.subgraphs[s.subgraphIndex].operators) for s in model.signatureDefs}
    return Contents(dict(ops), dict(custom_ops), dict(recomputed), highest_rank, weight_bytes, signatures)


def drop_names(content: bytes) -> bytes:
    """Drop the names of a .tflite file's inner tensors: a third of what a signature adds to the weights.

    Args:
        content: The file's bytes.

    Returns:
        The same model; the inputs and outputs of its graphs keep their names, signatures theirs.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    for graph in model.subgraphs:
        for index in set(range(len(graph.tensors))).difference(graph.inputs, graph.outputs):
            graph.tensors[index].name = None
    return _pack(model, len(content))


def keep_signatures(content: bytes, names: Sequence[str]) -> bytes:
    """Keep some signatures, and of weights and ops what these need.

    Args:
        content: A .tflite file's bytes.
        names: The signatures to keep.

    Returns:
        The bytes of the smaller file. The graphs of `names` come first, in their order: delegates and
        `_get_ops_details` speak of the first graph. The other signatures' graphs are left empty, so that all others
        keep their places.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    defined = {each.signatureKey.decode(): each for each in model.signatureDefs}
    for place, name in enumerate(names):
        graphs, index = model.subgraphs, defined[name].subgraphIndex
        graphs[place], graphs[index] = graphs[index], graphs[place]
        for each in defined.values():
            if each.subgraphIndex in (place, index):
                each.subgraphIndex = place + index - each.subgraphIndex
    model.signatureDefs = [defined[name] for name in names]
    for each in defined.keys() - set(names):
        graph = model.subgraphs[defined[each].subgraphIndex]
        graph.operators, graph.tensors, graph.inputs, graph.outputs = [], [], [], []
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used.update(each.buffer for each in model.metadata or ())
    for index in set(range(len(model.buffers))) - used:
        model.buffers[index].data = None
    _drop_unused_op_codes(model)
    return _pack(model, len(content))


def _drop_unused_op_codes(model) -> None:
    """Runtimes may ask for every op that a file lists."""
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    used = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)


def _pack(model, size: int) -> bytes:
    import flatbuffers

    class AlignedBuilder(flatbuffers.Builder):
        """Keep the 16-byte alignment of weights that the schema asks for; the Python builder forgets it."""

        def StartVector(self, elemSize, numElems, alignment):
            return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)

    builder = AlignedBuilder(size)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def check_contents(contents: Contents, with_text: bool) -> None:
    """Refuse what does not run on every LiteRT.

    Args:
        contents: A file's contents.
        with_text: Allow tensorflow-text's tokenizer.

    Raises:
        ValueError: For ops that are not builtin, weights left as variables, or tensors above rank 4.
    """
    foreign = {name: n for name, n in contents.custom_ops.items() if not (with_text and name in TEXT_OPS)}
    if foreign:
        raise ValueError(
            "`model` must need LiteRT's builtin ops only, as every route here does. Received: a model that needs "
            f"{', '.join(sorted(foreign))}"
        )
    variables = sorted({"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"} & set(contents.ops))
    if variables:
        raise ValueError(f"`model` must hold no state that a call changes. Received: a model that needs {variables}")
    if contents.highest_rank > 4:
        raise ValueError(f"`model` must have no tensor above rank 4. Received: one of rank {contents.highest_rank}")
