"""The signatures of a .tflite file that take text: what they give, what they count, and what is refused."""

import json

import numpy as np
import pytest
from export_models import (
    FROM_THREADS,
    TEXTS,
    export_tflite,
    make_classifier,
    make_tokenizer,
    relative_error,
    run_python,
)

from krpe_tf.export import LiteRTModel, litert

pytestmark = pytest.mark.slow

WITH_TEXT = """
import json, sys
sys.modules["krpe_tf"] = None
import numpy as np
import tensorflow_text
from ai_edge_litert.interpreter import InterpreterWithCustomOps
path, signature, texts = sys.argv[1:]
interpreter = InterpreterWithCustomOps(
    model_path=path, custom_op_registerers=tensorflow_text.tflite_registrar.SELECT_TFTEXT_OPS
)
run = interpreter.get_signature_runner(signature)
results = [run(text=np.array([text.encode()], object)) for text in json.loads(texts)]
del sys.modules["krpe_tf"]
from krpe_tf.export import LiteRTModel
batches = [[text] for text in json.loads(texts)]
wrong = [
    wrong_answers(LiteRTModel(path, too_long="windows", runtime=runtime), batches)
    for runtime in ("interpreter", "compiled")
]
print(json.dumps([wrong, [[r["output"][0].tolist(), int(r["token_count"][0])] for r in results]]))
"""


@pytest.fixture(scope="module")
def classifier(shared):
    return shared.classifier


@pytest.fixture(scope="module")
def text_file(shared):
    return shared.text


WRONG_IN_THE_FILE = {
    # As if the tokens were counted after the text is truncated.
    "token_count": ("text_16", lambda x: x * 0 + 16, r"signature text_16 must count all .*token_count \[16\] for 'The"),
    "token_ids": ("tokenize", lambda x: x + 1, r"must give the same ids in the file\. Received: 'The people"),
    "output": ("text_16", lambda x: x * 1.01, r"max error over max\|output\|: text_16 0\.01\. Received"),
}


@pytest.mark.parametrize("output", WRONG_IN_THE_FILE)
def test_a_file_that_is_wrong_for_text_alone_is_refused(tmp_path, monkeypatch, output):
    import tensorflow as tf

    signature, change, message = WRONG_IN_THE_FILE[output]
    trace = litert.litert_functions

    def trace_wrongly(*arguments):
        functions = trace(*arguments)
        right = functions[signature]

        def wrong(text):
            outputs = right(text=text)
            return {**outputs, output: change(outputs[output])}

        spec = tf.TensorSpec((1,), tf.string, name="text")
        return {**functions, signature: tf.function(wrong, autograph=False).get_concrete_function(text=spec)}

    monkeypatch.setattr(litert, "litert_functions", trace_wrongly)
    with pytest.raises(ValueError, match=message):
        export_tflite(make_classifier(num_layers=1), tmp_path / "model.tflite", (16,), tokenizer=make_tokenizer())
    assert list(tmp_path.iterdir()) == []


def test_text_signatures_agree_and_count_and_threads_share_a_model(classifier, text_file):
    path, report = text_file
    tokenizer = make_tokenizer()
    assert set(report.custom_ops) == {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"}
    assert sorted(report.max_error) == ["ids_16", "ids_40", "text_16", "text_40"]
    long = "war and peace " * 30
    wrong, results = run_python(FROM_THREADS + WITH_TEXT, str(path), "text_16", json.dumps([*TEXTS, long]))
    assert wrong == [0, 0], "of 240 answers each, in 4 threads"
    for text, (output, count) in zip([*TEXTS, long], results, strict=True):
        inputs = tokenizer([text])
        assert count == inputs["token_ids"].shape[1]
        expected = classifier({name: value[:, :16] for name, value in inputs.items()})
        assert relative_error(np.array([output]), expected) < 1e-5
    assert results[-1][1] == 92


def test_model_reads_text(classifier, text_file):
    model, tokenizer = LiteRTModel(text_file[0]), make_tokenizer()
    texts = [*TEXTS, "x" * 30, "🙂🙃", b"the law", "war " * 38]
    assert model.reads_text
    assert relative_error(model(texts), classifier(tokenizer(texts))) < 1e-5
    with pytest.raises(ValueError, match=r"at most 40 tokens.*Received: texts\[1\] with 41 tokens"):
        model(["the law", "war " * 39])
    with pytest.raises(ValueError, match=r"texts\[0\] with 500002 tokens"):
        model(["war " * 500_000])  # 2 MB
    with pytest.raises(ValueError, match=r"texts\[0\] with 2000002 tokens"):
        model(["x" * 2_000_000])
    for bad in ([""], [" \n"], [b"\xff"], [], "the law", [3]):
        with pytest.raises(ValueError, match="texts"):
            model(bad)


def test_own_sample_texts(classifier, text_file, tmp_path):
    _, report = text_file
    assert report.tolerance == 1e-3
    assert sorted(report.max_error) == ["ids_16", "ids_40", "text_16", "text_40"]
    with pytest.raises(ValueError, match="texts"):
        export_tflite(classifier, tmp_path / "b", (16,), tokenizer=make_tokenizer(), sample_texts=[""])
