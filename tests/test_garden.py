"""Model Garden: the tf_keras layer against the Keras layer, in scaffolds, and under tfm's own task and trainer."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from export_models import run_python

ROOT = Path(__file__).parent.parent
CHECKS = ROOT / "tests" / "garden_checks.py"
PAGE = ROOT / "docs" / "garden.md"

pytest.importorskip("official", reason='needs the extra "garden"')


def run_checks(folder, *names):
    command = [sys.executable, "-P", str(CHECKS), str(folder), *names]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    """One process for all that need no devices of their own: importing Model Garden takes seconds."""
    return run_checks(tmp_path_factory.mktemp("garden"), "layer", "encoder", "snippet", "refusals", "scaffold")


@pytest.mark.slow
def test_the_numbers_are_those_of_the_keras_layer(checks):
    errors = checks["layer"]
    assert len(errors) == 15
    assert {name: error for name, error in errors.items() if not error < 1e-5} == {}


@pytest.mark.slow
def test_the_encoder_is_that_of_models_and_survives_the_disk(checks):
    results = dict(checks["encoder"])
    disk = results.pop("disk")
    weights = {
        "decay": {"near", "log_amplitude", "log_rate"},
        "bucketed": {"table"},
        "learned": {"table"},
        "none": set(),
    }
    counts = {"decay": 3, "bucketed": 2, "learned": 1, "none": 0}  # buckets are not shared between the two layers
    assert results.keys() == weights.keys()
    for name, result in results.items():
        assert result["shapes"] == {"sequence_output": [2, 21, 16], "pooled_output": [2, 16]}
        assert result["layers"] == 2
        assert result["table"] == [50, 16]
        assert result["difference"] < 1e-5, name
        assert {re.sub(r".*_bias(_\d+)?/(\w+):0", r"\2", weight) for weight in result["biases"]} == weights[name]
        assert result["bias weights"] == counts[name]
    assert disk["before"] > 0.1
    assert disk["checkpoint"] == 0
    assert disk["saved"] < 1e-5
    # The counter of saves, and the graph of objects.
    assert disk["more variables than weights"] == 2


@pytest.mark.slow
def test_the_layer_serves_in_scaffolds(checks):
    results = checks["scaffold"]
    ours, theirs = ({name.split("/", 1)[1]: shape for name, shape in x.items()} for x in results["names"].values())
    assert len(theirs) == 16
    assert theirs.items() <= ours.items()
    more = sorted(name.rsplit("/", 1)[1] for name in ours.keys() - theirs.keys())
    assert more == ["log_amplitude:0", "log_rate:0", "near:0", "projection:0"]
    assert "mask_cls=official.nlp.modeling.layers.KernelMask" in results["full mask"]
    assert "attention_mask.shape=(None, None, None)" in results["full mask"]
    # The pooler's output is not trained here.
    assert results["unchanged"] == ["cls_transform/kernel:0", "cls_transform/bias:0"]
    assert results["padding"] == 0
    assert results["keras file"] == 0
    assert results["shared"]
    assert results["implicit mask"] < 1e-5
    half = results["half"]
    assert half["output"] == "bfloat16"
    assert half["weights"] == ["float32"]
    assert half["difference"] < 8 * 2.0**-8


@pytest.mark.slow
def test_the_trainer_of_model_garden_trains_it_on_two_devices_as_on_one(tmp_path):
    results = run_checks(tmp_path, "train")["train"]
    assert len(results["two"]) == 2
    assert results["two"][1] < results["two"][0]
    assert results["two"] == pytest.approx(results["one"], rel=1e-5)
    assert results["difference"] < 1e-5
    # The pooler has nothing to do in masked-LM pretraining.
    idle = {name for name in results["trainable"] if "/pooler_transform/" in name}
    assert len(idle) == 2
    assert set(results["trained"]) == set(results["trainable"]) - idle
    assert sum("decay_bias/" in name for name in results["trainable"]) == 3
    assert results["decayed"]
    assert not any("bias" in name or "norm" in name.lower() for name in results["decayed"])
    run_driver(tmp_path)


def run_driver(folder):
    """The command of the page, with its config, but for sizes and data."""
    (config,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    changes = {
        "task.model.encoder.any.hidden_size": 16,
        "task.model.encoder.any.num_layers": 1,
        "task.train_data.input_path": folder / "examples.tfrecord",
        "task.train_data.global_batch_size": 4,
        "task.train_data.seq_length": 24,
        "task.train_data.max_predictions_per_seq": 3,
        "task.train_data.use_v2_feature_names": "true",
        "trainer.train_steps": 2,
        "trainer.steps_per_loop": 1,
        "trainer.checkpoint_interval": 2,
        "runtime.num_gpus": 0,
    }
    (command,) = re.findall(r"^    python (-m krpe_tf\.garden .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    command = command.replace("train_and_eval", "train").split()
    override = "--params_override=" + ",".join(f"{name}={value}" for name, value in changes.items())
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, *command, override], cwd=folder, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "run" / "ckpt-2.index").exists()


@pytest.mark.slow
def test_the_snippet_of_the_page_runs(checks):
    assert checks["snippet"]["shape"] == [2, 30, 64]
    assert len(checks["snippet"]["biases"]) == 1  # shared


@pytest.mark.slow
def test_what_does_not_fit_is_refused(checks):
    expected = {
        "additive mask": "`attention_mask` must be bool or integer, or hold zeros and ones only",
        "additive mask in a graph": "`attention_mask` must hold zeros and ones only",
        "no bias": "`bias` must be a bias layer of krpe_tf. Received: bias='decay'",
        "keras bias": '`position_bias` must be None, "decay", "bucketed" or a krpe_tf.garden.PositionBias',
        "heads": "as many heads as the attention, 4. Received: position_bias with num_heads=2",
        "axes": "`attention_axes` must be None. Received: attention_axes=(1, 2)",
        "route": '`feature_map="softmax"` needs `route="dense"` or "auto". Received: route=\'fft\'',
        "sizes": "`num_attention_heads` must divide `hidden_size`. Received: num_attention_heads=2, hidden_size=15",
        "type": "`position_bias.type` must be one of None, 'decay', 'bucketed', 'learned'. Received: "
        "position_bias.type='decoy'",
        "not built": "`encoder` must be a built krpe_tf.garden.Encoder. Received: encoder=",
        "no official": f"krpe_tf.garden needs official. Run in a checkout of krpe_tf: {INSTALL}",
    }
    assert checks["refusals"].keys() == expected.keys()
    for name, message in expected.items():
        assert message in checks["refusals"][name]


INSTALL = 'pip install ".[garden]"'


def test_the_page_installs_what_there_is():
    assert re.findall(r"pip install \S+", PAGE.read_text(encoding="utf-8")) == [INSTALL]
    assert '"garden": ' in (ROOT / "setup.py").read_text(encoding="utf-8")


REFUSE = """
import json, os
os.environ["KERAS_BACKEND"] = "jax"
try:
    import krpe_tf.garden
except ImportError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.slow
def test_another_backend_is_refused():
    message = "set KERAS_BACKEND=tensorflow before Keras is imported. Received: backend='jax'"
    assert message in run_python(REFUSE)
