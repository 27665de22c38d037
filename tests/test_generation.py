"""Text that is generated: prompts, stop tokens, compiled loops, streams, and samplers of keras-hub."""

import copy
import gc
import pickle
import re
import weakref

import keras
import numpy as np
import pytest
from calls import call
from definition import randomize
from keras import ops
from toy_language_model import ToyLanguageModel

from krpe_tf import DecayBias
from krpe_tf.models import CausalLM, Encoder, generation, programs
from krpe_tf.models.generation import generate, stream
from krpe_tf.models.samplers import Beam, Greedy, Random, TopK, TopP

PROMPTS = [[3, 1], [5, 2, 2, 7], [1], [10, 4, 6, 6, 8, 2, 0]]
compiles = pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs eagerly")


@pytest.fixture(scope="module")
def toy():
    return ToyLanguageModel(seed=2)


def padded(prompts, side="right", pad=0):
    width = max(map(len, prompts))
    ids, mask = np.full((len(prompts), width), pad, "int32"), np.zeros((len(prompts), width), "int32")
    for row, prompt in enumerate(prompts):
        place = slice(0, len(prompt)) if side == "right" else slice(width - len(prompt), width)
        ids[row, place], mask[row, place] = prompt, 1
    return ids, mask


def greedy(model, prompt, max_length, stops=(), pad=0):
    text = list(prompt)
    while len(text) < max_length and not (len(text) > len(prompt) and text[-1] in stops):
        text.append(int(np.argmax(model.log_shares(text))))
    return text + [pad] * (max_length - len(text))


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(generation, "LARGEST_PIECE", 4)
    monkeypatch.setattr(generation, "SMALLEST_PIECE", 2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_begin_with_their_prompts(toy, side):
    ids, mask = padded(PROMPTS, side, pad=10)
    stops = (4, 9)
    texts = generate(toy, ids, 20, stop_token_ids=stops, padding_mask=mask, pad_id=8)
    assert texts.dtype == "int32"
    np.testing.assert_array_equal(texts, [greedy(toy, prompt, 20, stops, pad=8) for prompt in PROMPTS])
    assert (texts == 8).sum() > 4, "no row stops early"


@pytest.mark.parametrize("length", [1, 2, 4, 5, 6, 9])
def test_prompts_of_every_length_are_read(small_pieces, toy, length):
    prompt = np.random.default_rng(length).integers(0, 11, length).tolist()
    np.testing.assert_array_equal(generate(toy, [prompt], 12), [greedy(toy, prompt, 12)])


def test_a_prompt_of_max_length_stays_as_it_is(toy):
    np.testing.assert_array_equal(generate(toy, [[4, 1, 7]], 3, stop_token_ids=[1]), [[4, 1, 7]])
    ids, mask = padded([[4, 1, 7], [2]])
    texts = generate(toy, ids, 3, padding_mask=mask)
    np.testing.assert_array_equal(texts, [[4, 1, 7], greedy(toy, [2], 3)])


@pytest.mark.parametrize("sampler", [Greedy(), Random(), TopP(0.8, 0.7), Beam(3)], ids=lambda x: type(x).__name__)
def test_all_samplers_generate(toy, sampler):
    ids, mask = padded(PROMPTS)
    texts = generate(toy, ids, 16, sampler, [4], seed=7, padding_mask=mask)
    again = generate(toy, ids, 16, sampler, [4], seed=7, padding_mask=mask)
    np.testing.assert_array_equal(texts, again)
    for text, prompt in zip(texts, PROMPTS, strict=True):
        np.testing.assert_array_equal(text[: len(prompt)], prompt)
    if isinstance(sampler, Random):
        assert (generate(toy, ids, 16, sampler, seed=8, padding_mask=mask) != texts).any()
        noise = np.random.default_rng(7).random((4, 16), "float32")
        text, index = PROMPTS[0], 2
        shares = np.exp(toy.log_shares(text) / sampler.temperature)
        order = np.argsort(-shares, kind="stable")
        cumulative = np.cumsum(shares[order] / shares.sum())
        kept = cumulative if sampler.p is None else cumulative[: np.argmax(cumulative >= sampler.p) + 1]
        assert texts[0, index] == order[np.argmax(kept / kept[-1] > noise[0, index])]


@pytest.mark.parametrize("sampler", ["greedy", "random", TopK(3), TopP(0.7, k=5)])
def test_a_stream_gives_the_same_ids(toy, sampler):
    prompt = PROMPTS[1]
    whole = generate(toy, [prompt], 24, sampler, seed=3)[0, len(prompt) :]
    assert list(stream(toy, prompt, 20, sampler, seed=3)) == whole.tolist()
    stops = [int(whole[5])]
    stopped = list(stream(toy, np.array(prompt), 20, sampler, stops, seed=3))
    assert stopped == whole[: whole.tolist().index(stops[0]) + 1].tolist()


def test_logits_that_are_no_numbers_give_no_text(toy, monkeypatch):
    monkeypatch.setattr(toy, "step", lambda ids, state, count=None: (keras.ops.full((5, 1, 11), np.nan), state))
    with pytest.raises(ValueError, match=r"must give numbers as logits. Received: NaN"):
        generate(toy, [[1, 4]], 6, Beam(5))


def test_a_state_may_come_from_elsewhere(toy):
    """As that of an encoder and decoder does."""
    start, prompt = [3, 9, 9], [1, 4]
    _, state = toy.step(np.array([start], "int32"), toy.initial_state(1))
    expected = greedy(toy, start + prompt, 13)[3:]
    np.testing.assert_array_equal(generate(toy, [prompt], 10, state=state)[0], expected)
    assert list(stream(toy, prompt, 8, state=state)) == expected[2:]
    beams = generate(toy, [prompt], 10, Beam(1, 0.0), state=state)[0]
    np.testing.assert_array_equal(beams, expected)


@compiles
def test_programs_are_compiled_once(small_pieces):
    model = ToyLanguageModel(seed=2)
    ids, mask = padded(PROMPTS)
    arguments = {"padding_mask": mask, "stop_token_ids": [4], "seed": 1}
    for sampler in ("top_p", "beam"):
        generate(model, ids, 12, sampler, **arguments)
        list(stream(model, PROMPTS[3], 3, "top_k", seed=2))
        calls = model.calls
        # Other prompts, of other lengths in the same sizes of pieces; a sampler with the same arguments.
        generate(model, (ids + 1) % 11, 12, sampler, **{**arguments, "seed": 5})
        list(stream(model, PROMPTS[3][:6], 5, TopK(40), seed=3))
        assert model.calls == calls, "compiled again"
        # The weights are no constants of the program.
        before = generate(model, ids, 12, sampler, **arguments)
        model.arrays[2].assign(-1 * model.arrays[2].value)
        assert (generate(model, ids, 12, sampler, **arguments) != before).any()
        assert model.calls == calls
    generate(model, ids, 12, Beam(2), **arguments)
    assert model.calls > calls, "another sampler runs the same program"


def test_a_sampler_of_ones_own_is_not_mistaken_for_another(toy):
    class Always(Greedy):
        def __init__(self, token):
            self.token = token

        def choose(self, logits, uniforms=None):
            return ops.full((logits.shape[0],), self.token, "int32")

    for token in (5, 6):
        np.testing.assert_array_equal(generate(toy, [[1]], 3, Always(token)), [[1, token, token]])


def test_only_the_latest_programs_are_kept(monkeypatch):
    monkeypatch.setattr(programs, "MOST_PROGRAMS", 2)
    model = ToyLanguageModel()
    for length in (2, 3, 4, 2):
        np.testing.assert_array_equal(generate(model, [[1]], length), [greedy(model, [1], length)])
    assert len(vars(model)[programs.ATTRIBUTE]) == 2


def test_a_model_that_has_generated_is_saved_and_copied_as_before(tmp_path):
    model = ToyLanguageModel(seed=2)
    expected = generate(model, [[1, 2]], 8)
    weights = len(model.weights)
    with keras.saving.custom_object_scope({"ToyLanguageModel": ToyLanguageModel}):
        model.save(tmp_path / "model.keras")
        copies = [
            keras.saving.load_model(tmp_path / "model.keras"),
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
        ]
    for other in copies:
        assert len(other.weights) == weights
        np.testing.assert_array_equal(generate(other, [[1, 2]], 8), expected)
        other.arrays[0].assign(other.arrays[0].value * 0)
    np.testing.assert_array_equal(generate(model, [[1, 2]], 8), expected)


def test_programs_do_not_outlive_their_model():
    model = ToyLanguageModel()
    generate(model, [[1, 2]], 8)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_samplers_of_keras_hub_generate(toy):
    from keras_hub.samplers import BeamSampler, GreedySampler, TopPSampler

    ids, mask = padded(PROMPTS)
    texts = generate(toy, ids, 16, GreedySampler(), [4], padding_mask=mask)
    np.testing.assert_array_equal(texts, generate(toy, ids, 16, "greedy", [4], padding_mask=mask))
    assert list(stream(toy, PROMPTS[0], 6, GreedySampler())) == list(stream(toy, PROMPTS[0], 6))
    # keras-hub's search takes the sum of log p and no stop tokens into account.
    texts = generate(toy, ids, 16, BeamSampler(num_beams=3), padding_mask=mask)
    np.testing.assert_array_equal(texts, generate(toy, ids, 16, Beam(3), padding_mask=mask))
    first, second = (generate(toy, ids, 16, TopPSampler(p=0.9, seed=1), padding_mask=mask) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    sampler = TopPSampler(p=0.9, seed=1)
    np.testing.assert_array_equal(generate(toy, ids, 16, sampler, padding_mask=mask), first)
    assert (generate(toy, ids, 16, sampler, padding_mask=mask) != first).any(), "its seed does not advance"
    tokens = [list(stream(toy, PROMPTS[0], 12, sampler)) for _ in range(2)]
    assert tokens[0] != tokens[1]


def test_our_samplers_fit_into_models_of_keras_hub():
    from keras_hub.models import GPT2Backbone, GPT2CausalLM

    backbone = GPT2Backbone(
        vocabulary_size=11, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8, max_sequence_length=16
    )
    model = GPT2CausalLM(backbone=backbone)
    ids, mask = padded(PROMPTS)
    inputs = {"token_ids": np.pad(ids, [[0, 0], [0, 5]]), "padding_mask": np.pad(mask, [[0, 0], [0, 5]])}
    texts = {}
    for name, sampler in {"hub": "greedy", "own": Greedy(), "beam": Beam(1), "random": Random(seed=1)}.items():
        model.compile(sampler=sampler)
        texts[name] = model.generate(inputs, stop_token_ids=None)["token_ids"]
    np.testing.assert_array_equal(texts["own"], texts["hub"])
    np.testing.assert_array_equal(texts["beam"], texts["hub"])
    assert (model.generate(inputs, stop_token_ids=None)["token_ids"] != texts["random"]).any()


IDS, MASK = padded(PROMPTS)
TEXTS_OF_IDS = "`token_ids` must be integers of shape (batch, n): put one text into [[...]]"
REFUSED = [
    ({"token_ids": np.zeros((2, 0), int)}, "`token_ids` must hold at least one token a row. Received: shape (2, 0)"),
    ({"token_ids": [[], []]}, "`token_ids` must hold at least one token a row. Received: shape (2, 0)"),
    ({"token_ids": [1, 2]}, f"{TEXTS_OF_IDS}. Received: int64, shape (2,)"),
    ({"token_ids": [[1.5]]}, f"{TEXTS_OF_IDS}. Received: float64, shape (1, 1)"),
    ({"token_ids": [[1], [1, 2]]}, f"{TEXTS_OF_IDS}. Received: token_ids=[[1], [1, 2]]"),
    ({"token_ids": [[1, 11]]}, "`token_ids` must lie in the vocabulary, from 0 to 10. Received: ids from 1 to 11"),
    ({"token_ids": [[-1, 2]]}, "`token_ids` must lie in the vocabulary, from 0 to 10. Received: ids from -1 to 2"),
    ({"max_length": 6}, "`max_length` must be at least the length of the longest prompt, 7. Received: max_length=6"),
    ({"max_length": 9.0}, "`max_length` must be an integer of at least 1. Received: max_length=9.0"),
    (
        {"stop_token_ids": [1, 11]},
        "`stop_token_ids` must lie in the vocabulary, from 0 to 10. Received: ids from 1 to 11",
    ),
    ({"stop_token_ids": 4}, "`stop_token_ids` must be integers of shape (n,). Received: int64, shape ()"),
    ({"seed": 1.0}, "`seed` must be an integer of at least 0. Received: seed=1.0"),
    ({"seed": -1}, "`seed` must be an integer of at least 0. Received: seed=-1"),
    (
        {"padding_mask": MASK[:, 1:]},
        "`padding_mask` must have the shape of `token_ids`, (4, 7). Received: shape (4, 6)",
    ),
    (
        {"padding_mask": np.where(IDS == 2, 0, 1)},
        "`padding_mask` must hide positions before or behind a prompt, none within. "
        "Received: [1, 0, 0, 1, 1, 1, 1] in row 1",
    ),
    (
        {"padding_mask": MASK * [[1], [1], [0], [1]]},
        "`padding_mask` must show at least one token of every row. Received: none in row 2",
    ),
    ({"pad_id": 11}, "`pad_id` must lie in the vocabulary, from 0 to 10. Received: ids from 11 to 11"),
    ({"pad_id": None}, "`pad_id` must be an integer of at least 0. Received: pad_id=None"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[f"{i}-{next(iter(x[0]))}" for i, x in enumerate(REFUSED)])
def test_bad_arguments_are_refused_before_any_work(change, message):
    model = ToyLanguageModel()
    arguments = {"token_ids": IDS, "max_length": 20, **change}
    if "token_ids" not in change:
        arguments = {"padding_mask": MASK, **arguments}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        generate(model, **arguments)
    assert model.calls == 0


def test_bad_samplers_are_refused(toy):
    from keras_hub.samplers import BeamSampler, TopPSampler

    with pytest.raises(ValueError, match="`sampler` must be one of 'greedy'"):
        generate(toy, [[1]], 3, "best")
    with pytest.raises(ValueError, match="`seed` must be None for a sampler of another library"):
        generate(toy, [[1]], 3, TopPSampler(), seed=1)
    with pytest.raises(ValueError, match="`sampler` must give one text a row"):
        generate(toy, [[1]], 3, BeamSampler(return_all_beams=True))
    for sampler in ("beam", BeamSampler()):
        with pytest.raises(ValueError, match="`sampler` must choose a token at a time"):
            stream(toy, [1], 3, sampler)
    with pytest.raises(ValueError, match="`max_tokens` must be an integer of at least 1"):
        stream(toy, [1], 0)
    with pytest.raises(ValueError, match="`token_ids` must hold at least one token"):
        stream(toy, [], 3)
    with pytest.raises(
        ValueError, match=r"`token_ids` must be integers of shape \(n,\). Received: int64, shape \(1, 1\)"
    ):
        stream(toy, [[1]], 3)


@pytest.fixture(scope="module")
def model():
    """A causal LM whose text varies: wide kernels, and a last norm that does not favour the token just read."""
    bias = randomize(DecayBias(2, radius=5))
    model = CausalLM(Encoder(50, 2, 2, 16, 32, num_features=8, position_bias=bias, causal=True, seed=1))
    random = np.random.default_rng(3)
    for weight in model.trainable_variables:
        if weight.path.endswith(("kernel", "embeddings", "final_norm/gamma")):
            weight.assign((1.0 if "gamma" in weight.path else 0.3) * random.standard_normal(weight.shape))
    return model


def random_prompts(*lengths):
    return [np.random.default_rng(length).integers(0, 50, length).tolist() for length in lengths]


@pytest.mark.usefixtures("optimized")
def test_a_causal_lm_writes_what_its_parallel_form_would(model):
    prompts = random_prompts(75, 90)
    ids, mask = padded(prompts)
    texts = model.generate(ids, 140, padding_mask=mask)
    logits = ops.convert_to_numpy(call(model, {"token_ids": texts, "padding_mask": np.ones_like(texts)}))
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        ordered = np.sort(logits[row, len(prompt) - 1 : -1], axis=-1)
        assert (ordered[:, -1] - ordered[:, -2]).min() > 1e-4, "rounding decides"
        np.testing.assert_array_equal(text[len(prompt) :], logits[row, len(prompt) - 1 : -1].argmax(-1))
    assert len(np.unique(texts[:, 90:])) > 5, "the text does not vary"


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("sampler", ["greedy", "beam"])
def test_a_causal_lm_writes_in_a_batch_what_it_writes_alone(model, sampler):
    prompts, stops = random_prompts(12, 3, 9), [30, 22]
    ids, mask = padded(prompts, "left")
    texts = model.generate(ids, 40, sampler, stops, padding_mask=mask, pad_id=7)
    for prompt, text in zip(prompts, texts, strict=True):
        np.testing.assert_array_equal(text, model.generate([prompt], 40, sampler, stops, pad_id=7)[0])
    assert len(np.unique(texts[:, 12:])) > 5, "the text does not vary"
    assert (texts[:, -4:] == 7).all(axis=1).any(), "no row stops early"


def test_a_causal_lm_streams(model):
    (prompt,) = random_prompts(12)
    tokens = list(model.stream(prompt, 10, "top_p", seed=4))
    np.testing.assert_array_equal(tokens, model.generate([prompt], 22, "top_p", seed=4)[0, 12:])
    with pytest.raises(ValueError, match="`token_ids` must lie in the vocabulary"):
        model.stream([50], 3)
