"""Prepared texts against the texts themselves: what is written, what comes back and when, and what is refused."""

import json
import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from krpe_tf import lanes
from krpe_tf.__main__ import main
from krpe_tf.prepared import is_prepared
from krpe_tf.shards import _holdout, load_prepared, prepare
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
PAD, UNK, CLS, SEP, MASK = range(5)
SIZES = {"validation_fraction": 0.2, "num_shards": 4, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Many blocks and pools out of few documents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "BLOCK_TOKENS", 64)
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer([*RESERVED_TOKENS, *WORDS])


def make_documents(count):
    """Texts, none like another, and labels."""
    for number in range(count):
        random = np.random.default_rng(number)
        yield " ".join(random.choice(WORDS, 8 + random.integers(1, 90))), "abc"[number % 3]


def write_jsonl(path, documents):
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in documents), "utf-8")
    return path


def write_folder(path, documents):
    for number, (text, label) in enumerate(documents):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{number}.txt").write_text(text, "utf-8")
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("prepared")
    return prepare(write_jsonl(folder / "a.jsonl", make_documents(60)), folder / "out", tokenizer=tokenizer, **SIZES)


def stored(prepared, split):
    """(ids, label) of every document of every shard, read by nothing of ours."""
    shards = []
    for shard in prepared.manifest["splits"][split]["shards"]:
        found = []
        for record in tf.data.TFRecordDataset(str(prepared.path / shard["file"])).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            found.append((list(features["token_ids"].int64_list.value), *features["label"].int64_list.value))
        assert (shard["documents"], shard["tokens"]) == (len(found), sum(len(ids) for ids, *_ in found))
        shards.append(found)
    return shards


def taken(dataset, count=-1):
    return [tf.nest.map_structure(lambda x: x.numpy(), batch) for batch in dataset.take(count)]


def same(left, right):
    left, right = tf.nest.flatten(left), tf.nest.flatten(right)
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def joined(parts):
    return tf.nest.map_structure(lambda *rows: np.concatenate(rows), *parts)


def restore(inputs, labels, weights):
    ids = inputs["token_ids"].copy()
    row, place = np.nonzero(weights)
    ids[row, inputs["mask_positions"][row, place]] = labels[row, place]
    return ids


# what is written


def test_every_document_is_stored_once_with_its_label(prepared, tokenizer):
    texts, labels = zip(*make_documents(60), strict=True)
    ids = [tuple(each.tolist()) for each in tokenizer.encode(texts)]
    expected = Counter(zip(ids, map("abc".index, labels), strict=True))
    shards = {split: stored(prepared, split) for split in ("train", "validation")}
    found = Counter((tuple(ids), label) for split in shards.values() for shard in split for ids, label in shard)
    assert found == expected
    assert prepared.classes == ["a", "b", "c"]
    # A fifth of each label's twenty, and shards that differ by no more than a document.
    assert Counter(label for shard in shards["validation"] for _, label in shard) == {0: 4, 1: 4, 2: 4}
    tokens = [sum(len(ids) for ids, _ in shard) for shard in shards["train"]]
    assert max(tokens) - min(tokens) <= max(len(ids) for ids, _ in expected)
    assert prepared.documents() == 48
    assert prepared.tokens() == sum(tokens)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(fraction=st.floats(0.01, 0.95), count=st.integers(1, 300), seed=st.integers(0, 9))
def test_held_out_are_a_fraction_of_every_label_and_never_its_first(fraction, count, seed):
    held_out = _holdout(fraction, seed)
    held = [[held_out(label) for label in "ab"] for _ in range(count)]
    for chosen in zip(*held, strict=True):
        assert not chosen[0]
        assert abs(sum(chosen) - fraction * count) <= 2
    again = _holdout(fraction, seed)
    assert held == [[again(label) for label in "ab"] for _ in range(count)]
    assert not any(map(_holdout(0, seed), "ab"))


def test_the_same_source_and_seed_give_the_same_bytes(tmp_path, tokenizer):
    source = write_folder(tmp_path / "texts", make_documents(20))
    folders = [
        prepare(source, tmp_path / name, tokenizer=tokenizer, seed=seed, **SIZES).path
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    content = [
        {str(file.relative_to(folder)): file.read_bytes() for folder in [each] for file in folder.rglob("*.*")}
        for each in folders
    ]
    assert content[0] == content[1]
    assert len(content[0]) == 2 + 2 * 5
    assert content[0] != content[2]


def test_folders_and_files_with_and_without_labels(tmp_path, tokenizer):
    documents = list(make_documents(12))
    by_label = write_folder(tmp_path / "labelled", documents)
    flat = tmp_path / "flat" / "deep"
    flat.mkdir(parents=True)
    for number, (text, _) in enumerate(documents):
        (flat.parent if number % 2 else flat).joinpath(f"{number}.txt").write_text(text, "utf-8")
    (flat / ".hidden.txt").write_text("alpha", "utf-8")
    (flat / "other.md").write_text("alpha", "utf-8")
    rows = tmp_path / "rows.csv"
    rows.write_text("body\n" + "".join(f"{text}\n" for text, _ in documents), "utf-8")
    expected = Counter(tuple(ids.tolist()) for ids in tokenizer.encode([text for text, _ in documents]))
    for name, source, arguments, classes in (
        ("1", by_label, {}, ["a", "b", "c"]),
        ("2", by_label, {"labelled": False}, None),
        ("3", flat.parent, {}, None),
        ("4", rows, {"labelled": False, "text_column": "body"}, None),
    ):
        prepared = prepare(source, tmp_path / name, tokenizer=tokenizer, **SIZES, **arguments)
        assert prepared.classes == classes
        found = [each for split in ("train", "validation") for shard in stored(prepared, split) for each in shard]
        assert Counter(tuple(ids) for ids, *_ in found) == expected
        assert all(len(each) == (1 if classes is None else 2) for each in found)
    with pytest.raises(ValueError, match="needs texts prepared with labels"):
        prepared.classification_batches(32, 64)
    with pytest.raises(ValueError, match="two subfolders or more"):
        prepare(flat.parent, tmp_path / "5", labelled=True)


def test_the_command_learns_a_vocabulary_and_says_what_it_left_out(tmp_path, capsys):
    source = write_folder(tmp_path / "texts", [*make_documents(30), ("\u200b \n", "a")])
    arguments = ["prepare", str(source), "--output", str(tmp_path / "new" / "out"), "--vocabulary-size", "100"]
    assert main([*arguments, "--num-shards", "2"]) == 0
    prepared = load_prepared(tmp_path / "new" / "out")
    assert is_prepared(prepared.path)
    assert set(WORDS) <= set(prepared.tokenizer.vocabulary)
    assert prepared.manifest["left_out"] == 1
    assert prepared.documents() + prepared.documents("validation") == 30
    said = capsys.readouterr().out
    assert f"train: {prepared.documents()} documents, {prepared.tokens():,} tokens" in said
    prepared.verify()
    assert main(arguments) == 2
    assert "output must be free, or a folder to overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--unlabelled", "--validation-fraction", "0"]) == 0
    prepared = load_prepared(prepared.path)
    assert (prepared.classes, prepared.documents(), prepared.documents("validation")) == (None, 30, 0)
    with pytest.raises(ValueError, match=r"split must hold documents.*split='validation'"):
        prepared.masked_lm_batches(16, 2, split="validation")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out"]


def test_a_vocabulary_is_learned_from_about_as_much_as_asked_and_never_from_what_is_held_out(tmp_path, monkeypatch):
    from krpe_tf import shards

    documents = [(f"{text} held{number}", label) for number, (text, label) in enumerate(make_documents(200))]
    source = write_jsonl(tmp_path / "a.jsonl", documents)
    learned = []
    original = shards.train_wordpiece
    monkeypatch.setattr(shards, "train_wordpiece", lambda texts, size: learned.append(texts) or original(texts, size))
    prepare(source, tmp_path / "out", vocabulary_size=100, vocabulary_bytes=10_000, **SIZES)
    total = sum(map(len, learned[0]))
    assert 5_000 < total <= 10_000
    whole = tmp_path / "whole"
    prepare(source, whole, vocabulary_size=100, vocabulary_bytes=10**6, overwrite=True, **SIZES)
    assert len(learned[1]) == 160
    prepare(source, whole, vocabulary_size=100, vocabulary_bytes=50, overwrite=True, **SIZES)
    assert len(learned[2][0]) == 50


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ('{"text": "alpha", "label": "a"}\n' * 3, {}, "two labels or more, all are 'a'"),
        ('{"text": "alpha", "label": "a"}\n{"text": "beta", "label": " "}\n', {}, "empty label. Received: row 2"),
        ('{"text": "alpha"}\n', {}, "label_column must be one of"),
        ('{"text": "alpha", "label": "a"}\n{"text": "b\\ud800", "label": "b"}\n', {}, "valid UTF-8.*row 2"),
        (b'{"text": "alpha\xff", "label": "a"}\n', {}, "valid UTF-8.*jsonl"),
        ('{"text": " ", "label": "a"}\n', {}, "source must hold texts"),
        ("", {}, "source must hold texts"),
        ('{"text": "alpha"}\n', {"labelled": False}, "enough texts to hold some out"),
        ("", {"validation_fraction": 1.0}, r"validation_fraction must lie in \[0, 1\).*1.0"),
        ("", {"num_shards": 0}, "num_shards must be"),
        ("", {"vocabulary_size": 8}, "vocabulary_size must be"),
        ("", {"seed": -1}, "seed must be"),
        ("", {"vocabulary_bytes": 0}, "vocabulary_bytes must be"),
    ],
)
def test_bad_sources_and_numbers_leave_nothing(tmp_path, content, arguments, message):
    source = tmp_path / "a.jsonl"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        prepare(source, tmp_path / "out", **{"progress": False, "vocabulary_size": 64, **arguments})
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_bad_places_are_refused_before_any_work(tmp_path, tokenizer):
    source = write_folder(tmp_path / "texts", make_documents(6))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("alpha")
    (tmp_path / "file").write_text("alpha")
    for output, arguments, message in (
        (tmp_path / "taken", {}, "output must be free"),
        (tmp_path / "taken", {"overwrite": True}, "other things in it"),
        (tmp_path / "file", {"overwrite": True}, "output must be free"),
        (tmp_path / "file" / "out", {}, "output must be a folder that can be written"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(source, output, **arguments)
    assert (tmp_path / "taken" / "mine.txt").read_text() == "alpha"
    for path, message in ((tmp_path / "missing", "exists"), (tmp_path / "file", ".csv file")):
        with pytest.raises(ValueError, match=message):
            prepare(path, tmp_path / "out")
    (tmp_path / "texts" / "a" / "x.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"valid UTF-8.*x\.txt"):
        prepare(tmp_path / "texts", tmp_path / "out", tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"path must be a folder that `prepare` wrote"):
        load_prepared(tmp_path / "taken")


# what comes back


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


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from krpe_tf.shards import prepare
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer

words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
tokenizer = WordPieceTokenizer([*RESERVED_TOKENS, *words])

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

def run(name, megabytes):
    source = Path(sys.argv[1], f"{name}.jsonl")
    text = " ".join(np.random.default_rng(0).choice(words, 3500))
    with open(source, "w") as file:
        for _ in range(megabytes * 10**6 // len(text)):
            file.write('{"text": "' + text + '"}' + chr(10))
    prepared = prepare(
        source, Path(sys.argv[1], name), tokenizer=tokenizer, labelled=False, num_shards=8, progress=False
    )
    after_preparing = peak()
    batches = prepared.masked_lm_batches(512, 16, shuffle_tokens=2**18)
    for _ in batches.dataset().take(batches.steps_per_epoch):
        pass
    return source.stat().st_size, 4 * prepared.tokens(), after_preparing, peak()

_, _, _, before = run("small", 8)
size, held, preparing, reading = run("large", 160)
print(size, held, preparing - before, reading - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    size, held, preparing, reading = map(int, done.stdout.split())
    assert size > 150e6
    assert preparing < 50e6
    assert reading < 50e6 < held
