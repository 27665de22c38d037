"""Exported models of translation: one .tflite that reads a source and writes its target, greedily or by beams."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest
from definition import randomize

from krpe_tf import DecayBias
from krpe_tf.export import LiteRTGenerator, LiteRTTranslator, export_translator, generator_summary
from krpe_tf.export.litert_translator import Tokenizer
from krpe_tf.export.samples import SAMPLE_TEXTS
from krpe_tf.export.vocabulary import vocabulary_files
from krpe_tf.models import EncoderDecoder, samplers
from krpe_tf.text import ByteTokenizer, PieceTokenizer, train_pieces

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports trace on TensorFlow")

ROOT = Path(__file__).parent.parent
SOURCES = ["The sea is calm.", "\u2581 odd \U0001f642\n", "A ship and an old wave of the sea."]


@pytest.fixture(scope="module")
def tokenizer():
    return PieceTokenizer(train_pieces(SAMPLE_TEXTS, 330))


def make(vocabulary_size, **arguments):
    """A model with weights large enough to write something else at every token."""
    keras.utils.set_random_seed(0)
    bias = {"encoder_position_bias": randomize(DecayBias(2, 5)), "decoder_position_bias": randomize(DecayBias(2, 3))}
    model = EncoderDecoder(vocabulary_size, 1, 2, 2, 16, 24, num_features=8, seed=1, **{**bias, **arguments})
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
    return path, export_translator(model, path, lengths=(48, 16), tokenizer=tokenizer, num_beams=3)


@pytest.fixture(scope="module")
def translator(exported):
    return LiteRTTranslator(exported[0])


def test_the_report_says_what_was_written_and_compared(exported, model):
    path, report = exported
    readings = ["1000 tokens", "encode_48 of 48", "encode_48 of 24", "encode_16 of 16", "encode_16 of 8", "decode_3"]
    assert list(report.max_error) == readings
    assert max(report.max_error.values()) < 1e-5
    assert set(report.signature_ops) == {"encode_16", "encode_48", "decode", "decode_3"}
    assert report.highest_rank <= 4
    assert report.outside_xnnpack["decode"] == report.outside_xnnpack["decode_3"] == {"GATHER": 1}
    # The weights are there once, and each encoder's own constants of its length.
    assert report.weight_bytes < 4 * model.count_params() + 60_000
    state = {name: 4 * np.asarray(x).size for name, x in model.initial_state(np.ones((1, 7), "int32")).items()}
    assert report.source_bytes == sum(size for name, size in state.items() if "cross" in name)
    assert report.state_bytes == sum(state.values()) - report.source_bytes
    assert set(report.costs.prefill_tokens) == {"encode_16", "encode_48"}
    assert json.loads((path.parent / "model.report.json").read_text()) == json.loads(json.dumps(asdict(report)))
    assert any("Of a source" in line for line in generator_summary(report))


def test_it_writes_what_keras_writes(translator, model, tokenizer):
    """Sources of both signatures; searches of more beams than a signature reads at once, and of as many."""
    assert (translator.lengths, translator.rows) == ([16, 48], [1, 3])
    sources = [each.tolist() for each in tokenizer.encode([*SOURCES, ""])]
    assert min(map(len, sources)) <= 16 < max(map(len, sources))
    mask = np.arange(48) < np.array([[len(each)] for each in sources])
    ids = np.zeros(mask.shape, "int32")
    ids[mask] = np.concatenate(sources)
    stops = list(range(3, tokenizer.vocabulary_size, 40))  # Of a model that was not trained, one is seldom likely.
    searches = [
        (samplers.Greedy(), {"sampler": "greedy"}),
        (samplers.Beam(5, 1.2, 1.0), {}),
        (samplers.Beam(3, 0.6), {"num_beams": 3, "length_penalty": 0.6, "patience": None}),
    ]
    found = []
    for sampler, options in searches:
        expected = model.generate(ids, mask, 12, sampler, start_token_id=4, stop_token_ids=stops, pad_id=0)
        options = {"max_tokens": 12, "start_token_id": 4, "stop_token_ids": stops, **options}
        found += [translator.translate_ids(each, **options) for each in sources]
        assert [each + [0] * (12 - len(each)) for each in found[-len(sources) :]] == expected.tolist()
    assert len(set(map(tuple, found))) > len(sources)
    assert {len(each) for each in found} > {12}  # Some end before, some do not.


def test_its_tokenizer_is_that_of_the_run(translator, tokenizer, tmp_path):
    texts = [*SOURCES, "", " a  b\n\n\tC\r\n ", "\0\U0010ffff <s> <0x41>", *SAMPLE_TEXTS]
    (tmp_path / "bytes.tokenizer_config.json").write_bytes(vocabulary_files(ByteTokenizer())["tokenizer_config.json"])
    for one, other in ((translator.tokenizer, tokenizer), (Tokenizer(tmp_path / "bytes.tflite"), ByteTokenizer())):
        ids = [each.tolist() for each in other.encode(texts)]
        assert [one.encode(text) for text in texts] == ids
        assert [one.decode(each) for each in ids] == texts
        odd = np.random.default_rng(0).integers(0, other.vocabulary_size, 200).tolist()
        assert one.decode(odd) == other.decode(odd)


def test_a_copy_of_the_file_runs_where_there_is_neither_tensorflow_nor_krpe_tf(exported, translator, tmp_path):
    """And its memory does not grow: 2,000 tokens are written by three beams after the first measurement."""
    (tmp_path / "litert_translator.py").write_text((ROOT / "export" / "litert_translator.py").read_text())
    code = f"""
import json, sys
for name in ("tensorflow", "keras", "krpe_tf"):
    sys.modules[name] = None
from litert_translator import LiteRTTranslator
def memory():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
translator = LiteRTTranslator({str(exported[0])!r})
print(json.dumps(translator({SOURCES!r}, max_tokens=12)))
session = translator.session([5] * 48, 3)
for rows in ([0, 0, 1], [2, 1, 0]):
    session.decode([7, 8, 9]), session.follow(rows)
before = memory()
for token in range(2000):
    session.decode([7, 8, token % 300]), session.follow([2, 0, 1])
print(memory() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts, grown = done.stdout.splitlines()
    assert json.loads(texts) == translator(SOURCES, max_tokens=12)
    assert int(grown) < 2048, f"{grown} KiB"


def test_translations_follow_others(translator):
    """Rows change places, across the calls that more rows than a signature has need."""
    session = translator.session([5, 6, 7], num_rows=5)
    first, parents, then = [4, 5, 6, 7, 8], [4, 4, 0, 2, 1], [9, 10, 11, 12, 13]
    session.decode(first)
    session.follow(parents)
    found = session.decode(then)
    for row, (parent, token) in enumerate(zip(parents, then, strict=True)):
        alone = translator.session([5, 6, 7])
        alone.decode([first[parent]])
        np.testing.assert_allclose(found[row], alone.decode([token])[0], atol=1e-5)


def test_a_long_source_is_read_in_memory_that_is_given_back(translator, monkeypatch):
    expected = translator.session([5, 6, 7] * 16).decode([4])
    monkeypatch.setattr("krpe_tf.export.litert_translator.LONGEST_KEPT", 16)
    np.testing.assert_allclose(translator.session([5, 6, 7] * 16).decode([4]), expected, atol=1e-5)
    size = translator.vocabulary_size
    with pytest.raises(ValueError, match=rf"`source_ids` must lie in the vocabulary .*from {size} to {size}"):
        translator.session([size] * 20)


def test_smaller_weights(exported, tmp_path):
    """Of a model of two vocabularies whose encoder has the exact kernel."""
    path, model = tmp_path / "model.tflite", make(330, source_vocabulary_size=60, encoder_feature_map="softmax")
    report = export_translator(model, path, lengths=(16,), quantization="int8", measure=False)
    assert report.bytes < exported[1].bytes
    assert 1e-5 < max(report.max_error.values()) < report.tolerance
    assert report.costs is None
    translator = LiteRTTranslator(path)
    assert len(translator.translate_ids([5, 7], max_tokens=4, stop_token_ids=[])) == 4
    with pytest.raises(ValueError, match=r"`texts` need the tokenizer .*Received: no .*model.tokenizer_config.json"):
        translator(["a"])


def test_bad_arguments_are_refused_before_any_work(model, tokenizer, exported, tmp_path):
    path = tmp_path / "model.tflite"
    wrong = [
        (r"`model` must be an EncoderDecoder. Received: model=1", {"model": 1}),
        (
            r"memory that depends on no length.*cross_feature_map='softmax'",
            {"model": make(9, cross_feature_map="softmax")},
        ),
        (r"memory .*decoder_feature_map='softmax'", {"model": make(9, decoder_feature_map="softmax")}),
        (r"memory .*absolute_positions=50", {"model": make(9, absolute_positions=50)}),
        (r"`model` must write any length. Received: an EncoderDecoder with length=8", {"model": make(9, length=8)}),
        (r"`lengths` must hold distinct integers of 1 or more. Received: lengths=\(None,\)", {"lengths": (None,)}),
        (r"`lengths` must be \(8,\), the one length", {"model": make(9, source_length=8)}),
        (r"`num_beams` must be an integer of at least 1. Received: num_beams=0", {"num_beams": 0}),
        (r"`quantization` of a language model must be None, 'float16' or 'int8'", {"quantization": "int8_static"}),
        (r"`tolerance` must be a number above 0", {"tolerance": 0}),
        (r"`tokenizer` must have the 9 tokens", {"model": make(9), "tokenizer": tokenizer}),
        (
            r"`tokenizer` must be None for a model with two",
            {"model": make(9, source_vocabulary_size=9), "tokenizer": tokenizer},
        ),
    ]
    for message, arguments in wrong:
        with pytest.raises(ValueError, match=message):
            export_translator(**{"model": model, "path": path, **arguments})
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"must be a file that `export_generator` wrote"):
        LiteRTGenerator(exported[0])
    with pytest.raises(ValueError, match=r"`path` must be a .tflite file"):
        LiteRTTranslator(exported[0].parent / "model.report.json")


def test_bad_input_of_a_translator_raises(translator):
    wrong = [
        (r"`texts\[1\]` must have from 1 to 48 tokens, .*Received: 2\d\d tokens", {"texts": ["a", "b\u1234" * 60]}),
        (r"`texts` must be a list of texts: wrap one text in \[\]. Received: texts='a'", {"texts": "a"}),
        (r"`texts` must hold str of valid Unicode. Received: texts\[0\]='\\ud800'", {"texts": ["\ud800"]}),
        (r"`sampler` must be one of 'beam', 'greedy'. Received: sampler='top_p'", {"sampler": "top_p"}),
        (r"`num_beams` must be an integer of at least 1. Received: num_beams=0", {"num_beams": 0}),
        (r"`length_penalty` must be a number of at least 0", {"length_penalty": -1}),
        (r"`patience` must be None or a number above 0", {"patience": 0}),
        (r"`max_tokens` must be an integer of at least 1", {"max_tokens": 0}),
    ]
    for message, arguments in wrong:
        with pytest.raises(ValueError, match=message):
            translator(**{"texts": ["a"], **arguments})
    size = translator.vocabulary_size
    wrong = [
        (r"`source_ids` must have from 1 to 48 tokens.*Received: 49 tokens", {"source_ids": [5] * 49}),
        (r"`source_ids` must have from 1 to 48 tokens.*Received: 0 tokens", {"source_ids": []}),
        (r"`source_ids` must be a list of integers", {"source_ids": [[1]]}),
        (r"`source_ids` must lie in the vocabulary. Received: ids from -1 to 2", {"source_ids": [2, -1]}),
        (rf"`source_ids` must lie in the vocabulary .*Received: ids from {size} to {size}", {"source_ids": [size]}),
        (rf"`start_token_id` must lie in the vocabulary, from 0 to {size - 1}", {"start_token_id": size}),
        (r"`stop_token_ids` must lie in the vocabulary", {"stop_token_ids": [-1]}),
    ]
    for message, arguments in wrong:
        with pytest.raises(ValueError, match=message):
            translator.translate_ids(**{"source_ids": [1], **arguments})
