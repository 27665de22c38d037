"""Exported language models: one .tflite that reads pieces and writes tokens, and the same packed for LiteRT-LM."""

import json
import re
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest
from definition import randomize

from krpe_tf import DecayBias, LearnedBias2D
from krpe_tf.export import LiteRTGenerator, export_generator, export_litertlm, export_tflite, generator_summary
from krpe_tf.export.litert_generator import make_sampler
from krpe_tf.export.samples import SAMPLE_TEXTS
from krpe_tf.models import CausalLM, Encoder, TextEmbedder, samplers
from krpe_tf.text import ByteTokenizer, PieceTokenizer, train_pieces

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports trace on TensorFlow")

ROOT = Path(__file__).parent.parent
PROMPT = "The attention of a phone is"


@pytest.fixture(scope="module")
def tokenizer():
    return PieceTokenizer(train_pieces(SAMPLE_TEXTS, 400))


def make(vocabulary_size, **arguments):
    """A model with weights large enough to write something else at every token."""
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 64, "num_features": 16, "seed": 1}
    arguments = {"position_bias": randomize(DecayBias(2, radius=5)), "causal": True, **arguments}
    model = CausalLM(Encoder(vocabulary_size, **{**sizes, **arguments}))
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1 and "bias" not in weight.path:
            weight.assign(weight + 0.3 * random.standard_normal(weight.shape).astype("float32"))
    return model


@pytest.fixture(scope="module")
def model(tokenizer):
    return make(tokenizer.vocabulary_size)


@pytest.fixture(scope="module")
def exported(model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.tflite"
    return path, export_generator(model, path, prefill=(16, 100), tokenizer=tokenizer)


def test_the_report_says_what_was_written_and_compared(exported, model, tokenizer):
    path, report = exported
    assert set(report.max_error) == {"decode", "prefill_16", "prefill_100", "1000 tokens"}
    assert max(report.max_error.values()) < 1e-5
    assert report.highest_rank <= 4
    # The ids come as integers, and are looked up: no delegate for floats takes that. All else XNNPACK does.
    assert report.outside_xnnpack["decode"] == {"CAST": 2, "GATHER": 1}
    assert report.state_bytes == sum(4 * np.asarray(x).size for x in model.initial_state(1).values())
    # The embedding, which is the head too, is there once.
    assert report.weight_bytes < 4 * model.count_params() + 60_000
    assert report.costs.decode_milliseconds > 0
    assert set(report.costs.prefill_tokens) == {"prefill_16", "prefill_100"}
    names = sorted(each.name for each in path.parent.iterdir())
    endings = ["report.json", "report.md", "spiece.model", "tflite", "tokenizer_config.json"]
    assert names == [f"model.{ending}" for ending in endings]
    assert json.loads((path.parent / "model.report.json").read_text()) == json.loads(json.dumps(asdict(report)))
    assert (path.parent / "model.spiece.model").read_bytes() == tokenizer.model
    assert any("KB at any length" in line for line in generator_summary(report))


def test_it_writes_what_keras_writes(exported, model, tokenizer):
    generator = LiteRTGenerator(exported[0])
    assert (generator.prefill, generator.vocabulary_size) == ([16, 100], tokenizer.vocabulary_size)
    # Greedy text of a model that was not trained soon repeats itself, each another one.
    prompts = np.concatenate(tokenizer.encode(SAMPLE_TEXTS))[:240].reshape(12, 20)
    texts = model.generate(prompts, 150)[:, 20:].tolist()
    assert [list(generator.stream(prompt, 130)) for prompt in prompts] == texts
    assert len(set(np.ravel(texts))) > 20
    prompt, expected = prompts[0], texts[0]
    stop = expected[7]
    assert list(generator.stream(prompt, 100, stop_token_ids=[stop])) == expected[: expected.index(stop) + 1]
    pairs = [
        (samplers.Random(0.7), {"sampler": "random", "temperature": 0.7}),
        (samplers.TopK(5), {"sampler": "top_k", "top_k": 5}),
        (samplers.TopP(0.8, 1.5), {"sampler": "top_p", "top_p": 0.8, "temperature": 1.5}),
    ]
    # From the same logits: two tokens that are almost as probable may be ordered by what rounding makes of the model.
    uniforms = np.random.default_rng(3).random(60, "float32")[len(prompt) :]
    for sampler, arguments in pairs:
        found = list(generator.stream(prompt, len(uniforms), seed=3, **arguments))
        session = generator.session()
        session.read(prompt[:-1])
        logits = np.stack([session.decode(token) for token in [prompt[-1], *found[:-1]]])
        assert found == np.asarray(sampler.choose(logits, uniforms)).tolist()
        assert len(set(found)) > 10
        prompt_of_words = tokenizer.encode([PROMPT])[0][:-1]
        expected = model.generate(prompt_of_words[None], 60, sampler, seed=3)[0, len(prompt_of_words) :].tolist()
        assert list(generator.stream(prompt_of_words, 60 - len(prompt_of_words), seed=3, **arguments)) == expected


@pytest.mark.parametrize("size", [1, 5, 3000])
def test_a_draw_is_that_of_all_tokens_in_order(size):
    """Whatever is not sorted: many equal logits, flat and steep ones, impossible tokens."""
    random = np.random.default_rng(size)
    choices = [
        {"sampler": "random", "temperature": 0.5},
        *({"sampler": "top_k", "top_k": k} for k in (1, 4, 40, 10_000)),
        *({"sampler": "top_p", "top_p": p, "temperature": 2.0} for p in (1e-6, 0.5, 0.95, 1.0)),
        {"sampler": "top_p", "top_p": 0.9, "top_k": 7},
    ]
    for scale in (0, 0.1, 3, 30):
        logits = np.round(scale * random.standard_normal(size, np.float32), 1)
        logits[1:][random.random(size - 1) < 0.2] = -np.inf
        for options in choices:
            scaled = (logits - logits.max()) / np.float32(options.get("temperature", 1))
            ids = np.argsort(-scaled, kind="stable")[: options.get("top_k")]
            shares = np.cumsum(np.exp(scaled[ids]))
            wanted = np.float32(options.get("top_p", np.inf)) * np.exp(scaled).sum()
            shares = shares[np.append(0, shares[:-1]) < wanted]
            choose = make_sampler(**options)
            for uniform in (np.float32(0), np.nextafter(np.float32(1), np.float32(0)), *random.random(5, "float32")):
                expected = ids[np.searchsorted(shares, uniform * shares[-1], side="right")]
                assert choose(logits, uniform) == expected, (scale, options, uniform)


def test_a_long_prompt_is_read_in_pieces_of_any_size(exported, model):
    generator = LiteRTGenerator(exported[0])
    ids = np.random.default_rng(0).integers(1, generator.vocabulary_size, 283)
    session = generator.session()
    session.read(ids[:-1])
    expected = np.asarray(model.step(ids[None], model.initial_state(1))[0])[0, -1]
    assert np.abs(session.decode(ids[-1]) - expected).max() < 1e-5 * np.abs(expected).max()
    assert session.position == 283


def test_sessions_and_threads_do_not_mix(exported):
    generator, results = LiteRTGenerator(exported[0]), {}
    expected = [list(generator.stream([5 + i, 7], 30)) for i in range(4)]

    def write(i):
        results[i] = [list(generator.stream([5 + i, 7], 30)) for _ in range(3)]

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: [expected[i]] * 3 for i in range(4)}
    streams = [generator.stream([5 + i, 7], 30) for i in range(4)]
    assert [list(ids) for ids in zip(*streams, strict=True)] == np.transpose(expected).tolist()


def test_a_copy_of_the_file_runs_where_there_is_neither_tensorflow_nor_krpe_tf(exported, tmp_path):
    """And its memory does not grow: 20,000 tokens are read and 2,000 written after the first measurement."""
    (tmp_path / "litert_generator.py").write_text((ROOT / "export" / "litert_generator.py").read_text())
    code = f"""
import sys
for name in ("tensorflow", "keras", "krpe_tf"):
    sys.modules[name] = None
from litert_generator import LiteRTGenerator
def memory():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
generator = LiteRTGenerator({str(exported[0])!r})
print(list(generator.stream([5, 7], 30)))
before = memory()
list(generator.stream([5, 7] * 10_000, 2000))
print(memory() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ids, grown = done.stdout.splitlines()
    assert json.loads(ids) == list(LiteRTGenerator(exported[0]).stream([5, 7], 30))
    assert int(grown) < 2048, f"{grown} KiB"


@pytest.mark.parametrize("quantization", ["float16", "int8"])
def test_smaller_weights(quantization, model, exported, tmp_path):
    path = tmp_path / "model.tflite"
    report = export_generator(model, path, prefill=(16,), quantization=quantization, measure=False)
    assert report.bytes < exported[1].bytes
    assert report.costs is None
    assert 1e-5 < max(report.max_error.values()) < report.tolerance
    # The table in half precision is unpacked when the file is loaded.
    assert report.outside_xnnpack["decode"].keys() <= {"CAST", "EMBEDDING_LOOKUP", "RESHAPE", "DEQUANTIZE"}
    assert len(list(LiteRTGenerator(path).stream([5, 7], 5))) == 5


def test_what_does_not_agree_is_not_written(model, tmp_path):
    with pytest.raises(ValueError, match=r"must agree with the Keras model, and nothing was written.*prefill_16"):
        export_generator(model, tmp_path / "model.tflite", prefill=(16,), tolerance=1e-12, measure=False)
    assert not list(tmp_path.iterdir())


SESSIONS = """
import json, sys
import litert_lm
litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
path, prompt, long, more = json.load(sys.stdin)
engine = litert_lm.Engine(path, backend=litert_lm.Backend.CPU(thread_count=1))
def open_session(**options):
    return engine.create_session(apply_prompt_template=False, **options)
def memory():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
answer = {"ids": [engine.tokenize(prompt), engine.tokenize(long)], "texts": [], "scores": []}
for _ in range(2):
    session = open_session(max_output_tokens=40)
    session.run_prefill([prompt])
    answer["texts"].append(session.run_decode().texts[0])
    session.close()
    session = open_session()
    session.run_prefill([prompt])
    session.run_prefill([more])
    answer["scores"].append(session.run_text_scoring([prompt]).scores[0])
    session.close()
before = memory()
session = open_session(max_output_tokens=8)
session.run_prefill([long])
answer["texts"].append(session.run_decode().texts[0])
answer["grown"] = memory() - before
print(json.dumps(answer))
"""


def test_litert_lm_writes_what_keras_writes(exported, model, tokenizer, tmp_path):
    """Two sessions, each after another text; two turns; and a prompt of 31,000 tokens, in the same memory."""
    path = tmp_path / "model.litertlm"
    export_litertlm(exported[0], path, tokenizer)
    long = " ".join(SAMPLE_TEXTS * 80)
    request = json.dumps([str(path), PROMPT, long, " and"])
    done = subprocess.run(
        [sys.executable, "-c", SESSIONS], input=request, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    prompt, text = (tokenizer.encode([each])[0][:-1] for each in (PROMPT, long))
    assert answer["ids"] == [prompt[1:].tolist(), text[1:].tolist()]
    assert len(text) > 31_000

    def continued(ids, count):
        written = model.generate(ids[None], len(ids) + count, stop_token_ids=[tokenizer.end_id])[0, len(ids) :]
        return tokenizer.decode(written)

    # Of bytes that no UTF-8 has, each is one U+FFFD there, and several may be one here.
    found = [re.sub("\ufffd+", "\ufffd", each) for each in answer["texts"]]
    expected = [continued(prompt, 40)] * 2 + [continued(text, 8)]
    assert found == [re.sub("\ufffd+", "\ufffd", each) for each in expected]
    turns = np.concatenate([prompt, tokenizer.encode([" and"])[0][1:-1], prompt[1:]])
    expected = model.score(turns[None])[0, 1 - len(prompt) :].sum()
    np.testing.assert_allclose(answer["scores"], [expected] * 2, rtol=1e-4)
    # A cache would hold 16 MB of keys and values.
    assert answer["grown"] < 8_000, f"{answer['grown']} KiB"


def test_bad_arguments_are_refused_before_any_work(model, tokenizer, exported, tmp_path):
    path = tmp_path / "model.tflite"
    plane = make(50, position_bias=LearnedBias2D(2, 3, 3))
    wrong = [
        (r"`model` must be a CausalLM.*Received: model=", {"model": TextEmbedder(model.encoder)}),
        (r"decoding needs `causal=True`", {"model": plane}),
        (r"`prefill` must hold distinct integers.*Received: prefill=\(0,\)", {"prefill": (0,)}),
        (r"`prefill` must hold distinct integers of 1 or more. Received: prefill=\(None,\)", {"prefill": (None,)}),
        (r"`model` must take any length. Received: an Encoder with length=64", {"model": make(50, length=64)}),
        (r"`quantization` of a language model must be None, 'float16' or 'int8'", {"quantization": "int8_static"}),
        (r"`tolerance` must be a number above 0", {"tolerance": 0}),
        (r"`measure` must be True or False", {"measure": 1}),
        (r"`tokenizer` must be a ByteTokenizer, a PieceTokenizer or None", {"tokenizer": object()}),
        (r"`tokenizer` must have the 50 tokens", {"model": make(50), "tokenizer": tokenizer}),
    ]
    for message, arguments in wrong:
        with pytest.raises(ValueError, match=message):
            export_generator(**{"model": model, "path": path, **arguments})
    with pytest.raises(ValueError, match=r"`export_generator` exports a language model"):
        export_tflite(model, path)
    with pytest.raises(ValueError, match=r"`tokenizer` must be a PieceTokenizer.*Received: tokenizer="):
        export_litertlm(exported[0], tmp_path / "model.litertlm", ByteTokenizer())
    for other in (exported[0].parent / "model.report.json", tmp_path / "none", ROOT / "tests" / "saved_by_0_1"):
        with pytest.raises(ValueError, match=r"`model` must be a CausalLM, or the path of a file"):
            export_litertlm(other, tmp_path / "model.litertlm", tokenizer)
    with pytest.raises(ValueError, match=r"`max_tokens` must be an integer of at least 1"):
        export_litertlm(exported[0], tmp_path / "model.litertlm", tokenizer, max_tokens=0)
    for wrong in ({"max_tokens": 2**31}, {"quantization": "int8"}, {"prefill": (16,)}, {"model": None}):
        with pytest.raises(ValueError, match=rf"`{next(iter(wrong))}` must be"):
            export_litertlm(**{"model": exported[0], "path": tmp_path / "m", "tokenizer": tokenizer, **wrong})
    assert not list(tmp_path.iterdir())


def test_bad_input_of_a_generator_raises(exported):
    generator = LiteRTGenerator(exported[0])
    size = generator.vocabulary_size
    wrong = [
        (r"`token_ids` must hold at least one token", {"token_ids": []}),
        (rf"`token_ids` must lie in the vocabulary, from 0 to {size - 1}", {"token_ids": [size]}),
        (r"`token_ids` must be a list of integers", {"token_ids": [[1]]}),
        (r"`token_ids` must be a list of integers", {"token_ids": [[1], [2, 3]]}),
        (r"must not start a text with 0", {"token_ids": [0, 1]}),
        (r"`max_tokens` must be an integer of at least 1", {"max_tokens": 0}),
        (r"`sampler` must be one of 'greedy', 'random', 'top_k', 'top_p'", {"sampler": "beam"}),
        (r"`temperature` must be a number from 1e-6 to 1e6", {"sampler": "random", "temperature": 0}),
        (r"`top_k` must be an integer of at least 1", {"sampler": "top_k", "top_k": 0}),
        (r"`top_p` must be a number above 0 and at most 1", {"sampler": "top_p", "top_p": 1.1}),
        (r"`top_p` must be left out with sampler='random'. Received: top_p=0.9", {"sampler": "random", "top_p": 0.9}),
        (r"`stop_token_ids` must lie in the vocabulary", {"stop_token_ids": [-1]}),
        (r"`seed` must be None or an integer of at least 0", {"seed": -1}),
    ]
    for message, arguments in wrong:
        with pytest.raises(ValueError, match=message):
            generator.stream(**{"token_ids": [1], "max_tokens": 3, **arguments})
    with pytest.raises(ValueError, match=r"must not start a text with 0"):
        generator.session().read([0])
    with pytest.raises(ValueError, match=r"`path` must be the path of a .tflite file. Received: path=None"):
        LiteRTGenerator(None)
    with pytest.raises(ValueError, match=r"`num_threads` must be an integer of 1 or more"):
        LiteRTGenerator(exported[0], num_threads=0)
    with pytest.raises(ValueError, match=r"`path` must be a .tflite file"):
        LiteRTGenerator(exported[0].parent / "model.report.json")
