"""`generate`: text as it comes, the same with a seed, what is refused before a model is loaded, and from the export."""

import functools
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from trained_run import documents

from krpe_tf.cli import main
from krpe_tf.data import open_source
from krpe_tf.models import CausalLM
from krpe_tf.models.samplers import get_sampler
from krpe_tf.runs import export as export_module
from krpe_tf.runs import export_run, generate_run, load_run, predict_run, train_run
from krpe_tf.runs import generate as module
from krpe_tf.text import ByteTokenizer

# All of it is of one trained run.
pytestmark = pytest.mark.slow

SIZES = {"preset": "tiny", "encoder": {"num_layers": 1}, "vocabulary_size": 320, "window_length": 32, "steps": 30}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that writes pieces, not exported."""
    folder = tmp_path_factory.mktemp("generate")
    (folder / "texts").mkdir()
    for index, (text, _) in enumerate(documents(20)):
        (folder / "texts" / f"{index}.txt").write_text(text.replace("old", "öld 🙂"), encoding="utf-8")
    train_run(open_source(folder / "texts", ("text",)), folder / "run", task="causal_lm", **SIZES)
    return folder / "run"


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """Load a run once, so that its programs are compiled once."""
    cached = functools.cache(load_run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_run", cached)
        yield cached


@pytest.fixture
def never_loaded(monkeypatch):
    monkeypatch.setattr(module, "load_run", lambda run: pytest.fail("a model was loaded"))


def test_text_comes_in_whole_characters_and_is_that_of_the_model(run, loaded):
    model, tokenizer, _ = loaded(run)
    text = generate_run(run, "the ö", max_tokens=40, sampler="greedy")
    parts = list(text)
    prompt = tokenizer.encode(["the ö"])[0][:-1]
    expected = model.generate(prompt[None], len(prompt) + 40, stop_token_ids=[tokenizer.end_id])[0, len(prompt) :]
    assert "".join(parts) == tokenizer.decode(expected)
    assert len(parts) > 10
    assert text.tokens == np.count_nonzero(expected)
    assert 0 < text.first_seconds < text.seconds
    assert text.tokens_per_second == pytest.approx((text.tokens - 1) / (text.seconds - text.first_seconds))
    assert list(text) == []


def test_half_a_character_waits_and_the_end_is_not_shown(run, monkeypatch):
    def stream(model, ids, max_tokens, sampler, stop_token_ids, seed):
        assert ids.tolist() == [2]  # An empty prompt is the start alone.
        yield from [4 + byte for byte in "é🙂".encode()[:5]] + [3]

    monkeypatch.setattr("krpe_tf.models.CausalLM.stream", stream)
    assert list(generate_run(run)) == ["é", "\ufffd"]


def test_a_seed_gives_the_same_text_again(run):
    texts = ["".join(generate_run(run, "the", max_tokens=30, sampler="random", seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("name", "options", "config"),
    [
        ("greedy", {}, {}),
        ("random", {}, {"temperature": 0.8}),
        ("top_k", {"top_k": 7, "temperature": 2}, {"k": 7, "temperature": 2}),
        ("top_p", {"top_k": 7, "top_p": 0.5}, {"k": 7, "p": 0.5, "temperature": 0.8}),
    ],
)
def test_what_is_given_reaches_the_sampler(run, monkeypatch, name, options, config):
    found = []
    monkeypatch.setattr("krpe_tf.models.CausalLM.stream", lambda model, ids, count, sampler, **_: found.append(sampler))
    monkeypatch.setattr("krpe_tf.models.CausalLM.can_decode", True)
    monkeypatch.setattr(module, "load_run", lambda run: [CausalLM.__new__(CausalLM)])
    generate_run(run, sampler=name, **options)
    assert type(found[0]) is type(get_sampler(name))
    assert found[0].get_config().items() >= config.items()


def test_the_command_line(run, capsys, tmp_path):
    expected = "".join(
        generate_run(run, "the ship", max_tokens=20, sampler="top_p", temperature=0.5, top_p=0.8, seed=3)
    )
    options = ["--max-tokens", "20", "--sampler", "top_p", "--temperature", "0.5", "--top-p", "0.8", "--seed", "3"]
    assert main(["generate", str(run), "the ship", *options]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"the ship{expected}\n"
    assert re.fullmatch(r"\d+ tokens: the first in \d+\.\d\d s, then [\d,]+ tokens/s\n", captured.err)
    (tmp_path / "prompt.txt").write_text("the s", encoding="utf-8")
    assert main(["generate", str(run), "hip", "--file", str(tmp_path / "prompt.txt"), *options]) == 0
    assert capsys.readouterr().out == f"hip{expected}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "\udcff"}, r"`prompt` must be valid UTF-8 \(surrogates not allowed\). Received: prompt="),
        ({"prompt": b"\xff"}, r"`prompt` must be valid UTF-8 \(invalid start byte\). Received: prompt="),
        ({"prompt": 3}, r"`prompt` must be a text. Received: prompt=3"),
        ({"sampler": "best"}, r"`sampler` must be one of 'greedy', .*Received: sampler='best'"),
        ({"sampler": "beam"}, r"`sampler` must choose token by token; .*Received: sampler='beam'"),
        ({"sampler": "greedy", "temperature": 0.8}, r"`temperature` must be left out with sampler='greedy'"),
        ({"sampler": "top_k", "top_p": 0.8}, r"`top_p` must be left out with sampler='top_k'. Received: top_p=0.8"),
        ({"temperature": 0.0}, r"`temperature` must be a number from 1e-6 to 1e6; .*Received: temperature=0.0"),
        (
            {"temperature": float("nan")},
            r"`temperature` must be a number from 1e-6.*Received: temperature=nan",
        ),
        ({"top_p": 1.5}, r"`top_p` must be a number above 0 and at most 1. Received: top_p=1.5"),
        ({"top_k": 0}, r"`top_k` must be an integer of at least 1. Received: top_k=0"),
        ({"max_tokens": 0}, r"`max_tokens` must be an integer of at least 1. Received: max_tokens=0"),
        ({"seed": -1}, r"`seed` must be an integer of at least 0. Received: seed=-1"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(run, never_loaded, options, message):
    with pytest.raises(ValueError, match=message):
        generate_run(run, **options)


def test_an_exported_run_writes_the_same_text_without_the_keras_model(run, loaded, never_loaded, tmp_path, capsys):
    exported = shutil.copytree(run, tmp_path / "run")
    assert main(["export", str(exported), "--no-measure"]) == 0
    assert f"{exported}: model.tflite, model.litertlm" in capsys.readouterr().out
    assert (exported / "model.litertlm").stat().st_size > (exported / "model.tflite").stat().st_size
    # A later export that fails leaves both files, and one that does not removes what LiteRT-LM kept of the old one.
    (exported / "model.litertlm_1.xnnpack_cache").write_text("of the old file")
    before = {path.name: path.read_bytes() for path in exported.glob("model.litert*")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "export_litertlm", full_disk)
        with pytest.raises(OSError, match="no space"):
            export_run(exported, measure=False)
    assert {path.name: path.read_bytes() for path in exported.glob("model.litert*")} == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "export_generator", lambda *_, **__: None)
        export_run(exported, measure=False)
    assert sorted(path.name for path in exported.glob("model.litert*")) == ["model.litertlm"]
    for name in ("model.keras", "training.json"):
        (exported / name).unlink()
    for options in ({"sampler": "greedy"}, {"temperature": 0.7, "top_k": 30, "seed": 5}):
        text = "".join(generate_run(exported, "the ö", max_tokens=40, **options))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "load_run", loaded)
            assert text == "".join(generate_run(run, "the ö", max_tokens=40, **options))
    with pytest.raises(ValueError, match=r"`lengths` must be left out for the task 'causal_lm'.*lengths=\[64\]"):
        export_run(run, lengths=[64])


def test_the_speed_is_that_of_the_model_however_slow_the_reader_is():
    text = module.GeneratedText(iter(range(65, 75)), ByteTokenizer())
    for _ in text:
        time.sleep(0.01)
    assert text.tokens == 10
    assert text.tokens_per_second > 1000


def full_disk(*arguments, **options):
    raise OSError("no space")


def test_who_closes_the_pipe_has_enough(run, loaded):
    command = [sys.executable, "-m", "krpe_tf", "generate", str(run), "the", "--max-tokens", "3000"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout.read(3) == b"the"
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert b"error" not in said


def test_a_pipe_of_our_own_that_breaks_is_an_error(run, monkeypatch, capsys):
    def broken(*arguments, **options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("krpe_tf.runs.generate_run", broken)
    assert main(["generate", str(run), "a"]) == 1
    assert "error: [Errno 32] Broken pipe" in capsys.readouterr().err


def test_a_model_that_cannot_decode_is_refused(run, loaded, monkeypatch):
    monkeypatch.setattr(CausalLM, "can_decode", False)
    with pytest.raises(ValueError, match=r"`run` must hold a model that decodes: .*with feature_map='orthogonal'"):
        generate_run(run)


def test_runs_of_other_kinds_are_refused(run, never_loaded, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"`run` must be a folder that `train` wrote, it does not exist"):
        generate_run(tmp_path / "nowhere")
    assert main(["generate", str(tmp_path), "a"]) == 2
    assert "`run` must be a folder that `train` wrote" in capsys.readouterr().err
    other = shutil.copytree(run, tmp_path / "run")
    (other / "task.json").write_text('{"task": "masked_lm"}')
    with pytest.raises(ValueError, match=r"`run` must be of a task that writes, 'masked_lm' does not"):
        generate_run(other)
    with pytest.raises(ValueError, match=r"'causal_lm' does not; take `generate`"):
        predict_run(run, ["a"])
