"""Settings by name: from a file, by the command line, and compared with those of an unfinished run."""

import dataclasses
import json
from pathlib import Path

import pytest

from krpe_tf.cli import main
from krpe_tf.models import Encoder
from krpe_tf.models.presets import preset_arguments
from krpe_tf.runs import RunSettings, load_config
from krpe_tf.tasks import TASKS
from krpe_tf.training import make_optimizer

RECIPES = Path(__file__).parent.parent / "benchmarks" / "recipes"


def test_the_paper_config_is_its_table_5():
    settings = RunSettings.from_names(load_config(RECIPES / "paper_masked_lm.json"))
    assert settings.pretrain_steps == 1_000_000
    assert settings.pretrain_batch_size == 2048
    assert settings.pretrain_length == settings.max_length == 512
    assert settings.epochs == 10
    shared = {"decay": "linear", "beta_1": 0.9, "epsilon": 1e-6, "clip_norm": 1.0, "weight_decay": 0.01}
    assert settings.pretrain_optimizer == {**shared, "learning_rate": 2e-4, "warmup_fraction": 0.02, "beta_2": 0.999}
    assert settings.fine_tune_optimizer == {**shared, "learning_rate": 2e-5, "warmup_fraction": 0.06, "beta_2": 0.98}
    encoder = {**preset_arguments(settings.preset), **settings.encoder}
    sizes = ("num_layers", "hidden_dim", "intermediate_dim", "num_heads", "dropout")
    assert [encoder[name] for name in sizes] == [12, 768, 3072, 12, 0.1]
    Encoder.from_preset("tiny", **settings.encoder)
    optimizer = make_optimizer(steps=settings.pretrain_steps, **settings.pretrain_optimizer)
    assert float(optimizer._learning_rate(20_000)) == pytest.approx(2e-4)
    assert float(optimizer._learning_rate(510_000)) == pytest.approx(1e-4)


def test_the_paper_config_of_causal_lm_is_its_section_4_2():
    settings = RunSettings.from_names(load_config(RECIPES / "paper_causal_lm.json"))
    assert (settings.steps, settings.window_length, settings.batch_size) == (150_000, 512, 64)
    encoder = {**preset_arguments(settings.preset), **settings.encoder}
    sizes = ("num_layers", "num_heads", "hidden_dim", "intermediate_dim", "num_features", "dropout")
    assert [encoder[name] for name in sizes] == [6, 8, 512, 2048, 64, 0.1]
    expected = {"beta_1": 0.9, "beta_2": 0.98, "epsilon": 1e-6, "weight_decay": 0.01}
    assert {name: settings.optimizer[name] for name in expected} == expected
    optimizer = make_optimizer(steps=settings.steps, **settings.optimizer)
    rates = [float(optimizer._learning_rate(step)) for step in (3000, 6000, 24_000)]
    assert rates == pytest.approx([1e-3, 2e-3, 1e-3])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"epoch": 3, "vocab": 2}, r"settings must be among preset, .*Received: epoch, vocab"),
        ({"pretrain_optimizer": {"rate": 1}}, r"`pretrain_optimizer` must hold values for beta_1.*Received: .*'rate'"),
        ({"fine_tune_optimizer": {"steps": 9}}, r"`fine_tune_optimizer` must hold values for .*Received: .*'steps'"),
        ({"fine_tune_optimizer": {"learning_rate": 0}}, r"`learning_rate` must.*Received: learning_rate=0"),
        ({"pretrain_optimizer": {"decay": "sudden"}}, r"`decay` must be one of .*Received: decay='sudden'"),
        ({"encoder": {"seed": 3}}, r"`encoder` must hold values for .*Received: encoder={'seed': 3}"),
        ({"encoder": 3}, r"`encoder` must hold values for .*Received: encoder=3"),
        ({"checkpoint_every": 0}, r"`checkpoint_every` must.*Received: checkpoint_every=0"),
        ({"validation_fraction": "0.2"}, r"`validation_fraction` must.*Received: validation_fraction=0.2"),
    ],
)
def test_bad_settings(names, message):
    with pytest.raises(ValueError, match=message):
        RunSettings.from_names(names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "`config` must be valid JSON"),
        ("[1]", "`config` must be a JSON object"),
        (None, "`config` must be a readable"),
    ],
)
def test_bad_config_files(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message + r".*Received: config="):
        load_config(path)


def test_every_setting_has_an_option_with_help_and_its_default(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(RunSettings):
        assert f"--{field.name.replace('_', '-')} " in said
        default = "" if field.default is dataclasses.MISSING else f" (default: {field.default})"
        assert f"{field.metadata['help']}{default}" in said


def test_a_name_means_the_same_in_every_task():
    own = [vars(task.settings).get("__annotations__", {}) for task in TASKS.values()]
    by_class = {task.settings: names for task, names in zip(TASKS.values(), own, strict=True)}
    names = [name for each in by_class.values() for name in each]
    assert len(set(names)) == len(names)
    assert set(names) < {field.name for field in dataclasses.fields(RunSettings)}


def test_the_settings_of_0_1_keep_their_names_and_defaults():
    run = Path(__file__).parent / "saved_by_0_1" / "classifier" / "training.json"
    settings = json.loads(run.read_text(encoding="utf-8"))["settings"]
    made = RunSettings.from_names(settings).to_json()
    assert {name: made[name] for name in settings} == settings
    assert not RunSettings.from_names(settings).differences(settings)
    # What a later version adds had its default.
    del settings["keep_checkpoints"], settings["batch_tokens"]
    assert RunSettings.from_names(settings).differences(settings) == []


def test_no_optimizer_is_made_to_check_numbers(monkeypatch):
    def refuse(*arguments, **more):
        raise AssertionError("JAX must not compute before its processes have met")

    monkeypatch.setattr("keras.optimizers.AdamW.__init__", refuse)
    assert RunSettings(pretrain_optimizer={"clip_norm": 2.0}).pretrain_optimizer["clip_norm"] == 2.0


@pytest.mark.parametrize("pair", ["learning_rate", "=3", "rate=3"])
def test_bad_options_for_an_optimizer(tmp_path, capsys, pair):
    (tmp_path / "documents.csv").write_text("text,label\na,b\nc,d\n")
    arguments = [str(tmp_path / "documents.csv"), "--output", str(tmp_path / "run"), "--pretrain-optimizer", pair]
    assert main(["train", *arguments]) == 2
    assert "`pretrain_optimizer` must" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_differences_are_named():
    settings = RunSettings(epochs=2, keep_checkpoints=5, pretrain_optimizer={"learning_rate": 0.01})
    other = json.loads(json.dumps(RunSettings(encoder={"dropout": 0.0}).to_json()))
    assert settings.differences(other) == [
        "encoder.dropout=None (the run has 0.0)",
        "epochs=2 (the run has 4)",
        "pretrain_optimizer.learning_rate=0.01 (the run has 0.002)",
    ]
    assert not settings.differences(settings.to_json())
