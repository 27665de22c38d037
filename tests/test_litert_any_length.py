"""One signature for every length: it shares the weights of the fixed ones and gives the same numbers."""

import json

import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from export_models import (
    TEXTS,
    export_tflite,
    make_classifier,
    make_encoder,
    make_ids,
    make_tokenizer,
    relative_error,
    run_python,
)

from krpe_tf import LearnedBias, models
from krpe_tf.export import LiteRTModel, text_ops

# LiteRT alone, all lengths one after the other in one interpreter.
EVERY_LENGTH = """
import json, sys
sys.modules.update(dict.fromkeys(["tensorflow", "tensorflow_text", "keras", "krpe_tf"]))
import numpy as np
from ai_edge_litert.interpreter import Interpreter
path, calls = sys.argv[1:]
run = Interpreter(model_path=path).get_signature_runner("ids_any")
with open(calls) as file:
    calls = json.load(file)
print(json.dumps([run(**{k: np.array(v, np.int32) for k, v in c.items()})["output"].tolist() for c in calls]))
"""


def run_any(path, inputs, folder):
    calls = folder / "calls.json"
    calls.write_text(json.dumps([{name: value.tolist() for name, value in x.items()} for x in inputs]))
    return [np.array(output) for output in run_python(EVERY_LENGTH, str(path), str(calls))]


@pytest.fixture(scope="module")
def classifier(shared):
    return shared.classifier


@pytest.fixture(scope="module")
def files(shared):
    return shared.free


def test_every_length_agrees(classifier, files, tmp_path):
    lengths = (1, 7, 63, 64, 65, 128, 129, 1000, 2111, 64)
    inputs = [make_ids(1, n, [max(1, n - n // 3)], seed=n) for n in lengths]
    for x, output in zip(inputs, run_any(files[0], inputs, tmp_path), strict=True):
        assert relative_error(output, classifier(x)) < 1e-5


def test_it_stands_beside_the_fixed_lengths(files):
    path, report = files
    assert report.lengths == [16, 40, None]
    compared = ["ids_16", "ids_40", "ids_any", "text_16", "text_40", "text_any"]
    assert sorted(report.signatures) == [*compared, "tokenize"]
    assert sorted(report.max_error) == compared
    assert max(report.max_error.values()) < 1e-5
    assert report.highest_rank <= 4
    assert report.bytes == path.stat().st_size
    buffers = flatbuffer_utils.read_model(str(path)).buffers
    assert [len(buffer.data) for buffer in buffers if buffer.data is not None].count(2048 * 32 * 4) == 1  # embeddings


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: make_encoder(position_bias=LearnedBias(2, 100)), id="wide band"),
        pytest.param(lambda: make_encoder(causal=True), id="causal"),
        pytest.param(lambda: make_encoder(position_bias=None), id="no bias"),
        pytest.param(lambda: models.MaskedLM(make_encoder(share_position_bias=False, num_layers=2)), id="masked_lm"),
    ],
)
def test_every_kind_of_model_agrees(model, tmp_path):
    report = export_tflite(model(), tmp_path / "model.tflite", (None,))
    assert report.signatures == ["ids_any"]
    assert report.custom_ops == {}
    assert report.highest_rank <= 4
    assert report.max_error["ids_any"] < 1e-5
    loaded = LiteRTModel(tmp_path / "model.tflite")
    assert (loaded.lengths, loaded.any_length) == ([], True)


@pytest.mark.parametrize(
    ("arguments", "route"),
    [
        ({"route": "dense"}, "dense"),
        ({"feature_map": "softmax"}, "dense"),
        ({"position_bias": LearnedBias(2, 300)}, "fft"),
    ],
)
def test_routes_that_need_a_known_length_are_refused(arguments, route, tmp_path):
    with pytest.raises(ValueError, match=f"may hold None only.*Received: layer 'layer_0_attention' on route '{route}'"):
        export_tflite(make_classifier(**arguments), tmp_path / "model.tflite", (8, None))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_text_of_any_length_without_tensorflow(classifier, files):
    script = """
import json, runpy, sys
sys.modules["krpe_tf"] = None
import numpy as np
from ai_edge_litert.interpreter import InterpreterWithCustomOps
ops = runpy.run_path(sys.argv[3])["text_ops"]()
interpreter = InterpreterWithCustomOps(model_path=sys.argv[1], custom_op_registerers=ops)
run = interpreter.get_signature_runner("text_any")
results = [run(text=np.array([text.encode()], object)) for text in json.loads(sys.argv[2])]
assert "tensorflow" not in sys.modules
print(json.dumps([[r["output"].tolist(), int(r["token_count"][0])] for r in results]))
"""
    texts = [*TEXTS, "war and peace " * 300, "law"]
    tokenizer = make_tokenizer()
    answers = run_python(script, str(files[0]), json.dumps(texts), text_ops.__file__)
    for text, (output, count) in zip(texts, answers, strict=True):
        inputs = tokenizer([text])
        assert count == inputs["token_ids"].shape[1]
        assert relative_error(np.array(output), classifier(inputs)) < 1e-5
