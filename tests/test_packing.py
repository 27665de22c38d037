"""Short documents that share a row: every one whole and once, little padding, the same batches from any step.

tests/test_kill_and_resume.py trains on them, and resumes.
"""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from batch_checks import joined, restore, same, taken
from hypothesis import given
from hypothesis import strategies as st
from prepared_texts import ids_of, make_text, windows_of

from krpe_tf.data import Ragged, load_corpus, masked_lm_batches, masking, windows
from krpe_tf.data.packing import pack
from krpe_tf.runs import RunSettings
from krpe_tf.tasks import MASKED_LM

DOCUMENTS = [make_text(words, words) for words in (*range(1, 29), 31, 62, 63, 200, 1, 9, 9, 9)]
WINDOWS = windows_of(map(ids_of, DOCUMENTS), 32)


@pytest.fixture(scope="module")
def packed(words_tokenizer):
    return masked_lm_batches(words_tokenizer, DOCUMENTS, 32, 4, seed=5, packing=True)


def documents_of(batches):
    """The windows of some batches, padded to a row, as their segments tell them apart."""
    found = []
    for inputs, labels, weights in batches:
        ids, segments = restore(inputs, labels, weights), inputs["segment_ids"]
        for row, of in zip(ids, segments, strict=True):
            np.testing.assert_array_equal(row == 0, of == 0)
            for segment in range(1, of.max() + 1):
                places = np.flatnonzero(of == segment)
                assert (np.diff(places) == 1).all()
                found.append((*row[places].tolist(), *[0] * (len(row) - len(places))))
    return found


@given(size=st.integers(3, 40), lengths=st.lists(st.integers(1, 1000), max_size=80))
def test_rows_hold_every_piece_once_and_no_row_too_much(size, lengths):
    lengths = np.array([1 + length % size for length in lengths], int)
    pieces, starts = pack(lengths, size)
    assert sorted(pieces.tolist()) == list(range(len(lengths)))
    rows = [pieces[start:end].tolist() for start, end in itertools.pairwise(starts)]
    assert all(row == sorted(row) and lengths[row].sum() <= size for row in rows)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    # No two rows could be one.
    room = np.sort([size - lengths[row].sum() for row in rows])
    assert len(rows) < 2 or size - room[-1] > room[-2]


@pytest.mark.parametrize("size", [128, 512, 2048])
def test_short_documents_leave_little_padding(size):
    lengths = np.clip(np.exp(np.random.default_rng(0).normal(4, 0.8, 5000)).astype(int) + 2, 3, size)
    assert 1 - lengths.mean() / size > 0.45
    _, starts = pack(lengths, size)
    assert 1 - lengths.sum() / (size * (len(starts) - 1)) < 0.03


def test_every_window_comes_exactly_once_an_epoch(packed):
    steps = packed.steps_per_epoch
    assert steps < -(-len(WINDOWS) // 4) / 1.5
    for epoch in range(2):
        assert Counter(documents_of(taken(packed.steps(epoch * steps), steps))) == Counter(WINDOWS)


def test_batches_depend_on_seed_and_step_alone(packed, words_tokenizer):
    steps = packed.steps_per_epoch
    whole = taken(packed, 2 * steps)
    again = masked_lm_batches(words_tokenizer, DOCUMENTS, 32, 4, seed=5, packing=True)
    for start in (0, 1, steps - 1, steps):
        assert same(again[start], whole[start])
        assert same(taken(packed.dataset(start), 1), whole[start : start + 1])
        parts = [packed.rows(start, index, 2) for index in range(2)]
        assert same(joined(parts), whole[start])
    assert not same(whole[:steps], whole[steps:])
    fixed = masked_lm_batches(words_tokenizer, DOCUMENTS, 32, 4, shuffle=False, packing=True)
    assert same(fixed[1], fixed[1 + fixed.steps_per_epoch])


def test_memory_and_disk_give_the_same_rows(prepared):
    def make(sequences):
        transform = masking(prepared.tokenizer)
        return windows(sequences, 64, 4, pad_id=prepared.tokenizer.pad_id, seed=3, transform=transform, packing=True)

    stored = prepared["train"]["token_ids"]
    memory = Ragged.join([stored[index] for index in range(len(stored))])
    assert same(taken(make(memory), 9), taken(make(load_corpus(prepared.path)["train"]["token_ids"]), 9))
    assert same(prepared.masked_lm_batches(64, 4, seed=3, packing=True)[2], make(memory)[2])


def test_without_a_transform_and_without_documents():
    batches = windows(
        Ragged.join([[2, 7, 3], [2, 8, 9, 3], [2, 5, 5, 5, 3]]), 8, 1, pad_id=0, shuffle=False, packing=True
    )
    ((inputs,), (second,)) = taken(batches, 2)
    np.testing.assert_array_equal(inputs["token_ids"], [[2, 7, 3, 2, 5, 5, 5, 3]])
    np.testing.assert_array_equal(inputs["segment_ids"], [[1, 1, 1, 2, 2, 2, 2, 2]])
    np.testing.assert_array_equal(second["segment_ids"], [[1, 1, 1, 1, 0, 0, 0, 0]])
    assert set(batches.signature[0]) == {"token_ids", "padding_mask", "segment_ids"}
    with pytest.raises(ValueError, match="`sequences` must hold"):
        windows(Ragged.join([]), 8, 1, pad_id=0, packing=True)


def test_the_task_packs_if_it_is_asked(prepared, caplog):
    caplog.set_level("INFO")
    found = {}
    for packing in (False, True):
        settings = RunSettings(pretrain_length=128, pretrain_batch_size=2, pretrain_packing=packing)
        found[packing] = MASKED_LM.batches(prepared, "train", settings, 0, 1)
    assert found[True].steps_per_epoch < 0.7 * found[False].steps_per_epoch
    assert "segment_ids" not in found[False][0][0]
    assert found[True][0][0]["segment_ids"].max() > 1
    plain, packed = (record.getMessage() for record in caplog.records[-2:])
    assert re.fullmatch(r"train: 5\d.* % of the masked-LM windows is padding; .*`pretrain_packing` leaves less", plain)
    assert re.fullmatch(r"train: .* % of the masked-LM windows is padding", packed)
    with pytest.raises(ValueError, match=r"`pretrain_packing` must be one of False, True.*='yes'"):
        RunSettings(pretrain_packing="yes")
