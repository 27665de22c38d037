import json

import numpy as np
import pytest
from export_models import TEXTS, make_classifier, make_encoder, make_ids, make_tokenizer, relative_error, run_python

from krpe_tf.export import export_saved_model

# krpe_tf cannot be imported. CALLS is a list of [signature, inputs]; texts go as Latin-1, so that any bytes can.
LOAD = """
import json, sys
sys.modules["krpe_tf"] = None
import tensorflow as tf
path, calls, with_text = sys.argv[1:]
if with_text == "True":
    import tensorflow_text
signatures = tf.saved_model.load(path).signatures
answers = []
for signature, inputs in json.loads(calls):
    if "text" in inputs:
        text = inputs["text"]
        inputs = {"text": text if isinstance(text, str) else [each.encode("latin-1") for each in text]}
    try:
        output = signatures[signature](**{
            name: tf.constant(value, tf.string if name == "text" else tf.int32) for name, value in inputs.items()
        })["output"]
        answers.append(output.numpy().tolist())
    except tf.errors.InvalidArgumentError as error:
        answers.append(error.message)
print(json.dumps(answers))
"""


def load_and_run(path, *calls, with_text=True):
    """The answer to each (signature, inputs), an array or an error's message, from a process of its own."""
    sent = [(name, {key: np.asarray(value).tolist() for key, value in inputs.items()}) for name, inputs in calls]
    answers = run_python(LOAD, str(path), json.dumps(sent), str(with_text))
    return [answer if isinstance(answer, str) else np.array(answer) for answer in answers]


def text_call(*texts):
    raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return "serving_default", {"text": [text.decode("latin-1") for text in raw]}


def test_ids(tmp_path):
    model, path = make_classifier(), tmp_path / "saved"
    report = export_saved_model(model, path)
    assert sorted(report.max_error) == ["serving_default", "token_ids"]
    assert max(report.max_error.values()) < 1e-5
    assert sorted(report.milliseconds) == [128, 512, 2048]
    assert min(report.milliseconds.values()) > 0
    inputs = make_ids(3, 37, [37, 20, 1])
    for answer in load_and_run(path, *((name, inputs) for name in report.max_error), with_text=False):
        assert relative_error(answer, model(inputs)) < 1e-5
    assert list(tmp_path.iterdir()) == [path]


IDS = make_ids(2, 5, [5, 3])
# What an exported encoder says to each call.
REFUSED = {
    "text must not be empty": [text_call("the law", " \n")],
    "text must be valid UTF-8": [text_call("the law", text) for text in (b"caf\xe9", b"\xed\xa0\x80", b"\xf0\x9f")],
    "must lie in the vocabulary, from 0 to 127": [
        ("token_ids", {**IDS, "token_ids": IDS["token_ids"] + shift}) for shift in (120, -128)
    ],
    "must have the shape of token_ids": [("token_ids", {**IDS, "padding_mask": IDS["padding_mask"][:, :4]})],
    "must hold one token or more": [("token_ids", {name: np.zeros((1, 0), "int32") for name in IDS})],
    "text [] is not compatible with expected shape [?]": [("serving_default", {"text": "the law"})],
    "token_ids [5] is not compatible with expected shape [?,?]": [("token_ids", {n: x[0] for n, x in IDS.items()})],
}
ODD_TEXTS = ("\ufeffthe law", "the \ufffd law", "e\u0301", "a\x00b", "क कु के", "law" * 50)


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


@pytest.fixture(scope="module")
def with_text(encoder, tmp_path_factory):
    """The report of an encoder's export with a tokenizer, and its answers to the tests, from one process."""
    path = tmp_path_factory.mktemp("text") / "saved"
    report = export_saved_model(encoder, path, make_tokenizer(), measure=False)
    right = [text_call(*TEXTS), ("token_ids", make_tokenizer()(TEXTS)), text_call(*ODD_TEXTS)]
    wrong = [call for calls in REFUSED.values() for call in calls]
    answers = load_and_run(path, *right, *wrong)
    return report, answers[: len(right)], answers[len(right) :]


@pytest.mark.slow
def test_text(encoder, with_text):
    report, (from_text, from_ids, odd), _ = with_text
    assert max(report.max_error.values()) < 1e-5
    inputs = make_tokenizer()(TEXTS)
    valid = inputs["padding_mask"].astype(bool)
    expected = np.asarray(encoder(inputs))[valid]
    for answer in (from_text, from_ids):
        assert relative_error(answer[valid], expected) < 1e-5
    inputs = make_tokenizer()(ODD_TEXTS)
    assert odd.shape == (*inputs["token_ids"].shape, 32)
    valid = inputs["padding_mask"].astype(bool)
    assert relative_error(odd[valid], np.asarray(encoder(inputs))[valid]) < 1e-5


@pytest.mark.slow
def test_wrong_inputs_are_refused_in_words(with_text):
    answers = iter(with_text[2])
    for message, calls in REFUSED.items():
        for call in calls:
            assert message in next(answers), call
    assert not list(answers)


@pytest.mark.slow
def test_one_length_model_refuses_longer_text(tmp_path):
    model, tokenizer, path = make_classifier(length=24), make_tokenizer(), tmp_path / "saved"
    export_saved_model(model, path, tokenizer, sample_texts=TEXTS, measure=False)
    result, refused = load_and_run(path, text_call(TEXTS[0]), text_call("war " * 23))
    assert relative_error(result, model(tokenizer(TEXTS[:1], 24))) < 1e-5
    assert "at most 24 tokens" in refused


@pytest.mark.slow
def test_refused_export_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"nothing was written.*token_ids.*Received: tolerance=1e-30"):
        export_saved_model(make_classifier(), tmp_path / "saved", tolerance=1e-30)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_existing_folder(tmp_path):
    model, path = make_classifier(), tmp_path / "saved"
    path.mkdir()
    with pytest.raises(ValueError, match="overwrite=True"):
        export_saved_model(model, path)
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not a folder with other things in it"):
        export_saved_model(model, path, overwrite=True, measure=False)
    assert (path / "thesis.txt").read_text() == "years of work"
    (path / "thesis.txt").rename(path / "saved_model.pb")
    # Texts longer than any length that is compared by default: they are compared as text all the same.
    texts = ["the union " * 300]
    report = export_saved_model(model, path, make_tokenizer(), sample_texts=texts, overwrite=True, measure=False)
    assert set(report.max_error) == {"token_ids", "serving_default"}
    assert (path / "variables").is_dir()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": None}, "`model` must be a Keras model"),
        ({"tokenizer": 3}, "`tokenizer`"),
        ({"tolerance": "small"}, "`tolerance`"),
        ({"path": "/proc/saved"}, "`path` must be in an existing folder"),
        ({"path": None}, "`path`"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_saved_model(**{"model": make_classifier(), "path": tmp_path / "saved", **arguments})
    assert list(tmp_path.iterdir()) == []


def test_on_other_backends_it_imports_without_tensorflow_and_refuses(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    script = """
import json, sys
import krpe_tf.export
imported = "tensorflow" in sys.modules
try:
    krpe_tf.export.export_saved_model(None, "saved")
except ValueError as error:
    print(json.dumps([imported, str(error)]))
"""
    imported, refusal = run_python(script)
    assert imported is False
    assert "KERAS_BACKEND=tensorflow" in refusal
