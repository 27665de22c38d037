"""The README's Kotlin and Swift call a real file: names, dtypes and shapes are read from the code and from the file."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from export_models import export_tflite, make_encoder, make_ids, relative_error

from krpe_tf import models

README = Path(__file__).resolve().parents[1] / "README.md"
LITERAL = r'"(\w+)"'


@dataclass
class Snippet:
    signature: str
    inputs: dict[str, tuple[type, tuple[int, ...]]]
    output: str
    output_dtype: type
    classes: int | None


def one(pattern, code):
    found = set(re.findall(pattern, code))
    assert len(found) == 1, f"{pattern} must say one thing in {code}: {found}"
    return found.pop()


def read(language):
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def read_kotlin():
    code = read("kotlin")
    inputs = {}
    for name, variable in re.findall(LITERAL + r" to arrayOf\((\w+)\)", code):
        length = one(rf"val {variable} = (?:ids\.copyOf|IntArray)\((\d+)\)", code)
        assert length == one(r"require\(ids\.size <= (\d+)\)", code)
        inputs[name] = (np.int32, (1, int(length)))  # ids is an IntArray; arrayOf adds the batch axis.
    assert "ids: IntArray" in code
    name, variable = one(LITERAL + r" to (\w+)\)", code)
    dtype, classes = one(rf"val {variable} = arrayOf\((\w+)\((\d+)\)\)", code)
    signature = one(r"runSignature\(.*" + LITERAL + r"\)", code)
    return Snippet(signature, inputs, name, {"FloatArray": np.float32}[dtype], int(classes))


def read_swift():
    code = read("swift")
    length = int(one(r"precondition\(ids\.count <= (\d+)", code))
    assert int(one(r"count: (\d+) - ids\.count", code)) == length
    inputs = {}
    for name, variable in re.findall(LITERAL + r": (\w+)\.withUnsafeBytes", code):
        dtype = one(rf"let {variable}: \[(\w+)\] = .* \+ padding", code)
        inputs[name] = ({"Int32": np.int32}[dtype], (1, length))
    name = one(r"output\(named: " + LITERAL + r"\)", code)
    dtype = one(r"bindMemory\(to: (\w+)\.self\)", code)
    signature = one(r"signatureRunner\(with: " + LITERAL + r"\)", code)
    return Snippet(signature, inputs, name, {"Float32": np.float32}[dtype], None)


@pytest.fixture(scope="module")
def classifier():
    return models.TextClassifier(make_encoder(), num_classes=2)  # As in the README.


@pytest.fixture(scope="module")
def file(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.tflite"
    export_tflite(classifier, path, (128, 512), measure=False)
    return path


@pytest.mark.parametrize("reader", [read_kotlin, read_swift])
def test_snippet_fits_the_file(classifier, file, reader):
    snippet = reader()
    run = Interpreter(model_path=str(file)).get_signature_runner(snippet.signature)
    inputs = {k: (v["dtype"], tuple(v["shape"].tolist())) for k, v in run.get_input_details().items()}
    assert snippet.inputs == inputs
    outputs = run.get_output_details()
    assert list(outputs) == [snippet.output]
    assert outputs[snippet.output]["dtype"] == snippet.output_dtype
    if snippet.classes is not None:
        assert outputs[snippet.output]["shape"].tolist() == [1, snippet.classes]
    # As the snippets fill them: ids, then zeros; ones, then zeros.
    (_, (_, length)), *_ = snippet.inputs.values()
    document = make_ids(1, 70, [70])
    sent = {name: np.pad(document[name], ((0, 0), (0, length - 70))) for name in snippet.inputs}
    assert relative_error(run(**sent)[snippet.output], classifier(document)) < 1e-5
