"""Next-token targets: every token of a document but the first is asked for exactly once, after the one before it."""

import numpy as np
import pytest
from batch_checks import joined, same, taken
from hypothesis import given, settings
from hypothesis import strategies as st

from krpe_tf.data import Ragged, shifting, windows


def make(lengths, length, batch_size=3, **options):
    """Windows of documents in which no id comes twice: after id i comes i + 1, and 1 stands between documents."""
    starts = np.cumsum([2, *(length + 1 for length in lengths)])
    documents = Ragged.join(np.arange(start, start + count) for start, count in zip(starts, lengths, strict=False))
    options = {"pad_id": 0, "overlap": 1, "transform": shifting(0), **options}
    return documents, windows(documents, length + 1, batch_size, **options)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=12),
    length=st.integers(2, 12),
    packing=st.booleans(),
    shuffle=st.booleans(),
)
def test_every_token_but_the_first_is_a_target_once(lengths, length, packing, shuffle):
    documents, batches = make(lengths, length, packing=packing, shuffle=shuffle)
    targets, places = [], 0
    for inputs, labels, weights in taken(batches, batches.steps_per_epoch):
        assert labels.shape == weights.shape == inputs["token_ids"].shape == (3, length)
        asked = weights == 1
        assert np.array_equal(inputs["token_ids"][asked] + 1, labels[asked])
        assert np.array_equal(inputs["padding_mask"], inputs["token_ids"] > 0)
        # A token is asked for in the window that the one before it is in.
        if packing:
            segments = inputs["segment_ids"]
            assert np.array_equal(segments > 0, inputs["padding_mask"] > 0)
            inside = asked[:, :-1] & asked[:, 1:] & (segments[:, :-1] == segments[:, 1:])
            assert np.array_equal(inside, (segments[:, :-1] == segments[:, 1:]) & asked[:, 1:])
        targets += labels[asked].tolist()
        places += len(labels)
    assert sorted(targets) == sorted(
        token for index in range(len(documents)) for token in documents[index][1:].tolist()
    )
    assert places * length >= len(targets)


@pytest.mark.parametrize("packing", [False, True])
def test_batches_depend_on_seed_and_step_alone(packing):
    lengths = np.random.default_rng(0).integers(2, 60, 40).tolist()
    _, batches = make(lengths, 16, 4, packing=packing, seed=3)
    _, again = make(lengths, 16, 4, packing=packing, seed=3)
    steps = batches.steps_per_epoch
    whole = taken(batches, steps + 2)
    for step in (steps + 1, 0, steps - 1):
        assert same(again[step], whole[step])
        assert same(joined([again.rows(step, index, 2) for index in range(2)]), whole[step])
    assert same(taken(batches.dataset(1), 1), whole[1:2])
    assert not same(whole[0], whole[steps])


def test_by_hand():
    documents = Ragged.join([[1, 5, 6, 7, 8, 2], [1, 9, 2]])
    options = {"pad_id": 0, "transform": shifting(0), "shuffle": False, "overlap": 1}
    ((inputs, labels, weights),) = taken(windows(documents, 4, 3, **options), 1)
    np.testing.assert_array_equal(inputs["token_ids"], [[1, 5, 6], [7, 8, 2], [1, 9, 2]])
    np.testing.assert_array_equal(labels, [[5, 6, 7], [8, 2, 0], [9, 2, 0]])
    np.testing.assert_array_equal(weights, [[1, 1, 1], [1, 1, 0], [1, 1, 0]])
    ((inputs, labels, weights),) = taken(windows(documents, 7, 1, **options, packing=True), 1)
    np.testing.assert_array_equal(inputs["token_ids"], [[1, 5, 6, 7, 8, 2]])
    with pytest.raises(ValueError, match=r"`overlap` must be one of 0, 1. Received: overlap=2"):
        windows(documents, 4, 3, **{**options, "overlap": 2})
