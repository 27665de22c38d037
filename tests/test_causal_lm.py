"""The causal language model: its step is its parallel form, over thousands of tokens, and it scores texts."""

import keras
import numpy as np
import pytest
from calls import call, compile_step, jit
from definition import error, randomize, to_numpy

from krpe_tf import DecayBias, LearnedBias2D
from krpe_tf.models import CausalLM, Encoder
from krpe_tf.toeplitz import override

SIZES = {"vocabulary_size": 50, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32, "seed": 1}


@pytest.fixture(scope="module")
def model():
    return make()


def make(**arguments):
    keras.utils.set_random_seed(0)
    bias = randomize(DecayBias(2, radius=5))
    return CausalLM(Encoder(**{**SIZES, "position_bias": bias, "num_features": 8, "causal": True, **arguments}))


def ids(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 50, shape).astype("int32")


def inputs(token_ids, mask=None, **more):
    mask = np.ones_like(token_ids) if mask is None else mask
    return {"token_ids": token_ids, "padding_mask": mask, **more}


def test_logits_are_tied_to_the_embedding_and_see_nothing_that_follows(model):
    token_ids = ids(2, 30)
    logits = to_numpy(call(model, inputs(token_ids)))
    vectors = to_numpy(call(model.encoder, inputs(token_ids)))
    table = to_numpy(model.encoder.token_embedding.embeddings)
    assert logits.dtype == np.float32
    assert error(logits, vectors.astype("float64") @ table.astype("float64").T) < 1e-5
    assert len(model.weights) == len(model.encoder.weights)
    changed = np.where(np.arange(30) < 20, token_ids, (token_ids + 1) % 50)
    after = to_numpy(call(model, inputs(changed)))
    assert error(after[:, :20], logits[:, :20]) < 1e-6
    assert error(after[:, 20:], logits[:, 20:]) > 1e-2


@pytest.mark.parametrize(
    ("feature_map", "use_gate"), [("orthogonal", False), ("orthogonal", True), ("elu", False), ("trigonometric", False)]
)
def test_steps_are_the_parallel_form(feature_map, use_gate):
    model, token_ids = make(feature_map=feature_map, use_gate=use_gate), ids(2, 90)
    expected = to_numpy(call(model, inputs(token_ids)))
    state, outputs = model.initial_state(2), []
    for start, end in ((0, 70), (70, 71), (71, 90)):
        logits, state = compile_step(model.step)(token_ids[:, start:end], state)
        outputs.append(to_numpy(logits))
    tolerance = 1e-3 if feature_map == "trigonometric" else 1e-5
    assert error(np.concatenate(outputs, axis=1), expected) < tolerance


def test_4096_tokens_written_one_by_one_are_those_of_the_parallel_form(model):
    prompt, count = ids(1, 5), 4096
    text = model.generate(prompt, len(prompt[0]) + count)
    expected = to_numpy(call(model, inputs(text)))[0]
    assert (expected.argmax(-1)[4:-1] == text[0, 5:]).all()

    def read(state, token):
        logits, state = model.step(token[None], state)
        return state, logits[0, 0]

    def read_all(tokens, state):
        # On TensorFlow a Keras scan returns only values shaped as its carry.
        if keras.backend.backend() != "tensorflow":
            return keras.ops.scan(read, state, tokens)[1]
        first = keras.ops.zeros((50,))
        return tf.scan(lambda carry, token: read(carry[0], token), tokens, (state, first))[1]

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        read_all = tf.function(read_all, autograph=False, jit_compile=True)
    elif keras.backend.backend() == "jax":
        read_all = jit(read_all)
    logits = to_numpy(read_all(keras.ops.convert_to_tensor(text[0, :, None]), model.initial_state(1)))
    assert error(logits, expected) < 1e-5


def test_a_padded_step_reads_what_it_is_told_to(model):
    token_ids = ids(2, 40)
    expected = to_numpy(call(model, inputs(token_ids)))
    piece = np.zeros((2, 30), "int32")
    piece[0], piece[1, :12] = token_ids[0, :30], token_ids[1, :12]
    step = compile_step(model.step)
    first, state = step(piece, model.initial_state(2), count=np.array([30, 12]))
    assert error(to_numpy(first)[1, :12], expected[1, :12]) < 1e-5
    second, _ = step(np.stack([token_ids[0, 30:40], token_ids[1, 12:22]]), state)
    assert error(to_numpy(second)[0], expected[0, 30:40]) < 1e-5
    assert error(to_numpy(second)[1], expected[1, 12:22]) < 1e-5


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports trace on TensorFlow")
def test_what_depends_on_weights_alone_may_be_computed_ahead(model):
    """As an export has it: constants in place of functions of the bias, and no loop over pieces."""
    import tensorflow as tf

    made = []

    def evaluate(compute):
        with tf.init_scope():
            made.append(compute())
            return type(made[-1])(*map(np.asarray, made[-1]))

    token_ids = ids(1, 200)
    expected, after = compile_step(model.step)(token_ids, model.initial_state(1))
    step = tf.function(model.step, autograph=False)
    with override(evaluate=evaluate):
        logits, state = step(token_ids, model.initial_state(1))
        graph = step.get_concrete_function(token_ids, model.initial_state(1)).graph
    assert len(made) == 2 * 4  # layers, and pieces of 64
    assert not {"While", "StatelessWhile"} & {op.type for op in graph.get_operations()}
    assert error(to_numpy(logits), to_numpy(expected)) < 1e-6
    assert all(error(to_numpy(state[name]), to_numpy(after[name])) < 1e-6 for name in after)


def test_the_interface_names_the_state(model):
    assert [str(array) for array in model.interface.state[:3]] == [
        "layer_0_keys (batch, 2, 5, 8)",
        "layer_0_values (batch, 2, 5, 9)",
        "layer_0_sums (batch, 2, 16, 9)",
    ]
    shapes = {array.name: array.shape(batch=3) for array in model.interface.state}
    assert shapes == {name: tuple(x.shape) for name, x in model.initial_state(3).items()}
    assert make(feature_map="softmax", route="auto").interface.state == ()


@pytest.mark.parametrize("side", ["right", "left"])
def test_scores_are_log_likelihoods_of_the_float64_softmax(model, side):
    token_ids, mask = ids(2, 700), np.ones((2, 700), "int32")
    mask[1, 600:] = 0
    if side == "left":
        token_ids, mask = token_ids[:, ::-1].copy(), mask[:, ::-1].copy()
    logits = to_numpy(call(model, inputs(token_ids, mask))).astype("float64")
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(expected[:, :-1], token_ids[:, 1:, None], axis=-1)[..., 0]
    scores = model.score(token_ids, mask)
    assert (scores[:, 0] == 0).all()
    assert np.abs(scores[:, 1:] - expected * mask[:, 1:] * mask[:, :-1]).max() < 1e-4


def test_documents_of_a_packed_row_are_scored_alone(model):
    first, second = ids(1, 12), ids(1, 20, seed=1)
    row = np.concatenate([first, second], axis=1)
    segments = np.repeat([[1, 2]], [12, 20], axis=1).astype("int32")
    packed = to_numpy(call(model, inputs(row, segment_ids=segments)))
    assert error(packed[:, 12:], to_numpy(call(model, inputs(second)))) < 1e-5


def test_it_is_saved_with_its_state(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    token_ids = ids(1, 9)
    expected, _ = model.step(token_ids, model.initial_state(1))
    found, _ = loaded.step(token_ids, loaded.initial_state(1))
    np.testing.assert_array_equal(to_numpy(found), to_numpy(expected))


def test_bad_input_raises(model):
    encoder = Encoder(**SIZES)
    with pytest.raises(ValueError, match=r"`encoder` must be causal.*Received: an Encoder with causal=False"):
        CausalLM(encoder)
    with pytest.raises(ValueError, match=r"`token_ids` must lie in the vocabulary, from 0 to 49"):
        model.step(np.array([[50]]), model.initial_state(1))
    with pytest.raises(ValueError, match=r"`state` must come from `initial_state\(batch_size=1\)`"):
        model.step(np.array([[1]]), model.initial_state(2))
    other = make(num_features=4)
    with pytest.raises(ValueError, match=r"(?s)`state` must come from.*Received: state of shapes"):
        model.step(np.array([[1]]), other.initial_state(1))
    with pytest.raises(ValueError, match=r"decoding needs `causal=True`.*with a near band and tails"):
        make(position_bias=LearnedBias2D(2, 3, 3)).initial_state(1)
    with pytest.raises(ValueError, match=r"must have one shape.*Received: token_ids.shape=\(1, 3\)"):
        model.score(ids(1, 3), np.ones((1, 4)))
    with pytest.raises(ValueError, match=r"`token_ids` must be integers of shape \(batch, n\)"):
        model.score([[1.9, 2.9]])
    with pytest.raises(ValueError, match="`padding_mask`"):
        model.score(ids(1, 3), [[1, 0.5, 1]])
    with pytest.raises(ValueError, match=r"with a token at least. Received: token_ids.shape=\(1, 0\)"):
        model.score(np.zeros((1, 0), int))
    with pytest.raises(ValueError, match=r"`token_ids` must have shape \(batch, k\), k known and at least 1"):
        model.step(np.zeros((1, 0), int), model.initial_state(1))
    with pytest.raises(ValueError, match=r"`state` must come from `initial_state`.*Received: state=None"):
        model.step(np.array([[1]]), None)
    assert model.can_decode
    assert not make(feature_map="softmax").can_decode
