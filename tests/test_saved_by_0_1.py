"""What krpe_tf 0.1 saved loads here and gives the numbers that it gave there, see saved_by_0_1/README.md."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from krpe_tf.data import load_labelled_texts, load_prepared
from krpe_tf.runs import load_run, predict_run, train_run
from krpe_tf.training import Checkpoints

SAVED = Path(__file__).parent / "saved_by_0_1"
UNFINISHED = SAVED / "unfinished"
MODELS = sorted(SAVED.glob("*.keras"))
needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the run is TensorFlow's")


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def close(found, expected, tolerance=2e-5):
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), np.asarray(expected), rtol=0, atol=tolerance)


def arrays(lists: dict) -> dict:
    return {name: np.array(each, "float32" if name == "x" else "int32") for name, each in lists.items()}


def test_a_finished_classifier_predicts_as_it_did():
    expected = read(SAVED / "classifier" / "expected.json")
    answers = predict_run(SAVED / "classifier", expected["texts"])
    for found, probabilities in zip(answers, expected["probabilities"], strict=True):
        assert list(found) == list(probabilities)
        close(list(found.values()), list(probabilities.values()))


def test_a_finished_masked_lm_gives_its_logits_and_vectors():
    expected = read(SAVED / "masked_lm" / "expected.json")
    model, tokenizer, labels = load_run(SAVED / "masked_lm")
    inputs = arrays(expected["inputs"])
    logits = np.asarray(expected["logits"])
    close(model(inputs)[..., : logits.shape[-1]], logits)
    close(model.encoder({name: inputs[name] for name in ("token_ids", "padding_mask")}), expected["encoder"])
    assert [ids.tolist() for ids in tokenizer.encode(expected["texts"])] == expected["token_ids"]
    assert labels is None


@pytest.mark.parametrize("path", MODELS, ids=[path.stem for path in MODELS])
def test_a_keras_file_loads_computes_and_trains_on(path):
    expected = read(path.with_suffix(".json"))
    tolerance = 5e-3 if path.stem == "float16" else 2e-5
    inputs = arrays(expected["inputs"])
    call = inputs.get("x", inputs)
    model = keras.saving.load_model(path)
    found, outputs = model(call), expected["outputs"]
    for name in outputs if isinstance(outputs, dict) else [slice(None)]:
        close(found[name], np.asarray(outputs)[name] if isinstance(name, slice) else outputs[name], tolerance)
    assert len(model.weights) == expected["weights"]
    if path.stem == "layers":
        assert model.get_layer("first").position_bias is model.get_layer("second").position_bias
    if "labels" in expected:
        loss = model.train_on_batch(call, np.array(expected["labels"]))[0]
        assert float(loss) == pytest.approx(expected["loss_of_next_step"], abs=tolerance)
        close(model(call), expected["outputs_after_it"], tolerance)


def test_there_are_models_to_load():
    assert {path.stem for path in MODELS} >= {"layers", "encoder", "float16", "embedder", "over_an_encoder"}


def test_checkpoints_restore_and_are_undamaged():
    checkpoints = Checkpoints(UNFINISHED / "run" / "checkpoints", chief=False)
    assert [path.name.split(".")[0] for path in checkpoints.paths] == ["000002-pretraining-4", "000004-fine_tuning-3"]
    saved = checkpoints.restore()
    assert (saved.state["phase"], saved.state["step"]) == ("fine_tuning", 3)
    assert all(np.isfinite(array).all() for array in saved.arrays.values())


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("phase", ["pretraining", "fine_tuning"])
def test_an_unfinished_run_is_finished(tmp_path, phase):
    run = shutil.copytree(UNFINISHED / "run", tmp_path / "run")
    saved = Checkpoints(run / "checkpoints", chief=False).paths[phase == "fine_tuning"]
    with np.load(saved) as file:
        histories = json.loads(file["state.json"].tobytes())["histories"]
    if phase == "pretraining":
        next((run / "checkpoints").glob("*-fine_tuning-*")).unlink()
    train_run(load_labelled_texts(UNFINISHED / "documents.csv"), run, **read(UNFINISHED / "config.json"))
    training = read(run / "training.json")
    for name, history in histories.items():
        for key, values in history.items():
            assert training["histories"][name][key][: len(values)] == values
    assert not (run / "checkpoints").exists()
    assert (run / "tokenizer.json").read_text() == (SAVED / "classifier" / "tokenizer.json").read_text()


def test_a_prepared_folder_of_shards_is_refused_in_words_that_help():
    with pytest.raises(ValueError, match=r"0\.1.*prepare .*--overwrite"):
        load_prepared(SAVED / "prepared")
