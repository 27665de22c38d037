"""Samplers against searches and draws in float64 numpy."""

import itertools
import re

import keras
import numpy as np
import pytest
from keras import ops
from toy_language_model import ToyLanguageModel

from krpe_tf.models.samplers import Beam, Greedy, Random, Sampler, TopK, TopP, get_sampler


def fill(sampler, model, prompts, max_length, **options):
    """Call a sampler on prompts of any lengths, in keras-hub's protocol."""
    lengths = [len(prompt) for prompt in prompts]
    texts = np.full((len(prompts), max_length), -1, "int32")
    for text, prompt in zip(texts, prompts, strict=True):
        text[: len(prompt)] = prompt
    shortest = min(lengths)
    state = model.initial_state(len(prompts))
    if shortest > 1:
        _, state = model.step(texts[:, : shortest - 1], state)

    def next(texts, state, index):
        token = ops.slice(texts, [0, index - 1], [ops.shape(texts)[0], 1])
        logits, state = model.step(token, state)
        return logits[:, 0], None, state

    mask = np.arange(max_length) < np.array(lengths)[:, None]
    texts = sampler(next, texts, state, shortest, mask, **options)
    return ops.convert_to_numpy(texts)


def drawn(log_shares, uniform, temperature=1.0, k=None, p=None):
    """Return the token that the rule gives, in float64, and how close another one was."""
    shares = np.exp(log_shares / temperature)
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")[:k]
    before = np.concatenate([[0], np.cumsum(shares[order])[:-1]])
    kept = order if p is None else order[before < p]
    cumulative = np.cumsum(shares[kept]) / shares[kept].sum()
    edge = np.abs(cumulative - uniform).min()
    if p is not None:
        edge = min(edge, np.abs(before - p).min())
    return kept[np.argmax(cumulative > uniform)], edge


def drawn_text(model, prompt, noise, **rule):
    text = list(prompt)
    for index in range(len(prompt), len(noise)):
        token, edge = drawn(model.log_shares(text), noise[index], **rule)
        assert edge > 1e-5, "choose another seed: rounding decides here"
        text.append(token)
    return text


PROMPTS = [[3, 1], [5, 2, 2, 7], [1], [10, 4, 6]]
RULES = [
    (Random(), {}),
    (Random(0.5), {"temperature": 0.5}),
    (TopK(3, 1.5), {"k": 3, "temperature": 1.5}),
    (TopK(40), {}),
    (TopP(0.7), {"p": 0.7}),
    (TopP(0.8, 1.3, k=4), {"p": 0.8, "k": 4, "temperature": 1.3}),
]


@pytest.mark.parametrize(("sampler", "rule"), RULES, ids=[f"{type(x).__name__}{rule}" for x, rule in RULES])
def test_draws_are_those_of_the_rule(sampler, rule):
    model = ToyLanguageModel()
    noise = np.random.default_rng(1).random((len(PROMPTS), 16), "float32")
    texts = fill(sampler, model, PROMPTS, 16, noise=noise)
    np.testing.assert_array_equal(
        texts, [drawn_text(model, *each, **rule) for each in zip(PROMPTS, noise, strict=True)]
    )


def test_greedy_takes_the_most_probable():
    model = ToyLanguageModel()
    texts = fill(Greedy(), model, PROMPTS, 16)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        expected = list(prompt)
        while len(expected) < 16:
            expected.append(np.argmax(model.log_shares(expected)))
        np.testing.assert_array_equal(text, expected)


def test_draws_follow_the_distribution():
    log_shares = np.log([0.5, 0.3, 0.15, 0.05])
    uniforms = np.random.default_rng(0).random(40_000, "float32")
    logits = np.tile(log_shares.astype("float32") + 7, (40_000, 1))
    for sampler, shares in [
        (Random(), [0.5, 0.3, 0.15, 0.05]),
        (TopK(2), [0.625, 0.375, 0, 0]),
        (TopP(0.9), np.array([0.5, 0.3, 0.15, 0]) / 0.95),
    ]:
        ids = ops.convert_to_numpy(sampler.choose(ops.convert_to_tensor(logits), ops.convert_to_tensor(uniforms)))
        np.testing.assert_allclose(np.bincount(ids, minlength=4) / 40_000, shares, atol=0.01)


@pytest.mark.parametrize("sampler", [Random(), TopK(4), TopP(0.99), Random(1e-6), TopP(1e-6), TopK(1), Random(1e6)])
def test_edges(sampler):
    # Ties, forbidden tokens, large logits, the least and the largest uniform.
    logits = np.array([[1, 3, 3, -np.inf, 3], [1e4, 0, 0, 0, -1e4], [-np.inf] * 3 + [0.0, -np.inf]], "float32")
    one = np.nextafter(np.float32(1), np.float32(0))
    tie = [1 if sampler.k == 1 or sampler.p == 1e-6 else None, 0, 3]
    for uniform in (0.0, 0.5, one):
        ids = ops.convert_to_numpy(sampler.choose(ops.convert_to_tensor(logits), ops.full((3,), uniform)))
        assert np.isfinite(logits[np.arange(3), ids]).all()
        assert ids[2] == 3
        if uniform == 0:
            np.testing.assert_array_equal(ids, [1, 0, 3])  # of equal ones the first
        if tie[0]:
            np.testing.assert_array_equal(ids, tie)


@pytest.mark.parametrize("k", [3, 5])
def test_of_equal_tokens_the_lower_id_comes_first(k):
    logits = np.zeros((1, 300), "float32")
    logits[0, [7, 100, 200, 250, 299]] = 1
    ids = [
        int(TopK(k).choose(ops.convert_to_tensor(logits), ops.full((1,), (place + 0.5) / k))[0]) for place in range(k)
    ]
    assert ids == [7, 100, 200, 250, 299][:k]


def score(model, prompt, continuation, penalty):
    text, total = list(prompt), 0.0
    for token in continuation:
        total += model.log_shares(text)[token]
        text.append(token)
    return total / len(continuation) ** penalty


def all_texts(size, length, stops):
    """Return every continuation that ends with its first stop token, or is of this length."""
    for n in range(1, length + 1):
        for text in itertools.product(range(size), repeat=n):
            inside = any(token in stops for token in text[:-1])
            if not inside and (text[-1] in stops or n == length):
                yield text


@pytest.mark.parametrize("stops", [None, (2,), (1, 2)])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5])
def test_beams_enough_for_all_find_the_best_text(stops, penalty):
    model = ToyLanguageModel(3, seed=5)
    prompts, max_length = [[0, 1], [1], [2, 0, 0]], 5
    texts = fill(Beam(81, penalty), model, prompts, max_length, stop_token_ids=stops)
    for prompt, text in zip(prompts, texts, strict=True):
        choices = list(all_texts(3, max_length - len(prompt), stops or ()))
        finished = [choice for choice in choices if choice[-1] in (stops or ())]
        best = max(finished or choices, key=lambda choice: score(model, prompt, choice, penalty))
        np.testing.assert_array_equal(text[: len(prompt) + len(best)], [*prompt, *best])


def searched(model, prompt, max_length, beams, penalty, stops):
    """Beam search as published: keep the best unfinished, and every finished text, and end with max_length."""
    live, finished = [(0.0, tuple(prompt))], []
    for length in range(1, max_length - len(prompt) + 1):
        grown = [(log_p + x, (*text, token)) for log_p, text in live for token, x in enumerate(model.log_shares(text))]
        grown.sort(key=lambda each: -each[0])
        finished += [(log_p / length**penalty, text) for log_p, text in grown if text[-1] in stops]
        live = [each for each in grown if each[1][-1] not in stops][:beams]
    return max(finished or live)[1]


@pytest.mark.parametrize(
    ("beams", "penalty", "stops"), [(1, 1.0, ()), (2, 0.6, (4,)), (4, 1.0, (0, 9)), (3, 3.0, (4,))]
)
def test_beam_search_is_that_of_the_definition(beams, penalty, stops):
    model = ToyLanguageModel(seed=2)
    texts = fill(Beam(beams, penalty), model, PROMPTS, 12, stop_token_ids=stops or None)
    best = [searched(model, prompt, 12, beams, penalty, stops) for prompt in PROMPTS]
    for text, expected in zip(texts, best, strict=True):
        np.testing.assert_array_equal(text[: len(expected)], expected)
    greedy = [searched(model, prompt, 12, 1, penalty, stops) for prompt in PROMPTS]
    assert (best != greedy) == (beams > 1)


def test_a_row_does_not_depend_on_the_others():
    model = ToyLanguageModel(seed=2)
    for sampler in (Greedy(), Beam(3)):
        texts = fill(sampler, model, PROMPTS, 12, stop_token_ids=(4,))
        alone = fill(sampler, model, PROMPTS[1:2], 12, stop_token_ids=(4,))[0]
        length = np.argmax(np.append(alone[4:], 4) == 4) + 5
        np.testing.assert_array_equal(texts[1, :length], alone[:length])


def test_the_loop_ends_with_the_last_stop_token():
    """Counted on the positions that are read; a token of a prompt does not stop."""
    model = ToyLanguageModel(seed=2)
    prompts = [[3, 1], [5, 2, 2, 7]]
    whole = fill(Greedy(), model, prompts, 40)
    stops = tuple(int(text[len(prompt) + 1]) for prompt, text in zip(prompts, whole, strict=True))
    first = [next(i for i in range(len(p), 40) if text[i] in stops) for p, text in zip(prompts, whole, strict=True)]
    texts = fill(Greedy(), model, prompts, 40, stop_token_ids=stops)
    np.testing.assert_array_equal(texts[:, max(first) + 1 :], -1)
    np.testing.assert_array_equal(texts[:, : max(first) + 1], whole[:, : max(first) + 1])
    # log p itself only falls, so the search need not try longer texts.
    texts = fill(Beam(3, 0.0), model, prompts, 40, stop_token_ids=stops)
    assert (texts[:, 30:] == -1).all()


def test_a_stop_token_of_a_prompt_does_not_end_its_row():
    model = ToyLanguageModel(seed=2)
    prompts, stop = [[3], [3, 4, 7]], 4
    for sampler in (Greedy(), Beam(2)):
        texts = fill(sampler, model, prompts, 12, stop_token_ids=(stop, int(fill(Greedy(), model, [[3]], 2)[0, 1])))
        assert (texts[1, :4] >= 0).all(), "the loop ends with the stop token of the prompt"


def test_without_noise_a_sampler_draws_from_its_seed():
    model = ToyLanguageModel()
    first, again = (fill(Random(seed=3), model, PROMPTS, 16) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    sampler = Random(seed=3)
    np.testing.assert_array_equal(fill(sampler, model, PROMPTS, 16), first)
    assert (fill(sampler, model, PROMPTS, 16) != first).any(), "the seed's state does not advance"


def test_samplers_have_names_and_configs():
    for name, kind in {"greedy": Greedy, "random": Random, "top_k": TopK, "top_p": TopP, "beam": Beam}.items():
        assert type(get_sampler(name)) is kind
    for sampler in (Greedy(), Random(0.5, seed=1), TopK(7, 0.5), TopP(0.3, 0.5, k=4, seed=2), Beam(3, 0.25)):
        config = keras.saving.serialize_keras_object(sampler)
        again = keras.saving.deserialize_keras_object(config)
        assert type(again) is type(sampler)
        assert again.get_config() == sampler.get_config()
        assert get_sampler(sampler) is sampler
        assert isinstance(sampler, Sampler)


@pytest.mark.parametrize("sampler", ["nucleus", "Greedy", None, 3, Greedy])
def test_what_is_no_sampler_is_refused(sampler):
    with pytest.raises(ValueError, match=r"`sampler` must be one of 'greedy', .*Received: sampler="):
        get_sampler(sampler)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Random(0), "`temperature` must be a number from 1e-6 to 1e6. Received: temperature=0"),
        (lambda: Random(float("inf")), "`temperature` must be a number from 1e-6 to 1e6. Received: temperature=inf"),
        (lambda: Random("1"), "`temperature` must be a number from 1e-6 to 1e6. Received: temperature='1'"),
        (lambda: Random(seed=-1), "`seed` must be an integer of at least 0. Received: seed=-1"),
        (lambda: TopK(0), "`k` must be an integer of at least 1. Received: k=0"),
        (lambda: TopP(0.0), "`p` must be a number above 0 and at most 1. Received: p=0.0"),
        (lambda: TopP(1.1), "`p` must be a number above 0 and at most 1. Received: p=1.1"),
        (lambda: TopP(0.9, k=0.5), "`k` must be an integer of at least 1. Received: k=0.5"),
        (lambda: Beam(0), "`num_beams` must be an integer of at least 1. Received: num_beams=0"),
        (lambda: Beam(2, -1), "`length_penalty` must be a number of at least 0. Received: length_penalty=-1"),
        (lambda: Beam(2, True), "`length_penalty` must be a number of at least 0. Received: length_penalty=True"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
