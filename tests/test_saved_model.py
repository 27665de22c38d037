import json

import numpy as np
import pytest
from export_models import TEXTS, make_classifier, make_encoder, make_ids, make_tokenizer, relative_error, run_python

from krpe_tf.export import export_saved_model

# krpe_tf cannot be imported. The calls are [folder, signature, inputs]; texts go as Latin-1, so that any bytes can.
LOAD = """
import json, sys
sys.modules["krpe_tf"] = None
import tensorflow as tf
calls, with_text = json.loads(sys.argv[1]), sys.argv[2]
if with_text == "True":
    import tensorflow_text
loaded = {path: tf.saved_model.load(path).signatures for path in {path for path, _, _ in calls}}
answers = []
for path, signature, inputs in calls:
    if "text" in inputs:
        text = inputs["text"]
        inputs = {"text": text if isinstance(text, str) else [each.encode("latin-1") for each in text]}
    try:
        output = loaded[path][signature](**{
            name: tf.constant(value, tf.string if name == "text" else tf.int32) for name, value in inputs.items()
        })["output"]
        answers.append(output.numpy().tolist())
    except tf.errors.InvalidArgumentError as error:
        answers.append(error.message)
print(json.dumps(answers))
"""


def load_and_run(calls, with_text=True):
    """The answer to each (folder, (signature, inputs)), an array or an error's message, from a process of its own."""
    sent = [
        (str(path), name, {key: np.asarray(value).tolist() for key, value in inputs.items()})
        for path, (name, inputs) in calls
    ]
    answers = run_python(LOAD, json.dumps(sent), str(with_text))
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
    for answer in load_and_run([(path, (name, inputs)) for name in report.max_error], with_text=False):
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


# Longer than any length that is compared by default: they are compared as text all the same.
LONG_TEXTS = ["the union " * 300]


@pytest.fixture(scope="module")
def encoder():
    return make_encoder(num_layers=2)


@pytest.fixture(scope="module")
def half():
    """A classifier for one length, in half precision."""
    return make_classifier(length=24, dtype="mixed_float16")


@pytest.fixture(scope="module")
def with_text(encoder, half, tmp_path_factory):
    """Both exported with a tokenizer, the encoder over what was there: the folder, reports, and answers by test."""
    folder, tokenizer = tmp_path_factory.mktemp("text"), make_tokenizer()
    free, fixed = folder / "free", folder / "fixed"
    free.mkdir()
    (free / "saved_model.pb").write_text("old")
    arguments = {"tokenizer": tokenizer, "measure": False}
    reports = {
        "free": export_saved_model(encoder, free, sample_texts=LONG_TEXTS, overwrite=True, **arguments),
        "fixed": export_saved_model(half, fixed, **arguments),
    }
    calls = {
        "right": [(free, call) for call in (text_call(*TEXTS), ("token_ids", tokenizer(TEXTS)), text_call(*ODD_TEXTS))],
        "refused": [(free, call) for group in REFUSED.values() for call in group],
        "one length": [(fixed, text_call(text)) for text in (TEXTS[0], "war " * 23)],
    }
    answers = iter(load_and_run([call for group in calls.values() for call in group]))
    return folder, reports, {name: [next(answers) for _ in group] for name, group in calls.items()}


@pytest.mark.slow
def test_text(encoder, with_text):
    folder, reports, answers = with_text
    from_text, from_ids, odd = answers["right"]
    assert max(reports["free"].max_error.values()) < 1e-5
    assert reports["free"].model_dtypes == ["float32"]
    inputs = make_tokenizer()(TEXTS)
    valid = inputs["padding_mask"].astype(bool)
    expected = np.asarray(encoder(inputs))[valid]
    for answer in (from_text, from_ids):
        assert relative_error(answer[valid], expected) < 1e-5
    assert set(reports["free"].max_error) == {"token_ids", "serving_default"}
    assert (folder / "free" / "variables").is_dir()
    assert {path.name for path in folder.iterdir()} == {"free", "fixed"}
    inputs = make_tokenizer()(ODD_TEXTS)
    assert odd.shape == (*inputs["token_ids"].shape, 32)
    valid = inputs["padding_mask"].astype(bool)
    assert relative_error(odd[valid], np.asarray(encoder(inputs))[valid]) < 1e-5


@pytest.mark.slow
def test_wrong_inputs_are_refused_in_words(with_text):
    answers = iter(with_text[2]["refused"])
    for message, calls in REFUSED.items():
        for call in calls:
            assert message in next(answers), call
    assert not list(answers)


@pytest.mark.slow
def test_one_length_model_refuses_longer_text_and_half_precision_becomes_float32(half, with_text):
    _, reports, answers = with_text
    assert reports["fixed"].model_dtypes == ["float16", "float32"]
    assert max(reports["fixed"].max_error.values()) < 1e-5
    model = make_classifier(length=24)
    model.set_weights(half.get_weights())
    result, refused = answers["one length"]
    assert relative_error(result, model(make_tokenizer()(TEXTS[:1], 24))) < 1e-5
    assert "at most 24 tokens" in refused


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
    # A refused export leaves what was there, and nothing else.
    (path / "thesis.txt").rename(path / "saved_model.pb")
    with pytest.raises(ValueError, match=r"nothing was written.*token_ids.*Received: tolerance=1e-30"):
        export_saved_model(model, path, tolerance=1e-30, overwrite=True, measure=False)
    assert [(each.name, each.read_text()) for each in path.iterdir()] == [("saved_model.pb", "years of work")]
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
