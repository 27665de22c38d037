import json

import numpy as np
import pytest
from export_models import TEXTS, make_classifier, make_encoder, make_ids, make_tokenizer, relative_error, run_python
from krpe_tf.export import export_saved_model

# krpe_tf cannot be imported. The last argument says whether the SavedModel holds a tokenizer.
LOAD = """
import json, sys
sys.modules["krpe_tf"] = None
import tensorflow as tf
path, signature, inputs, with_text = sys.argv[1:]
inputs = json.loads(inputs)
if with_text == "True":
    import tensorflow_text
loaded = tf.saved_model.load(path).signatures[signature]
try:
    print(json.dumps(loaded(**{k: tf.constant(v) for k, v in inputs.items()})["output"].numpy().tolist()))
except tf.errors.InvalidArgumentError as error:
    print(json.dumps(error.message))
"""


def load_and_run(path, signature, inputs, with_text=True):
    sent = {name: np.asarray(value).tolist() for name, value in inputs.items()}
    result = run_python(LOAD, str(path), signature, json.dumps(sent), str(with_text))
    return result if isinstance(result, str) else np.array(result)


def test_ids(tmp_path):
    model, path = make_classifier(), tmp_path / "saved"
    errors = export_saved_model(model, path)
    assert sorted(errors) == ["serving_default", "token_ids"]
    assert max(errors.values()) < 1e-5
    inputs = make_ids(3, 37, [37, 20, 1])
    for signature in errors:
        assert relative_error(load_and_run(path, signature, inputs, with_text=False), model(inputs)) < 1e-5
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_text(tmp_path):
    model, tokenizer, path = make_encoder(), make_tokenizer(), tmp_path / "saved"
    assert max(export_saved_model(model, path, tokenizer).values()) < 1e-5
    inputs = tokenizer(TEXTS)
    valid = inputs["padding_mask"].astype(bool)
    expected = np.asarray(model(inputs))[valid]
    assert relative_error(load_and_run(path, "serving_default", {"text": TEXTS})[valid], expected) < 1e-5
    assert relative_error(load_and_run(path, "token_ids", inputs)[valid], expected) < 1e-5


@pytest.mark.slow
def test_one_length_model_refuses_longer_text(tmp_path):
    model, tokenizer, path = make_classifier(length=24), make_tokenizer(), tmp_path / "saved"
    export_saved_model(model, path, tokenizer, sample_texts=TEXTS)
    result = load_and_run(path, "serving_default", {"text": TEXTS[:1]})
    assert relative_error(result, model(tokenizer(TEXTS[:1], 24))) < 1e-5
    assert "at most 24 tokens" in load_and_run(path, "serving_default", {"text": ["war " * 23]})


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
        export_saved_model(model, path, overwrite=True)
    assert (path / "thesis.txt").read_text() == "years of work"
    (path / "thesis.txt").rename(path / "saved_model.pb")
    export_saved_model(model, path, overwrite=True)
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


def test_import_without_tensorflow(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    script = "import krpe_tf.export, sys; print('true' if 'tensorflow' not in sys.modules else 'false')"
    assert run_python(script) is True


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    script = """
import krpe_tf.export
try:
    krpe_tf.export.export_saved_model(None, "saved")
except ValueError as error:
    print("true" if "KERAS_BACKEND=tensorflow" in str(error) else "false")
"""
    assert run_python(script) is True


@pytest.mark.slow
def test_sample_texts_longer_than_any_default_length_are_compared_as_text(tmp_path):
    tokenizer = make_tokenizer()
    errors = export_saved_model(make_classifier(), tmp_path / "long", tokenizer, sample_texts=["the union " * 300])
    assert set(errors) == {"token_ids", "serving_default"}
