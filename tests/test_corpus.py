"""Batches of prepared texts against the texts: what comes back and when, and what damage is named."""

import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from batch_checks import joined, restore, same, taken
from prepared_texts import PAD, SEP, SIZES, WORDS, make_documents, stored, write_jsonl

from krpe_tf.data import PreparedTexts, lanes, load_prepared, prepare
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Many blocks and pools out of few documents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "BLOCK_TOKENS", 64)
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer([*RESERVED_TOKENS, *WORDS])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("prepared")
    return prepare(write_jsonl(folder / "a.jsonl", make_documents(60)), folder / "out", tokenizer=tokenizer, **SIZES)


@pytest.fixture(scope="module")
def masked_lm(prepared):
    return prepared.masked_lm_batches(16, 8, seed=3, shuffle_tokens=800)


@pytest.fixture(scope="module")
def classification(prepared):
    return prepared.classification_batches(64, 256, 16, seed=3, batch_multiple=2, shuffle_tokens=800)


def test_every_window_comes_exactly_once_an_epoch(prepared, masked_lm):
    expected = Counter()
    for shard in stored(prepared, "train"):
        for ids, _ in shard:
            for start in range(0, len(ids), 16):
                if ids[start : start + 16] != [SEP]:
                    window = ids[start : start + 16]
                    expected[tuple(window + [PAD] * (16 - len(window)))] += 1
    steps = masked_lm.steps_per_epoch
    found = taken(masked_lm.dataset(), 2 * steps)
    orders = []
    for epoch in (found[:steps], found[steps:]):
        rows = [tuple(row) for batch in epoch for row in restore(*batch).tolist()]
        orders.append(rows)
        assert Counter(row for row in rows if any(row)) == expected
        padding = [weights[~inputs["padding_mask"].any(axis=1)] for inputs, _, weights in epoch]
        assert not np.concatenate(padding).any()
    assert orders[0] != orders[1]
    assert len(orders[0]) - expected.total() < 0.15 * expected.total()


def test_pools_mix_what_lies_apart(prepared):
    """Successive windows of a lane come from other documents, of more than one block."""
    batches = prepared.masked_lm_batches(16, 1, shuffle_tokens=10**6)
    (lane,) = prepared._lanes("train", 1, 10**6, 0, True)
    assert len(lane.order(0)[0]) > 20
    assert not lane.order(0)[1].any()
    in_order = prepared.masked_lm_batches(16, 1, shuffle=False)
    rows, plain = (
        [tuple(restore(*batch)[0]) for batch in taken(each.dataset(), each.steps_per_epoch)]
        for each in (batches, in_order)
    )
    places = [plain.index(row) for row in rows]
    assert np.abs(np.diff(places)).mean() == pytest.approx(len(plain) / 3, rel=0.2)


def test_every_document_comes_once_an_epoch(prepared, classification):
    batches, report = classification
    expected, cut = Counter(), 0
    for shard in stored(prepared, "train"):
        for ids, label in shard:
            cut += max(0, len(ids) - 64)
            expected[tuple(ids if len(ids) <= 64 else [*ids[:63], SEP]), label] += 1
    assert (report.cut_tokens, report.documents) == (cut, 48)
    steps = batches.steps_per_epoch
    found = taken(batches.dataset(), 2 * steps)
    for epoch in (found[:steps], found[steps:]):
        seen = Counter()
        for inputs, label, weight in epoch:
            rows, bucket = inputs["token_ids"].shape
            assert rows == {16: 16, 32: 8, 64: 4}[bucket]
            for ids, mask, number, real in zip(*inputs.values(), label, weight, strict=True):
                assert mask.any() == real
                assert bucket == 16 or not real or mask.sum() > bucket // 2
                if real:
                    seen[tuple(ids[mask == 1].tolist()), number] += 1
        assert seen == expected
    assert not same(found[:steps], found[steps:])


@pytest.mark.parametrize("kind", ["masked_lm", "classification"])
def test_a_step_is_the_same_from_any_start_and_in_any_number_of_processes(kind, request, prepared):
    batches = request.getfixturevalue(kind)
    batches = batches[0] if kind == "classification" else batches
    steps = batches.steps_per_epoch
    whole = taken(batches.dataset(), 2 * steps + 2)
    for start in (1, steps // 2, steps - 1, steps, 2 * steps):
        assert same(taken(batches.dataset(start), 2), whole[start : start + 2])
    for count in (2, 4):
        if batches.batch_multiple % count == 0:
            parts = [taken(batches.dataset(steps - 2, index, count), 5) for index in range(count)]
            for step in range(5):
                assert same(joined([part[step] for part in parts]), whole[steps - 2 + step])
    with pytest.raises(ValueError, match="process_count must divide batch_multiple"):
        batches.dataset(0, 0, 3)
    again = load_prepared(prepared.path)
    if kind == "masked_lm":
        other = again.masked_lm_batches(16, 8, seed=3, shuffle_tokens=800)
    else:
        other, _ = again.classification_batches(64, 256, 16, seed=3, batch_multiple=2, shuffle_tokens=800)
    assert same(taken(other.dataset(steps + 1), 1), whole[steps + 1 : steps + 2])


def test_validation_is_the_same_each_time_and_whole(prepared):
    batches = prepared.masked_lm_batches(16, 4, shuffle=False, split="validation")
    epoch = batches.epoch()
    assert int(epoch.cardinality()) == batches.steps_per_epoch
    first = taken(epoch)
    assert same(first, taken(epoch))
    assert same(first, taken(batches.dataset(batches.steps_per_epoch), len(first)))
    documents = [ids for shard in stored(prepared, "validation") for ids, _ in shard]
    rows = [row for batch in first for row in restore(*batch).tolist() if any(row)]
    assert len(rows) == sum(math.ceil((len(ids) - 1) / 16) for ids in documents)
    labelled, _ = prepared.classification_batches(64, 256, 16, shuffle=False, split="validation")
    assert sum(weight.sum() for _, _, weight in taken(labelled.epoch())) == len(documents)


def test_few_bytes_a_document_stay_in_memory(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(lanes, "BLOCK_TOKENS", 2**16)
    count = 100_000
    lengths = np.random.default_rng(0).integers(20, 1000, count, "int32")
    (tmp_path / "train").mkdir()
    np.save(tmp_path / "train" / "lengths.npy", lengths)
    tokenizer.save(tmp_path / "tokenizer.json")
    shards = [{"file": "", "documents": count // 4, "tokens": int(part.sum())} for part in np.split(lengths, 4)]
    manifest = {"classes": ["a", "b"], "splits": {"train": {"documents": count, "shards": shards}}}
    prepared = PreparedTexts(tmp_path, manifest)
    for make, most in (
        (lambda: prepared.masked_lm_batches(512, 16), 8.5),
        (lambda: prepared.classification_batches(512, 8192), 9.5),
    ):
        make()  # What TensorFlow sets up once is not of the documents.
        tracemalloc.start()
        try:
            kept = make()
            assert tracemalloc.get_traced_memory()[0] < most * count, kept
        finally:
            tracemalloc.stop()


# damage


@pytest.fixture
def copy(tmp_path, tokenizer):
    source = write_jsonl(tmp_path / "a.jsonl", make_documents(30))
    return prepare(source, tmp_path / "out", tokenizer=tokenizer, **SIZES)


def flip_a_bit(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def test_a_damaged_or_missing_shard_is_named(copy):
    shard = copy.path / "train" / "00002.tfrecord"
    copy.verify()
    for place in (0.0, 0.3, 0.9):
        flip_a_bit(shard, place)
        with pytest.raises(ValueError, match=r"as `prepare` wrote them.*00002\.tfrecord"):
            copy.verify()
        flip_a_bit(shard, place)
    flip_a_bit(shard)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"ValueError: prepared texts must.*00002\.tfrecord"):
        taken(copy.masked_lm_batches(16, 4).dataset(), 30)
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"shard has .* bytes instead of .*00002\.tfrecord"):
        load_prepared(copy.path)
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard is missing.*00002\.tfrecord"):
        load_prepared(copy.path)
    with pytest.raises(ValueError, match=r"00002\.tfrecord"):
        copy.verify()


def test_shards_that_changed_places_are_noticed(copy):
    first, second = (copy.path / "train" / f"0000{number}.tfrecord" for number in (0, 1))
    first.rename(first.with_suffix(".x"))
    second.rename(first)
    first.with_suffix(".x").rename(second)
    with pytest.raises(ValueError, match=r"not those that were written.*0000[01]\.tfrecord"):
        copy.verify()


def test_a_process_reads_its_own_shards_alone(copy):
    batches = copy.masked_lm_batches(16, 4)
    expected = taken(batches.dataset(0, 0, 2), batches.steps_per_epoch)
    for number in (2, 3):  # Of lanes 2 and 3, those of the second process.
        (copy.path / "train" / f"0000{number}.tfrecord").unlink()
    assert same(taken(batches.dataset(0, 0, 2), batches.steps_per_epoch), expected)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"0000[23]\.tfrecord"):
        taken(batches.dataset(0, 1, 2), 1)


def test_damaged_counts_and_manifests_are_named(copy):
    lengths, manifest = copy.path / "train" / "lengths.npy", copy.path / "manifest.json"
    kept = np.load(lengths)
    np.save(lengths, kept + 1)
    with pytest.raises(ValueError, match=r"token counts differ.*lengths\.npy"):
        copy.masked_lm_batches(16, 4)
    lengths.write_bytes(b"")
    with pytest.raises(ValueError, match=r"lengths\.npy"):
        copy.masked_lm_batches(16, 4)
    for text in ("{", "{}", '{"format": 99}'):
        manifest.write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json cannot be read"):
            load_prepared(copy.path)


def test_bad_numbers_are_refused(prepared):
    for arguments, message in (
        ({"length": 2}, "length must be"),
        ({"split": "test"}, "split must be one of 'train', 'validation'"),
        ({"shuffle_tokens": 0}, "shuffle_tokens must be"),
        ({"seed": -1}, "seed must be"),
    ):
        with pytest.raises(ValueError, match=message):
            prepared.masked_lm_batches(**{"length": 16, "batch_size": 4, **arguments})
    with pytest.raises(ValueError, match="batch_multiple must not pass the 4 shards"):
        prepared.classification_batches(64, 256, batch_multiple=8)
