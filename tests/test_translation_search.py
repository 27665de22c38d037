"""Targets that an EncoderDecoder writes: greedy, drawn and searched, against searches in float64 numpy."""

import functools
import itertools
import re

import keras
import numpy as np
import pytest
from calls import call
from definition import to_numpy
from test_encoder_decoder import make

from krpe_tf.models import programs
from krpe_tf.models.samplers import Beam, Random, get_sampler

START, STOP, LENGTH = 1, 2, 4
SOURCES = np.array([[3, 4, 0, 2, 3], [1, 0, 4, 0, 0], [4, 4, 1, 0, 0]], "int32")
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], "int32")
SIZES = {"vocabulary_size": 5, "num_decoder_layers": 1, "encoder_position_bias": "decay"}
MAPS = {
    "linear": {},
    "exact": dict.fromkeys(("encoder_feature_map", "decoder_feature_map", "cross_feature_map"), "softmax"),
    "places": {"absolute_positions": 6, "decoder_position_bias": None},
}


@functools.cache
def sharp(name):
    """A model of few tokens, some much more probable than others."""
    model, random = make(**SIZES, **MAPS[name]), np.random.default_rng({"places": 6}.get(name, 12))
    for weight in model.trainable_weights:
        if "bias/" not in weight.path:
            start = float(weight.name in ("gamma", "scale"))  # The others start at random.
            weight.assign(start + random.standard_normal(weight.shape).astype("float32"))
    return model


@functools.cache
def log_shares(name):
    """log p of every token behind every target of up to LENGTH tokens, by teacher forcing: {target: of each source}."""
    model, targets = sharp(name), list(itertools.product(range(5), repeat=LENGTH - 1))
    tokens = np.array([[START, *target] for target in targets], "int32")
    found = {}
    for row, (source, mask) in enumerate(zip(SOURCES, MASK, strict=True)):
        inputs = {
            "source_ids": np.repeat(source[None], len(tokens), axis=0),
            "source_mask": np.repeat(mask[None], len(tokens), axis=0),
            "token_ids": tokens,
            "padding_mask": np.ones_like(tokens),
        }
        logits = np.float64(to_numpy(call(model, inputs)))
        shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for target, rows in zip(targets, shares, strict=True):
            for length in range(LENGTH):
                found[row, target[:length]] = rows[length]
    return found


def log_p(name, row, target):
    return sum(log_shares(name)[row, target[:i]][token] for i, token in enumerate(target))


def all_targets():
    for length in range(1, LENGTH + 1):
        yield from (x for x in itertools.product(range(5), repeat=length) if STOP not in x[:-1] and x[-1] == STOP)


def searched(name, row, beams, penalty, patience=None):
    """Beam search as fairseq has it with `patience`; without, every finished text counts, to the last position."""
    live, finished = [(0.0, ())], []
    for length in range(1, LENGTH + 1):
        grown = [
            (total + x, (*text, token)) for total, text in live for token, x in enumerate(log_shares(name)[row, text])
        ]
        grown.sort(key=lambda each: -each[0])
        ends = grown if patience is None else grown[:beams]
        finished += [(total / length**penalty, text) for total, text in ends if text[-1] == STOP]
        live = [each for each in grown if each[1][-1] != STOP][:beams]
        if patience is not None and len(finished) >= patience * beams:
            break
    return max(finished or live)[1]


def generate(name, sampler, **options):
    options = {"start_token_id": START, "stop_token_ids": [STOP], **options}
    return sharp(name).generate(SOURCES, MASK, LENGTH, sampler, **options)


def cut(target, pad=0):
    return [*target, *[pad] * (LENGTH - len(target))]


# Beams, penalty, patience.
SEARCHES = [(2, 1.2, None), (2, 1.2, 1.0), (3, 2.0, 1.0)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """XLA, which test_generation.py has, compiles for seconds."""
    monkeypatch.setattr(programs, "_takes_xla", lambda model: False)


@pytest.mark.parametrize(("name", "penalty"), [("linear", 1.2), ("exact", 0.0)])
def test_beams_enough_for_all_find_the_best_target_of_all(name, penalty):
    best = [max(all_targets(), key=lambda x: log_p(name, row, x) / len(x) ** penalty) for row in range(3)]
    texts = generate(name, Beam(4 ** (LENGTH - 1), penalty))
    assert texts.dtype == "int32"
    np.testing.assert_array_equal(texts, [cut(each) for each in best])


@pytest.mark.parametrize(("name", "search"), list(zip(("linear", "exact", "linear"), SEARCHES, strict=True)))
def test_beam_search_is_that_of_the_definition(name, search):
    best = [searched(name, row, *search) for row in range(3)]
    np.testing.assert_array_equal(generate(name, Beam(*search)), [cut(each) for each in best])


def test_the_searches_differ():
    searches = [*SEARCHES, (3, 2.0), (3, 0.0), (1, 0.0)]
    assert len({tuple(searched("linear", row, *each) for row in range(3)) for each in searches}) > 3


def test_greedy_and_drawn_targets():
    name = "places"
    noise = np.random.default_rng(7).random((3, LENGTH + 1), "float32")[:, 1:]
    greedy, drawn = [], []
    for row in range(3):
        for targets, choose in (
            (greedy, lambda shares, _: np.argmax(shares)),
            (drawn, lambda shares, uniform: _drawn(np.exp(shares), uniform)),
        ):
            text = ()
            while len(text) < LENGTH and STOP not in text:
                text = (*text, int(choose(log_shares(name)[row, text], noise[row, len(text)])))
            targets.append(cut(text, pad=4))
    np.testing.assert_array_equal(generate(name, "greedy", pad_id=4), greedy)
    np.testing.assert_array_equal(generate(name, Random(), seed=7, pad_id=4), drawn)
    assert greedy != drawn


def _drawn(shares, uniform):
    order = np.argsort(-shares)
    return order[np.argmax(np.cumsum(shares[order]) > uniform)]


def test_a_source_is_written_alike_alone_and_padded_on_by_few_programs(monkeypatch):
    model, sampler, steps = sharp("linear"), Beam(*SEARCHES[0]), []
    options = {"sampler": sampler, "start_token_id": START, "stop_token_ids": [STOP]}
    texts = generate("linear", sampler)
    np.testing.assert_array_equal(model.generate(SOURCES[2:, :3], None, LENGTH, **options), texts[2:])
    step = type(model).step
    monkeypatch.setattr(type(model), "step", lambda *args, **options: steps.append(1) or step(*args, **options))
    longer = np.pad(SOURCES, [(0, 0), (0, 30)], constant_values=4), np.pad(MASK, [(0, 0), (0, 30)])
    np.testing.assert_array_equal(model.generate(*longer, LENGTH, **options), texts)
    np.testing.assert_array_equal(model.generate(SOURCES.tolist(), MASK > 0, LENGTH, **options), texts)
    if keras.backend.backend() == "torch":
        return
    assert not steps
    # The encoder of linear maps knows nothing of the length of a target.
    monkeypatch.setattr(type(model), "_encode", None)
    read = "krpe_tf.models.source_decoding.generate"
    monkeypatch.setattr(read, lambda model, starts, *given, state, **options: (starts, state())[0])
    model.generate(SOURCES, MASK, LENGTH + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": 0}, "`max_length` must be an integer of at least 1. Received: max_length=0"),
        ({"start_token_id": 5}, "`start_token_id` must lie in the vocabulary, from 0 to 4."),
        ({"start_token_id": -1}, "`start_token_id` must be an integer of at least 0. Received: start_token_id=-1"),
        ({"stop_token_ids": [9]}, "`stop_token_ids` must lie in the vocabulary, from 0 to 4."),
        ({"sampler": "best"}, "`sampler` must be one of 'greedy',"),
        ({"seed": -1}, "`seed` must be an integer of at least 0."),
        ({"source_ids": [3, 4]}, "`source_ids` must be integers of shape (batch, n)"),
        ({"source_ids": np.zeros((0, 5), int)}, "`source_ids` must hold at least one source. Received: shape (0, 5)"),
        ({"source_mask": [[1, 1]]}, "`source_mask` must have the shape of `source_ids`"),
        ({"pad_id": 5}, "`pad_id` must lie in the vocabulary"),
    ],
)
def test_bad_input_raises_before_any_work(change, message, monkeypatch):
    model = sharp("linear")
    monkeypatch.setattr(type(model), "_encode", None)
    arguments = {"source_ids": SOURCES, "source_mask": MASK, "max_length": LENGTH, "start_token_id": START}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        model.generate(**{**arguments, **change})
    with pytest.raises(ValueError, match="`max_length` must be at most `absolute_positions`, 6"):
        sharp("places").generate(SOURCES, MASK, 7)
    with pytest.raises(ValueError, match=r"`source_ids` must have at most 6 tokens a row. Received: 7"):
        sharp("places").generate(np.zeros((1, 7), int), None, LENGTH)


def test_patience_is_checked():
    assert get_sampler("beam").get_config() == {"num_beams": 5, "length_penalty": 1.0, "patience": None}
    with pytest.raises(ValueError, match=r"`patience` must be a number above 0. Received: patience=0"):
        Beam(patience=0)
