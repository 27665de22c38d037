"""Masked-LM batches, against lists: which tokens stand in a window, and which are masked."""

import math
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from batch_checks import real_rows, restore, same, taken

from krpe_tf.data import masked_lm_dataset
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "seven", "wizards", "mix", ",", "."]
CHARACTERS = "abcdefgilmnéß"
PIECES = [*RESERVED_TOKENS, *WORDS, *CHARACTERS, *("##" + c for c in CHARACTERS)]
PAD, UNK, CLS, SEP, MASK = range(5)


def make_text(words, seed):
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


DOCUMENTS = [make_text(words, words) for words in (30, 62, 63, 200, 1, 500)]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer(PIECES)


def test_windows_hold_every_token_once(tokenizer):
    expected, found, length = Counter(), Counter(), 32
    for text in DOCUMENTS:
        ids = tokenizer([text])["token_ids"][0].tolist()
        for start in range(0, len(ids), length):
            window = ids[start : start + length]
            if window != [SEP]:
                expected[tuple(window + [PAD] * (length - len(window)))] += 1
    assert (30 + 2) % length == 0  # The first document fills its window, the third leaves a [SEP] alone.
    assert (63 + 2) % length == 1
    for inputs, labels, weights in taken(masked_lm_dataset(tokenizer, DOCUMENTS, length, 1)):
        ids = restore(inputs, labels, weights)
        found[tuple(ids[0].tolist())] += 1
        np.testing.assert_array_equal(inputs["padding_mask"], ids != PAD)
    assert found == expected


def test_batches_have_static_shapes_and_known_number(tokenizer):
    dataset = masked_lm_dataset(tokenizer, DOCUMENTS, 32, 4)
    windows = sum(math.ceil((len(text.split()) + 2) / 32) for text in DOCUMENTS) - 1  # Less the [SEP] alone.
    assert int(dataset.cardinality()) == len(taken(dataset)) == math.ceil(windows / 4)
    assert windows % 4  # The last batch is filled with padding.
    assert len(real_rows(taken(dataset))) == windows
    inputs, labels, weights = dataset.element_spec
    ids, positions = tf.TensorSpec([4, 32], tf.int32), tf.TensorSpec([4, 5], tf.int32)  # 5 = ceil(0.15 * 32)
    assert inputs == {"token_ids": ids, "padding_mask": ids, "mask_positions": positions}
    assert (labels, weights) == (positions, tf.TensorSpec([4, 5], tf.float32))


def test_positions_are_distinct_rising_and_never_special(tokenizer):
    for inputs, labels, weights in taken(masked_lm_dataset(tokenizer, DOCUMENTS, 32, 4).repeat(5)):
        original = restore(inputs, labels, weights)
        for row in range(4):
            real = weights[row] == 1
            positions = inputs["mask_positions"][row][real]
            assert (np.diff(positions) > 0).all()
            assert not set(original[row, positions].tolist()) & {PAD, CLS, SEP}
            assert set(weights[row].tolist()) <= {0.0, 1.0}
            assert not labels[row][~real].any()
            assert not inputs["mask_positions"][row][~real].any()
            others = np.delete(np.arange(32), positions)
            np.testing.assert_array_equal(inputs["token_ids"][row, others], original[row, others])


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_shares_are_15_and_80_10_10(tokenizer, rate):
    """Each share within 5 standard deviations of a binomial: a right share fails once in two million draws."""
    selectable = selected = masked = changed = 0
    per_position = np.zeros(32)
    replacements = set()
    dataset = masked_lm_dataset(tokenizer, DOCUMENTS[3:], 32, 4, selection_rate=rate)
    for inputs, labels, weights in taken(dataset.repeat(150)):
        original = restore(inputs, labels, weights)
        selectable += np.isin(original, (PAD, CLS, SEP), invert=True).sum()
        row, place = np.nonzero(weights)
        position = inputs["mask_positions"][row, place]
        now = inputs["token_ids"][row, position]
        random = (now != MASK) & (now != labels[row, place])
        selected += len(row)
        masked += (now == MASK).sum()
        changed += random.sum()
        replacements.update(now[random].tolist())
        np.add.at(per_position, position, 1)

    def close(count, total, share):
        return abs(count - total * share) < 5 * math.sqrt(total * share * (1 - share))

    assert selected > 5_000
    assert close(selected, selectable, rate)
    assert close(masked, selected, 0.8)
    ordinary = len(PIECES) - 5
    assert close(changed, selected, 0.1 * (1 - 1 / ordinary))  # A random token may be the one that was there.
    assert replacements == set(range(5, len(PIECES)))
    middle = per_position[1:20]  # In every full window; the first may be [CLS], the end [SEP] or padding.
    assert (abs(middle - middle.mean()) < 5 * np.sqrt(middle.mean())).all()


def test_same_seed_same_batches_other_seed_or_epoch_others(tokenizer):
    first, again, other = (
        [taken(dataset) for _ in range(2)]
        for dataset in (masked_lm_dataset(tokenizer, DOCUMENTS, 32, 4, seed=seed) for seed in (3, 3, 4))
    )
    assert same(first, again)
    assert len(first[0]) == len(other[0]) == len(first[1])
    assert not same(first[0], other[0])
    assert not same(first[0], first[1])
    repeated = taken(masked_lm_dataset(tokenizer, DOCUMENTS, 32, 4, seed=3).repeat(2))
    assert len(repeated) == 2 * len(first[0])
    assert not same(repeated[: len(first[0])], repeated[len(first[0]) :])


def test_masks_differ_between_epochs_and_rows_not_only_the_order(tokenizer):
    dataset = masked_lm_dataset(tokenizer, ["fox " * 126] * 2, 128, 2)
    masks = [tuple(row) for inputs, *_ in taken(dataset.repeat(3)) for row in inputs["mask_positions"].tolist()]
    assert len(set(masks)) == 6


def test_without_shuffle_every_epoch_is_the_same_and_in_order(tokenizer):
    dataset = masked_lm_dataset(tokenizer, DOCUMENTS, 32, 4, shuffle=False)
    first, second = taken(dataset), taken(dataset)
    assert same(first, second)
    ids = np.array(real_rows(first))
    np.testing.assert_array_equal(ids[0], tokenizer([DOCUMENTS[0]])["token_ids"][0])
    np.testing.assert_array_equal(ids[1:3].reshape(-1), tokenizer([DOCUMENTS[1]])["token_ids"][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 2}, "`length` must be an integer of at least 3"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"selection_rate": 0.0}, "`selection_rate` must lie between 0 and 1"),
        ({"selection_rate": 1.0}, "`selection_rate` must lie between 0 and 1"),
        ({"texts": []}, "at least one text"),
        ({"texts": ["fox", " "]}, "empty"),
    ],
)
def test_masked_lm_refuses_bad_arguments(tokenizer, change, message):
    arguments = {"texts": DOCUMENTS, "length": 32, "batch_size": 4, **change}
    with pytest.raises(ValueError, match=message):
        masked_lm_dataset(tokenizer, **arguments)
