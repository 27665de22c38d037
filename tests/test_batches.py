"""Batches by step, against lists and against themselves: from any step, in any number of processes."""

import itertools
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from batch_checks import joined, real_rows, same, taken
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_texts import ids_of, make_text, windows_of

from krpe_tf.data import Array, Batches, Ragged, classification_batches, masked_lm_batches, windows

DOCUMENTS = [make_text(words, words) for words in (30, 62, 63, 200, 1, 380)]
WINDOWS = windows_of(map(ids_of, DOCUMENTS), 32)


@pytest.fixture(scope="module")
def masked_lm(words_tokenizer):
    return masked_lm_batches(words_tokenizer, DOCUMENTS, 32, 4, seed=5)


@pytest.fixture(scope="module")
def classification(words_tokenizer):
    texts = [make_text(words, words) for words in range(1, 60)]
    return classification_batches(words_tokenizer, texts, [*range(59)], 48, 128, 8, seed=5, batch_multiple=2)[0]


@pytest.fixture(params=["masked_lm", "classification"])
def batches(request):
    return request.getfixturevalue(request.param)


def test_a_step_is_the_same_from_any_start(batches):
    steps = batches.steps_per_epoch
    whole = taken(batches, 2 * steps + 2)
    for start in (2 * steps, 1, steps - 1, steps):
        assert same(batches[start], whole[start])
        assert same(taken(batches.steps(start), 2), whole[start : start + 2])
        assert same(taken(batches.dataset(start), 2), whole[start : start + 2])
    assert batches.dataset().cardinality() == tf.data.INFINITE_CARDINALITY
    assert not same(whole[:steps], whole[steps : 2 * steps])


def test_threads_may_share_batches(batches):
    """Two epochs at once: the order of the last one is remembered."""
    steps = [epoch * batches.steps_per_epoch + place for place in range(12) for epoch in (0, 1)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(batches.__getitem__, steps))
    assert all(same(batch, batches[step]) for batch, step in zip(found, steps, strict=True))


def test_the_rows_of_all_processes_make_the_batch(batches):
    start = batches.steps_per_epoch - 2
    for count in (1, 2, 4):
        if batches.batch_multiple % count:
            continue
        parts = [taken(batches.dataset(start, index, count), 5) for index in range(count)]
        for step in range(5):
            assert same(joined([part[step] for part in parts]), batches[start + step])
            assert len({len(part[step][1]) for part in parts}) == 1
            for index, part in enumerate(parts):
                assert same(batches.rows(start + step, index, count), part[step])


def test_what_is_made_fits_the_signature(batches):
    def fits(array, value):
        assert value.dtype == array.dtype
        assert all(size in (None, found) for size, found in zip(array.shape, value.shape, strict=True))

    for step in range(batches.steps_per_epoch):
        keras.tree.map_structure(fits, batches.signature, batches[step])


def test_the_global_seeds_do_not_count(batches):
    found = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        found.append(taken(batches.steps(3), 4))
    assert same(*found)


def test_a_new_object_gives_the_same_batches_and_another_seed_others(words_tokenizer, masked_lm):
    again, other = (masked_lm_batches(words_tokenizer, DOCUMENTS, 32, 4, seed=seed) for seed in (5, 6))
    assert same(again[9], masked_lm[9])
    assert not same(other[9], masked_lm[9])


# windows


def test_every_window_comes_exactly_once_an_epoch_and_the_last_batch_is_filled(masked_lm):
    steps = masked_lm.steps_per_epoch
    assert steps == math.ceil(len(WINDOWS) / 4)
    assert len(WINDOWS) % 4
    orders = []
    for epoch in range(4):
        found = taken(masked_lm.steps(epoch * steps), steps)
        orders.append(real_rows(found))
        assert Counter(orders[-1]) == Counter(WINDOWS)
        inputs, labels, weights = found[-1]
        filled = ~inputs["padding_mask"].any(axis=1)
        assert filled.sum() == 4 * steps - len(WINDOWS)
        assert not weights[filled].any()
        assert not labels[filled].any()
        assert not inputs["token_ids"][filled].any()
    assert len(set(map(tuple, orders))) == 4


def test_an_epoch_is_shuffled_as_a_whole(words_tokenizer):
    """Two windows that follow one another stand a third of the epoch apart in the order, as in any permutation."""
    batches = masked_lm_batches(words_tokenizer, [make_text(16_000, seed) for seed in range(2)], 16, 4)
    plain = windows_of([ids_of(make_text(16_000, seed)) for seed in range(2)], 16)
    assert len(set(plain)) == len(plain)
    rank = {window: place for place, window in enumerate(plain)}
    places = [rank[row] for row in real_rows(taken(batches, batches.steps_per_epoch))]
    assert np.abs(np.diff(places)).mean() == pytest.approx(len(plain) / 3, rel=0.1)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    words=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    length=st.integers(3, 24),
    batch_size=st.integers(1, 6),
)
def test_in_order_the_windows_are_those_of_cut_lists(words_tokenizer, words, length, batch_size):
    texts = [make_text(count, seed) for seed, count in enumerate(words)]
    batches = masked_lm_batches(words_tokenizer, texts, length, batch_size, shuffle=False, short_batch=True)
    expected = windows_of(map(ids_of, texts), length)
    size = min(batch_size, len(expected))
    assert batches.steps_per_epoch == math.ceil(len(expected) / size)
    epoch = taken(batches, batches.steps_per_epoch)
    assert real_rows(epoch) == expected
    positions = math.ceil(0.15 * length)
    assert all(batch[1].shape == batch[2].shape == (size, positions) for batch in epoch)


def test_windows_without_a_transform_are_ids_and_mask():
    sequences = Ragged.join([np.array([2, 7, 8, 9, 3]), np.array([2, 6, 3])])
    batches = windows(sequences, 3, 2, pad_id=0, shuffle=False)
    first, second = taken(batches, 2)
    assert first[0]["token_ids"].tolist() == [[2, 7, 8], [9, 3, 0]]
    assert first[0]["padding_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert second[0]["token_ids"].tolist() == [[2, 6, 3], [0, 0, 0]]
    assert same([first, second], taken(batches.steps(2), 2))


def test_validation_is_deterministic_and_known_in_number(words_tokenizer):
    batches = masked_lm_batches(words_tokenizer, DOCUMENTS, 32, 4, shuffle=False, seed=5)
    epoch = batches.epoch()
    assert int(epoch.cardinality()) == batches.steps_per_epoch
    first = taken(epoch)
    assert len(first) == batches.steps_per_epoch
    assert same(first, taken(epoch))
    assert same(first, taken(batches.steps(batches.steps_per_epoch), len(first)))
    assert same(first[:2], taken(batches.epoch(steps=2)))
    assert same(first, taken(batches.epoch(steps=1000)))
    rows = [taken(batches.epoch(index, 2)) for index in range(2)]
    assert same(first, [joined(parts) for parts in zip(*rows, strict=True)])
    dataset = masked_lm_batches(words_tokenizer, DOCUMENTS, 32, 4).dataset()
    assert epoch.element_spec == dataset.element_spec
    assert epoch.element_spec[1] == tf.TensorSpec([4, 5], tf.int32)
    assert batches.dataset(0, 1, 2).element_spec[1] == tf.TensorSpec([2, 5], tf.int32)
    other = masked_lm_batches(words_tokenizer, DOCUMENTS, 32, 4)
    assert same(taken(other.epoch(number=2)), taken(other.steps(2 * len(first)), len(first)))


def test_masks_of_steps_rows_and_epochs_differ(words_tokenizer):
    batches = masked_lm_batches(words_tokenizer, ["alpha " * 254] * 4, 128, 2)
    masks = [tuple(row) for inputs, *_ in taken(batches, 12) for row in inputs["mask_positions"].tolist()]
    assert len(set(masks)) == 24


def test_short_batches_keep_the_multiple(words_tokenizer):
    batches = masked_lm_batches(words_tokenizer, DOCUMENTS, 32, 64, short_batch=True, batch_multiple=4)
    assert len(WINDOWS) % 4
    assert batches.batch_multiple == math.ceil(len(WINDOWS) / 4) * 4
    assert batches.steps_per_epoch == 1
    assert Counter(real_rows([batches[0]])) == Counter(WINDOWS)
    long = masked_lm_batches(words_tokenizer, DOCUMENTS, 32, 64)
    assert (long.batch_multiple, long.steps_per_epoch) == (64, 1)
    assert Counter(real_rows([long[0]])) == Counter(WINDOWS)


# model.fit


class Recorder(keras.layers.Layer):
    """Passes the ids on to a list, in the order of the batches that it is called with."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.weight = self.add_weight(shape=(), initializer="ones")

    def call(self, inputs):
        tf.py_function(lambda ids: self.seen.append(ids.numpy()), [inputs["token_ids"]], [])
        return self.weight * keras.ops.one_hot(inputs["mask_positions"], 32)


def recorded(masked_lm, **arguments):
    widths = {"token_ids": 32, "padding_mask": 32, "mask_positions": 5}
    inputs = {name: keras.Input((width,), dtype="int32", name=name) for name, width in widths.items()}
    recorder = Recorder()
    model = keras.Model(inputs, recorder(inputs))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(masked_lm.training_data(7), steps_per_epoch=3, shuffle=False, verbose=0, **arguments)
    return recorder.seen


def test_fit_takes_consecutive_batches_and_validates_on_the_same(words_tokenizer, masked_lm):
    validation = masked_lm_batches(words_tokenizer, DOCUMENTS, 32, 4, shuffle=False)
    seen = recorded(masked_lm, epochs=4, initial_epoch=1, validation_data=validation.validation_data(steps=2))
    expected = []
    for epoch in range(3):
        expected += [masked_lm[7 + 3 * epoch + step][0]["token_ids"] for step in range(3)]
        expected += [validation[step][0]["token_ids"] for step in range(2)]
    assert same(seen, expected)


def test_fit_takes_buckets_of_any_order(classification):
    """Two batches of one bucket first, then another: what Keras' own adapters stop at on TensorFlow."""
    widths = [classification[step][0]["token_ids"].shape[1] for step in range(40)]
    start = next(step for step in range(38) if widths[step] == widths[step + 1] != widths[step + 2])
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.Input((None,), dtype="int32", name="padding_mask")
    share = keras.ops.mean(keras.ops.cast(ids, "float32"), axis=1, keepdims=True)
    model = keras.Model({"token_ids": ids, "padding_mask": mask}, keras.layers.Dense(59)(share))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(classification.training_data(start), steps_per_epoch=3, shuffle=False, verbose=0)


# bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "`start_step` must be an integer of at least 0.*start_step=-1"),
        ((0, 0, 0), "`process_count` must be an integer of at least 1"),
        ((0, 0, 3), "`process_count` must divide `batch_multiple`, 4.*process_count=3"),
        ((0, 2, 2), "`process_index` must be less than `process_count`, 2.*process_index=2"),
        ((0, -1, 2), "`process_index` must be"),
    ],
)
def test_bad_places_are_refused(masked_lm, arguments, message):
    for method in (masked_lm.dataset, masked_lm.steps, masked_lm.training_data):
        with pytest.raises(ValueError, match=message):
            method(*arguments)
    if len(arguments) == 3:
        for method in (masked_lm.epoch, masked_lm.validation_data):
            with pytest.raises(ValueError, match=message):
                method(*arguments[1:])
        with pytest.raises(ValueError, match=message):
            masked_lm.rows(*arguments)


def test_bad_arguments_are_refused(words_tokenizer, masked_lm):
    for change, message in (
        ({"seed": -1}, "`seed` must be"),
        ({"batch_multiple": 0}, "`batch_multiple` must be"),
        ({"batch_multiple": 3}, "`batch_size` must be a multiple of `batch_multiple`, 3.*batch_size=4"),
    ):
        arguments = {"tokenizer": words_tokenizer, "texts": DOCUMENTS, "length": 32, "batch_size": 4, **change}
        with pytest.raises(ValueError, match=message):
            masked_lm_batches(**arguments)
    with pytest.raises(ValueError, match="`steps_per_epoch` must be"):
        Batches(None, 0, 1, Array((1,), "int32"))
    with pytest.raises(ValueError, match="`steps` must be"):
        masked_lm.epoch(steps=0)
    with pytest.raises(ValueError, match="`step` must be"):
        masked_lm[-1]
    with pytest.raises(ValueError, match="`sequences` must hold"):
        windows(Ragged.join([]), 32, 4, pad_id=0)
    assert len(list(itertools.islice(masked_lm, 100))) == 100
