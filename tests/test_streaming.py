"""Decoding: steps of any size give what the whole sequence gives, from a state that does not grow."""

import keras
import numpy as np
import pytest
from calls import call, compile_step, jit
from definition import error, randomize, to_numpy
from hypothesis import given
from hypothesis import strategies as st

from krpe_tf import BucketedBias, DecayBias, KernelizedRPEAttention, LearnedBias, LearnedBias2D
from krpe_tf.feature_maps import FEATURE_MAPS

MAPS = [name for name in FEATURE_MAPS if name != "softmax"]
BIASES = {
    "decay": lambda: DecayBias(2),
    "alibi": lambda: DecayBias(2, radius=1, num_terms=1),
    "bucketed": lambda: BucketedBias(2),
    "learned": lambda: LearnedBias(2, 5),
    "longer than a piece": lambda: LearnedBias(2, 70),
    "none": lambda: None,
}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def make(bias="decay", **arguments):
    bias = BIASES[bias]()
    arguments = {"num_heads": 2, "key_dim": 4, "num_features": 5, "causal": True, "seed": 1, **arguments}
    layer = KernelizedRPEAttention(position_bias=bias and randomize(bias), **arguments)
    layer.build((None, None, 6), (None, None, 6))
    return layer


def steps(layer, x, sizes, mask=None):
    """The outputs of steps of these sizes, joined, and the last state."""
    step, state = compile_step(layer.step), layer.initial_state(len(x))
    outputs, start = [], 0
    for size in sizes:
        part = slice(start, start + size)
        output, state = step(x[:, part], state, mask=None if mask is None else mask[:, part])
        outputs.append(to_numpy(output))
        start += size
    return np.concatenate(outputs, axis=1), state


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bias", BIASES)
def test_steps_of_any_size_give_what_the_whole_sequence_gives(bias, masked):
    n, layer = 330, make(bias)
    x = normal(2, n, 6)
    mask = np.random.default_rng(1).random((2, n)) < 0.7 if masked else None
    expected = to_numpy(call(layer, x, x, query_mask=mask, attention_mask=mask))

    @given(sizes=st.lists(st.sampled_from([1, 7, 64, 65, 150]), max_size=8))
    def check(sizes):
        while sum(sizes) > n:
            sizes.pop()
        left = n - sum(sizes)
        output, _ = steps(layer, x, [*sizes, *[65] * (left // 65), *[1] * (left % 65)], mask)
        assert error(output, expected) < 1e-5

    check()


@pytest.mark.parametrize(
    ("feature_map", "normalize"),
    [(name, normalize) for name in MAPS for normalize in (True, False) if normalize or name != "taylor"],
)
def test_one_position_at_a_time_with_every_feature_map(feature_map, normalize):
    layer = make(feature_map=feature_map, normalize=normalize, route="dense", value_dim=3, output_shape=7)
    x = normal(2, 40, 6) / 2
    expected = to_numpy(call(layer, x, x))
    # Trigonometric sums cancel: what is left of them carries the rounding of what went.
    tolerance = 1e-3 if feature_map == "trigonometric" else 1e-5
    assert error(steps(layer, x, [1] * 40)[0], expected) < tolerance


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("bias", ["decay", "alibi", "longer than a piece"])
def test_padded_steps_count_only_what_they_are_told_to(bias, together):
    """Pieces of one size, of which entries read more or less, alike or each for itself; the padding holds NaN."""
    layer, size, rng = make(bias), 150, np.random.default_rng(0)
    counts = rng.integers(0, size + 1, (4, 1 if together else 3))
    counts[1:3] = [[1], [0]]
    x = normal(3, int(counts.sum(0).max()), 6)
    expected = to_numpy(call(layer, x, x))
    step, state, done = compile_step(layer.step), layer.initial_state(3), np.zeros(3, int)
    for each in counts:
        piece = np.full((3, size, 6), np.nan, "float32")
        each = np.broadcast_to(each, 3)
        for entry, count in enumerate(each):
            piece[entry, :count] = x[entry, done[entry] : done[entry] + count]
        output, state = step(piece, state, count=np.int32(each[0]) if together else each.astype("int32"))
        output = to_numpy(output)
        for entry, count in enumerate(each):
            found, wanted = output[entry, :count], expected[entry, done[entry] : done[entry] + count]
            assert error(found, wanted) < 1e-5 if count else True
        done += each


@pytest.mark.parametrize("bias", BIASES)
def test_the_state_does_not_grow(bias):
    layer = make(bias)
    shapes = {name: x.shape for name, x in layer.initial_state(3).items()}
    _, state = steps(layer, normal(3, 330, 6), [1, 5, 64, 260])
    assert {name: x.shape for name, x in state.items()} == shapes
    radius = layer.position_bias.radius if layer.position_bias else 1
    assert shapes["keys"] == (3, 2, radius, 5)
    assert shapes["values"] == (3, 2, radius, 5)
    assert shapes["sums"][2:] == ((2 if bias == "decay" else 1) * 5, 5)


def test_entries_of_a_batch_start_and_reset_by_themselves():
    layer, x = make(), normal(3, 60, 6)
    first, state = steps(layer, x[:, :20], [7, 13])
    again, state = layer.step(x[:, 20:40], state, reset=np.array([False, True, False]))
    last, _ = layer.step(x[:, 40:], state, reset=np.array([0, 0, 1]))
    output = np.concatenate([first, to_numpy(again), to_numpy(last)], axis=1)
    for entry, starts in enumerate(([0], [0, 20], [0, 40])):
        for start, end in zip(starts, [*starts[1:], 60], strict=True):
            alone = x[entry : entry + 1, start:end]
            assert error(output[entry : entry + 1, start:end], to_numpy(call(layer, alone, alone))) < 1e-5


def test_rubbish_in_masked_positions_and_in_what_came_before_a_reset_changes_nothing():
    layer, x = make(), normal(1, 50, 6)
    mask = (np.arange(50) % 3 > 0)[None]
    step, reset = compile_step(layer.step), np.array([True])
    clean, _ = step(x, layer.initial_state(1), mask=mask, reset=reset)
    dirty = np.where(mask[..., None], x, np.float32("nan"))
    _, state = layer.step(np.full((1, 9, 6), np.nan, "float32"), layer.initial_state(1))
    output, _ = step(dirty, state, mask=mask, reset=reset)
    np.testing.assert_array_equal(to_numpy(output), to_numpy(clean))


def test_mixed_precision_keeps_its_state_in_float32():
    half, layer = make(dtype="mixed_bfloat16"), make()
    half.set_weights(layer.get_weights())
    x = normal(1, 300, 6)
    output, state = half.step(x, half.initial_state(1))
    assert {keras.backend.standardize_dtype(part.dtype) for part in state.values()} == {"float32"}
    output = to_numpy(keras.ops.cast(output, "float32"))
    assert error(output, to_numpy(call(layer, x, x))) < 0.03


def test_a_step_compiles():
    layer, x = make(), normal(2, 12, 6)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        step = tf.function(layer.step, jit_compile=True)
    elif keras.backend.backend() == "torch":
        pytest.skip("PyTorch computes eagerly")
    else:
        step = jit(layer.step)
    state, outputs = layer.initial_state(2), []
    for i in range(12):
        output, state = step(keras.ops.convert_to_tensor(x[:, i : i + 1]), state)
        outputs.append(to_numpy(output))
    assert error(np.concatenate(outputs, axis=1), to_numpy(call(layer, x, x))) < 1e-5


@pytest.mark.parametrize(
    "arguments",
    [
        {"causal": False},
        {"feature_map": "softmax"},
        {"position_bias": LearnedBias2D(2, 3, 3)},
    ],
)
def test_layers_that_cannot_stream_say_so(arguments):
    layer = KernelizedRPEAttention(**{"num_heads": 2, "key_dim": 4, "causal": True, **arguments})
    with pytest.raises(ValueError, match=r"(?s)decoding needs `causal=True`.*Received: causal="):
        layer.initial_state(1)


def test_bad_steps_raise():
    layer, x = make(), normal(2, 3, 6)
    state = layer.initial_state(2)
    for bad in (layer.initial_state(3), {}, None, {**state, "keys": state["values"][:, :1]}):
        with pytest.raises(ValueError, match=r"(?s)`state` must come from `initial_state.*Received: state"):
            layer.step(x, bad)
    with pytest.raises(ValueError, match=r"(?s)`query` must have shape.*Received: query"):
        layer.step(x[0], state)
    with pytest.raises(ValueError, match=r"(?s)`mask` must have shape \(2, 3\).*Received: mask.shape"):
        layer.step(x, state, mask=np.ones((2, 4), bool))
    with pytest.raises(ValueError, match=r"(?s)`reset` must have shape \(2,\) or \(2, 3\).*Received: reset.shape"):
        layer.step(x, state, reset=np.ones((3,), bool))
    for bad in (4, -1, 1.0, np.array([1, 9])):
        with pytest.raises(ValueError, match=r"`count` must be integers from 0 to 3.*Received: count="):
            layer.step(x, state, count=bad)
    with pytest.raises(ValueError, match=r"`count` must have shape \(\) or \(2,\).*Received: count.shape"):
        layer.step(x, state, count=np.array([1, 2, 3]))
    with pytest.raises(ValueError, match=r"`count` needs a `reset` of shape \(batch,\)"):
        layer.step(x, state, count=1, reset=np.zeros((2, 3), bool))
    with pytest.raises(ValueError, match=r"`query` must have a known length of at least one.*Received: query.shape"):
        layer.step(x[:, :0], state)
    unbuilt = KernelizedRPEAttention(2, 4, causal=True)
    with pytest.raises(ValueError, match=r"built.*Received: built=False"):
        unbuilt.step(x, unbuilt.initial_state(2))
    with pytest.raises(ValueError, match=r"`batch_size`.*Received: batch_size=0"):
        layer.initial_state(0)
