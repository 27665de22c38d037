"""Batches by step, against numpy and against themselves: from any step, in any number of processes."""

import math
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from batch_checks import joined, restore, same, taken
from hypothesis import given, settings
from hypothesis import strategies as st

from krpe_tf.data import Batches, classification_batches, masked_lm_batches
from krpe_tf.models import Encoder, TextClassifier
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
PAD, UNK, CLS, SEP, MASK = range(5)


def make_text(words, seed):
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


DOCUMENTS = [make_text(words, words) for words in (30, 62, 63, 200, 1, 380)]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer([*RESERVED_TOKENS, *WORDS])


@pytest.fixture(scope="module")
def masked_lm(tokenizer):
    return masked_lm_batches(tokenizer, DOCUMENTS, 32, 4, seed=5)


@pytest.fixture(scope="module")
def classification(tokenizer):
    texts = [make_text(words, words) for words in [*range(1, 60)]]
    return classification_batches(tokenizer, texts, [*range(59)], 48, 128, 8, seed=5, batch_multiple=2)[0]


def windows_of(tokenizer, texts, length):
    """Every window of every document, in order, by cutting lists."""
    windows = []
    for text in texts:
        ids = [CLS, *(5 + WORDS.index(word) for word in text.split()), SEP]
        assert tokenizer([text])["token_ids"][0].tolist() == ids
        for start in range(0, len(ids), length):
            window = ids[start : start + length]
            if window != [SEP]:
                windows.append(tuple(window + [PAD] * (length - len(window))))
    return windows


@pytest.mark.parametrize("kind", ["masked_lm", "classification"])
def test_a_step_is_the_same_from_any_start(kind, request):
    batches = request.getfixturevalue(kind)
    steps = batches.steps_per_epoch
    whole = taken(batches.dataset(), 2 * steps + 2)
    assert batches.dataset().cardinality() == tf.data.INFINITE_CARDINALITY
    for start in (1, steps - 1, steps, 2 * steps):
        assert same(taken(batches.dataset(start), 2), whole[start : start + 2])
    assert not same(whole[:steps], whole[steps : 2 * steps])


@pytest.mark.parametrize("kind", ["masked_lm", "classification"])
def test_the_rows_of_all_processes_make_the_batch(kind, request):
    batches = request.getfixturevalue(kind)
    start = batches.steps_per_epoch - 2
    whole = taken(batches.dataset(start), 5)
    for count in (1, 2, 4):
        if batches.batch_multiple % count:
            continue
        parts = [taken(batches.dataset(start, index, count), 5) for index in range(count)]
        for step, batch in enumerate(whole):
            assert same(joined([part[step] for part in parts]), batch)
            assert len({len(part[step][1]) for part in parts}) == 1


@pytest.mark.parametrize("kind", ["masked_lm", "classification"])
def test_the_global_seed_does_not_count(kind, request):
    batches = request.getfixturevalue(kind)
    found = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        found.append(taken(batches.dataset(3), 4))
    assert same(*found)


def test_a_new_object_gives_the_same_batches_and_another_seed_others(tokenizer, masked_lm, classification):
    again = masked_lm_batches(tokenizer, DOCUMENTS, 32, 4, seed=5)
    assert same(taken(again.dataset(9), 3), taken(masked_lm.dataset(9), 3))
    other = masked_lm_batches(tokenizer, DOCUMENTS, 32, 4, seed=6)
    assert not same(taken(other.dataset(9), 3), taken(masked_lm.dataset(9), 3))


# masked LM


def test_every_window_comes_at_most_once_an_epoch_and_left_over_ones_change(tokenizer, masked_lm):
    windows = Counter(windows_of(tokenizer, DOCUMENTS, 32))
    steps, dropped = masked_lm.steps_per_epoch, []
    assert steps == windows.total() // 4
    found = taken(masked_lm.dataset(), 8 * steps)
    for epoch in range(8):
        seen = Counter()
        for batch in found[epoch * steps : (epoch + 1) * steps]:
            seen.update(map(tuple, restore(*batch).tolist()))
        assert seen <= windows
        assert seen.total() == 4 * steps
        dropped.append(frozenset((windows - seen).elements()))
    assert windows.total() % 4
    assert len(set(dropped)) > 1


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    words=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    length=st.integers(3, 24),
    batch_size=st.integers(1, 6),
)
def test_in_order_the_windows_are_those_of_cut_lists(tokenizer, words, length, batch_size):
    texts = [make_text(count, seed) for seed, count in enumerate(words)]
    batches = masked_lm_batches(tokenizer, texts, length, batch_size, shuffle=False, short_batch=True)
    expected = windows_of(tokenizer, texts, length)
    size = min(batch_size, len(expected))
    assert batches.steps_per_epoch == len(expected) // size
    epoch = [tf.nest.map_structure(lambda x: x.numpy(), batch) for batch in batches.epoch()]
    ids = np.concatenate([restore(*batch) for batch in epoch])
    assert list(map(tuple, ids.tolist())) == expected[: len(ids)]
    assert len(ids) == len(expected) // size * size
    positions = math.ceil(0.15 * length)
    assert all(batch[1].shape == batch[2].shape == (size, positions) for batch in epoch)


def test_validation_is_the_same_each_time_and_known_in_number(tokenizer):
    batches = masked_lm_batches(tokenizer, DOCUMENTS, 32, 4, shuffle=False, seed=5)
    epoch = batches.epoch()
    assert int(epoch.cardinality()) == batches.steps_per_epoch
    first, second = taken(epoch, 100), taken(batches.epoch(), 100)
    assert len(first) == batches.steps_per_epoch
    assert same(first, second)
    assert same(taken(batches.dataset(batches.steps_per_epoch), len(first)), first)
    assert epoch.element_spec == masked_lm_batches(tokenizer, DOCUMENTS, 32, 4).dataset().element_spec


def test_masks_of_steps_rows_and_epochs_differ(tokenizer):
    batches = masked_lm_batches(tokenizer, ["alpha " * 254] * 4, 128, 2)
    masks = [tuple(row) for inputs, *_ in taken(batches.dataset(), 12) for row in inputs["mask_positions"].tolist()]
    assert len(set(masks)) == 24


def test_short_batches_keep_the_multiple(tokenizer):
    windows = len(windows_of(tokenizer, DOCUMENTS, 32))
    batches = masked_lm_batches(tokenizer, DOCUMENTS, 32, 64, short_batch=True, batch_multiple=4)
    assert windows % 4
    assert batches.batch_multiple == windows // 4 * 4
    assert batches.steps_per_epoch == 1
    with pytest.raises(ValueError, match=r"batch_size must not pass the 1 windows.*batch_size=2"):
        masked_lm_batches(tokenizer, ["alpha"], 32, 64, short_batch=True, batch_multiple=2)


# classification


def test_every_document_comes_once_an_epoch_in_batches_of_one_size_a_bucket(tokenizer, classification):
    steps = classification.steps_per_epoch
    found = taken(classification.dataset(), 2 * steps)
    lengths = [words + 2 for words in range(1, 60)]
    buckets = [8, 16, 32, 48]
    counts = Counter(next(bucket for bucket in buckets if min(length, 48) <= bucket) for length in lengths)
    sizes = {8: 16, 16: 8, 32: 4, 48: 2}
    assert steps == sum(math.ceil(count / sizes[bucket]) for bucket, count in counts.items())
    for epoch in (found[:steps], found[steps:]):
        seen = []
        for inputs, label, weight in epoch:
            rows, bucket = inputs["token_ids"].shape
            assert rows == sizes[bucket]
            for ids, mask, document, real in zip(*inputs.values(), label, weight, strict=True):
                if not real:
                    assert document == mask.sum() == ids.sum() == 0
                    continue
                seen.append(document)
                expected = tokenizer([make_text(document + 1, document + 1)])["token_ids"][0]
                expected = expected if len(expected) <= 48 else [*expected[:47], SEP]
                np.testing.assert_array_equal(ids[mask == 1], expected)
        assert sorted(seen) == list(range(59))
    assert [label.tolist() for _, label, _ in found[:steps]] != [label.tolist() for _, label, _ in found[steps:]]


def test_filled_rows_reach_neither_loss_nor_gradient(tokenizer):
    """One document in a batch of four, against the document alone."""
    encoder = Encoder(vocabulary_size=11, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8, seed=0)
    batches, _ = classification_batches(tokenizer, ["alpha beta"], [1], 16, 64)
    model = TextClassifier(encoder, 2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    ((inputs, label, weight),) = taken(batches.epoch(), 2)
    assert weight.tolist() == [1, 0, 0, 0]
    results = []
    for rows in (slice(None), slice(1)):
        with tf.GradientTape() as tape:
            value = loss(label[rows], model({k: v[rows] for k, v in inputs.items()}), sample_weight=weight[rows])
        gradients = tape.gradient(value, model.trainable_variables)
        results.append([value, *(tf.convert_to_tensor(gradient) for gradient in gradients)])
    for filled, alone in zip(*results, strict=True):
        np.testing.assert_allclose(filled, alone, rtol=1e-4, atol=1e-6)


# bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "start_step must be an integer of at least 0.*start_step=-1"),
        ((0, 0, 0), "process_count must be an integer of at least 1"),
        ((0, 0, 3), "process_count must divide batch_multiple, 4.*process_count=3"),
        ((0, 2, 2), "process_index must be less than process_count, 2.*process_index=2"),
        ((0, -1, 2), "process_index must be"),
    ],
)
def test_bad_places_are_refused(masked_lm, arguments, message):
    with pytest.raises(ValueError, match=message):
        masked_lm.dataset(*arguments)
    if len(arguments) == 3:
        with pytest.raises(ValueError, match=message):
            masked_lm.epoch(*arguments[1:])


def test_bad_arguments_are_refused(tokenizer):
    for change, message in (
        ({"seed": -1}, "seed must be"),
        ({"batch_multiple": 0}, "batch_multiple must be"),
        ({"batch_multiple": 3}, "batch_size must be a multiple of batch_multiple, 3.*batch_size=4"),
        ({"batch_size": 1000}, "batch_size must not pass the 25 windows"),
    ):
        with pytest.raises(ValueError, match=message):
            masked_lm_batches(**{"tokenizer": tokenizer, "texts": DOCUMENTS, "length": 32, "batch_size": 4, **change})
    with pytest.raises(ValueError, match="batch_multiple must be"):
        classification_batches(tokenizer, ["alpha"], [0], 16, 64, batch_multiple=0)
    with pytest.raises(ValueError, match="steps_per_epoch must be"):
        Batches(None, 0, 1)
