"""Prepared texts against the texts themselves: what is written, and what is refused."""

import errno
import importlib
import json
import os
import re
import resource
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from prepared_texts import SIZES, WORDS, ids_of, make_documents, stored, write_folder, write_jsonl

from krpe_tf.cli import main
from krpe_tf.data import LABELLED_TEXTS, Encoding, is_prepared, load_corpus, prepare, prepare_arrays
from krpe_tf.text import RESERVED_TOKENS, ByteTokenizer, WordPieceTokenizer

# The module, which the function of its name hides.
module = importlib.import_module("krpe_tf.data.prepare")


def test_every_document_is_stored_once_with_its_label(prepared):
    expected = Counter((tuple(ids_of(text)), "abc".index(label)) for text, label in make_documents(60))
    documents = {split: stored(prepared, split) for split in ("train", "validation")}
    assert Counter((tuple(ids), label) for split in documents.values() for ids, label in split) == expected
    assert prepared.classes == ["a", "b", "c"]
    # A fifth of each label's twenty, and the rows' order.
    assert Counter(label for _, label in documents["validation"]) == {0: 4, 1: 4, 2: 4}
    order = [ids_of(text) for text, _ in make_documents(60)]
    for split in documents.values():
        places = [order.index(ids) for ids, _ in split]
        assert places == sorted(places)
    assert prepared.documents() == 48
    assert prepared.tokens() == sum(len(ids) for ids, _ in documents["train"])


def test_ids_take_two_bytes_where_the_vocabulary_allows_it(tmp_path, prepared):
    assert prepared.manifest["splits"]["train"]["fields"]["token_ids"]["dtype"] == "uint16"
    vocabulary = [*RESERVED_TOKENS, *(f"x{number}" for number in range(2**16)), *WORDS]
    source = write_jsonl(tmp_path / "a.jsonl", make_documents(12))
    large = prepare(source, tmp_path / "out", tokenizer=WordPieceTokenizer(vocabulary), **SIZES)
    assert large.manifest["splits"]["train"]["fields"]["token_ids"]["dtype"] == "int32"
    moved = {5 + number: 5 + 2**16 + number for number in range(len(WORDS))}
    expected = [[moved.get(token, token) for token in ids_of(text)] for text, _ in make_documents(12)]
    found = [ids for split in ("train", "validation") for ids, _ in stored(large, split)]
    assert sorted(found) == sorted(expected)


def test_the_same_source_and_seed_give_the_same_bytes(tmp_path, words_tokenizer):
    source = write_folder(tmp_path / "texts", make_documents(20))
    folders = [
        prepare(source, tmp_path / name, tokenizer=words_tokenizer, seed=seed, **SIZES).path
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    content = [
        {str(file.relative_to(folder)): file.read_bytes() for folder in [each] for file in folder.rglob("*.*")}
        for each in folders
    ]
    assert content[0] == content[1]
    assert len(content[0]) == 2 + 2 * 6  # Three arrays a split, and the checksums of each.
    assert content[0] != content[2]


def test_folders_and_files_with_and_without_labels(tmp_path, words_tokenizer):
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
    expected = Counter(tuple(ids_of(text)) for text, _ in documents)
    for name, source, arguments, classes in (
        ("1", by_label, {}, ["a", "b", "c"]),
        ("2", by_label, {"labelled": False}, None),
        ("3", flat.parent, {}, None),
        ("4", rows, {"labelled": False, "text_column": "body"}, None),
    ):
        prepared = prepare(source, tmp_path / name, tokenizer=words_tokenizer, **SIZES, **arguments)
        assert prepared.classes == classes
        found = [each for split in ("train", "validation") for each in stored(prepared, split)]
        assert Counter(tuple(ids) for ids, *_ in found) == expected
        assert all(len(each) == (1 if classes is None else 2) for each in found)
    with pytest.raises(ValueError, match="needs documents with labels"):
        prepared.classification_batches(32, 64)
    for arguments in ({"labelled": True}, {"encoding": LABELLED_TEXTS}):
        with pytest.raises(
            ValueError, match=r"each in a subfolder that names its label\. Not read would be 6 right in"
        ):
            prepare(flat.parent, tmp_path / "5", **arguments)


def test_a_label_that_a_task_needs_is_not_ignored(tmp_path, capsys):
    source = write_folder(tmp_path / "texts", make_documents(12))
    arguments = ["prepare", str(source), "--output", str(tmp_path / "out"), "--task", "text_classification"]
    assert main([*arguments, "--unlabelled"]) == 2
    assert "`labelled` must agree with `encoding` (--unlabelled with --task)" in capsys.readouterr().err
    for number in range(12):
        (source / f"misplaced{number}.txt").write_text("alpha", "utf-8")
    assert main(arguments) == 2
    assert "each in a subfolder that names its label. Not read would be 12 right in" in capsys.readouterr().err


def test_a_sample_of_white_space_alone_is_left_out(tmp_path):
    rows = [("\n" * 60 + "gamma", "a"), ("alpha beta", "b")]
    source = write_jsonl(tmp_path / "a.jsonl", rows * 5)
    arguments = {"vocabulary_size": 64, "vocabulary_bytes": 60, "validation_fraction": 0, "progress": False}
    assert prepare(source, tmp_path / "out", **arguments).documents() == 10


def test_columns_of_any_task_have_the_names_that_a_file_gives_them(tmp_path):
    rows = [
        {"words": text.split(), "tags": ["O"] * 8 + ["X"] * (len(text.split()) - 8)} for text, _ in make_documents(9)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    names = ["--tokens-column", "words", "--labels-column", "tags"]
    arguments = ["--task", "token_classification", "--vocabulary-size", "64", "--output", str(tmp_path / "out")]
    arguments += ["--validation-fraction", "0"]
    assert main(["prepare", str(tmp_path / "a.jsonl"), *arguments, *names]) == 0
    assert load_corpus(tmp_path / "out").classes == ["O", "X"]


def test_the_command_learns_a_vocabulary_and_says_what_it_left_out(tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    source = write_folder(tmp_path / "texts", [*make_documents(30), ("\u200b \n", "a")])
    arguments = ["prepare", str(source), "--output", str(tmp_path / "new" / "out"), "--vocabulary-size", "100"]
    with pytest.warns(DeprecationWarning, match="`num_shards` has no effect since 0.2"):
        assert main([*arguments, "--num-shards", "2"]) == 0
    prepared = load_corpus(tmp_path / "new" / "out")
    assert is_prepared(prepared.path)
    assert set(WORDS) <= set(prepared.tokenizer.vocabulary)
    assert prepared.manifest["left_out"] == 1
    assert prepared.documents() + prepared.documents("validation") == 30
    said = capsys.readouterr().out
    assert f"train: {prepared.documents()} documents, {prepared.tokens():,} tokens" in said
    assert "0.00 % of the tokens are [UNK]" in caplog.text
    prepared.verify()
    assert main(arguments) == 2
    assert (
        "`output` must be free, or a folder to overwrite, with overwrite=True (--overwrite)" in capsys.readouterr().err
    )
    assert main([*arguments, "--overwrite", "--unlabelled", "--validation-fraction", "0", "--cased"]) == 0
    prepared = load_corpus(prepared.path)
    assert (prepared.classes, prepared.documents(), prepared.documents("validation")) == (None, 30, 0)
    assert not prepared.tokenizer.lowercase
    prepared.verify()
    with pytest.raises(ValueError, match=r"`split` must hold documents.*split='validation'"):
        prepared.masked_lm_batches(16, 2, split="validation")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out"]


def test_a_vocabulary_is_learned_from_about_as_much_as_asked_and_never_from_what_is_held_out(tmp_path, monkeypatch):
    documents = [(f"{text} held{number}", label) for number, (text, label) in enumerate(make_documents(200))]
    source = write_jsonl(tmp_path / "a.jsonl", documents)
    learned = []
    original = module.learn_tokenizer
    monkeypatch.setattr(module, "learn_tokenizer", lambda texts, *args: learned.append(texts) or original(texts, *args))
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
        ('{"text": "alpha", "label": "a"}\n' * 3, {}, "two labels or more. Received: 'a' in 3 documents"),
        ('{"text": "alpha", "label": "a"}\n{"text": "beta", "label": " "}\n', {}, "empty label. Received: row 2"),
        ('{"text": "alpha"}\n', {}, "`label_column` must be one of"),
        ('{"text": "alpha", "label": "a"}\n{"text": "b\\ud800", "label": "b"}\n', {}, "valid UTF-8.*row 2"),
        (b'{"text": "alpha\xff", "label": "a"}\n', {}, "valid UTF-8.*jsonl"),
        ('{"text": " ", "label": "a"}\n', {}, "`source` must hold texts"),
        ("", {}, "`source` must hold texts"),
        ('{"text": "alpha"}\n', {"labelled": False}, "enough different texts to hold some out"),
        ("", {"validation_fraction": 1.0}, r"`validation_fraction` must lie in \[0, 1\).*1.0"),
        ("", {"num_shards": 0}, "`num_shards` must be"),
        ("", {"vocabulary_size": 8}, "`vocabulary_size` must be"),
        ("", {"seed": -1}, "`seed` must be"),
        ("", {"vocabulary_bytes": 0}, "`vocabulary_bytes` must be"),
    ],
)
def test_bad_sources_and_numbers_leave_nothing(tmp_path, content, arguments, message):
    source = tmp_path / "a.jsonl"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        prepare(source, tmp_path / "out", **{"progress": False, "vocabulary_size": 64, **arguments})
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_bad_places_are_refused_before_any_work(tmp_path, words_tokenizer):
    source = write_folder(tmp_path / "texts", make_documents(6))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("alpha")
    (tmp_path / "file").write_text("alpha")
    for output, arguments, message in (
        (tmp_path / "taken", {}, "`output` must be free"),
        (tmp_path / "taken", {"overwrite": True}, "other things in it"),
        (tmp_path / "file", {"overwrite": True}, "`output` must be free"),
        (tmp_path / "file" / "out", {}, "`output` must be a folder that can be written"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(source, output, **arguments)
    assert (tmp_path / "taken" / "mine.txt").read_text() == "alpha"
    for path, message in ((tmp_path / "missing", "exists"), (tmp_path / "file", ".csv file")):
        with pytest.raises(ValueError, match=message):
            prepare(path, tmp_path / "out")
    (tmp_path / "texts" / "a" / "x.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"valid UTF-8.*x\.txt"):
        prepare(tmp_path / "texts", tmp_path / "out", tokenizer=words_tokenizer)
    with pytest.raises(ValueError, match=r"`path` must be a folder that `prepare` wrote"):
        load_corpus(tmp_path / "taken")


@pytest.mark.parametrize("limit", [100, 3000])  # The first file of all, and an array.
def test_a_full_disk_is_said_and_nothing_is_left(tmp_path, capsys, limit):
    source = write_jsonl(tmp_path / "a.jsonl", list(make_documents(60)) * 3)
    command = ["prepare", str(source), "--output", str(tmp_path / "out"), "--vocabulary-size", "64"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        code = main(command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert code == 1, said
    assert re.search(rf"cannot be written \(.*File too large.*\): '{tmp_path}/out'", said)
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_a_source_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    source = write_jsonl(tmp_path / "a.jsonl", make_documents(6))

    def refused(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(source))

    # Permissions do not stop a superuser.
    monkeypatch.setattr("krpe_tf.data.readers.open", refused, raising=False)
    with pytest.raises(ValueError, match=r"`source` must be a readable file \(Permission denied\).*a\.jsonl"):
        prepare(source, tmp_path / "out", **SIZES)
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_an_error_in_the_middle_leaves_nothing(tmp_path, words_tokenizer):
    """Raised in a thread, while others are at work."""

    def encode(rows, tokenizer, classes):
        if any("broken" in row["text"] for row in rows):
            raise RuntimeError("a bug")
        return {"token_ids": tokenizer.encode([row["text"] for row in rows])}

    source = write_jsonl(tmp_path / "a.jsonl", [*make_documents(600), ("broken", "a"), *make_documents(600)])
    with pytest.raises(RuntimeError, match="a bug"):
        prepare(source, tmp_path / "out", tokenizer=words_tokenizer, encoding=Encoding(("text",), encode), **SIZES)
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_an_encoding_of_ones_own(tmp_path, words_tokenizer):
    """Two ragged fields and a number, with labels that a row has two of."""

    def encode(rows, tokenizer, classes):
        ids = tokenizer.encode([row["text"] for row in rows])
        return {
            "token_ids": ids,
            "tags": [np.arange(len(each)) - 1 for each in ids],
            "label": [classes.index(row["label"] + "!") for row in rows],
        }

    encoding = Encoding(("text", "label"), encode, label=lambda row: (row["label"], row["label"] + "!"))
    source = write_jsonl(tmp_path / "a.jsonl", make_documents(200))
    corpus = prepare(source, tmp_path / "out", tokenizer=words_tokenizer, encoding=encoding, **SIZES)
    assert corpus.classes == ["a", "a!", "b", "b!", "c", "c!"]
    corpus.verify()
    texts = {tuple(ids_of(text)): label for text, label in make_documents(200)}
    count = 0
    for split in ("train", "validation"):
        fields = corpus[split]
        for index, label in enumerate(fields["label"]):
            ids = fields["token_ids"][index].tolist()
            assert corpus.classes[label] == texts[tuple(ids)] + "!"
            assert fields["tags"][index].tolist() == list(range(-1, len(ids) - 1))
            count += 1
    assert count == 200


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from krpe_tf.data import prepare
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer

words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
tokenizer = WordPieceTokenizer([*RESERVED_TOKENS, *words])

def memory(name):
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024

def run(name, megabytes):
    source = Path(sys.argv[1], f"{name}.jsonl")
    text = " ".join(np.random.default_rng(0).choice(words, 3500))
    with open(source, "w") as file:
        for number in range(megabytes * 10**6 // len(text)):
            file.write('{"text": "' + text + f' {number}"' + "}" + chr(10))
    prepared = prepare(
        source, Path(sys.argv[1], name), tokenizer=tokenizer, labelled=False, progress=False
    )
    after_preparing = memory("VmHWM")
    batches = prepared.masked_lm_batches(512, 16)
    # Of the process's own memory: what is mapped of the file can be dropped at any time.
    most = 0
    for _ in batches.dataset().take(batches.steps_per_epoch):
        most = max(most, memory("RssAnon"))
    return source.stat().st_size, 4 * prepared.tokens(), after_preparing, most

_, _, before, before_reading = run("small", 8)
size, held, preparing, reading = run("large", 160)
print(size, held, preparing - before, reading - before_reading)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    # Else glibc keeps an arena for each thread: up to 60 MB that no object holds.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "MALLOC_ARENA_MAX": "2"}
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    size, held, preparing, reading = map(int, done.stdout.split())
    assert size > 150e6
    assert preparing < 50e6
    assert reading < 50e6 < held


def test_arrays_of_ids_become_a_folder(tmp_path):
    ids, labels = [np.array([5, 9, 258]), np.array([7], "uint8"), np.arange(3, 203)], [1, 0, 1]
    found = prepare_arrays(tmp_path / "out", {"train": (ids, labels)}, ["cat", "dog"], ByteTokenizer())
    found.verify()
    again = load_corpus(tmp_path / "out")
    assert stored(again, "train") == [(array.tolist(), label) for array, label in zip(ids, labels, strict=True)]
    assert (again.documents("train"), again.documents("validation"), again.tokens()) == (3, 0, 204)
    assert (again.classes, again.columns) == (["cat", "dog"], ("text", "label"))
    both = {"train": (ids, labels), "validation": (ids[:1], [0])}
    other = prepare_arrays(tmp_path / "out", both, ["cat", "dog"], ByteTokenizer(), overwrite=True)
    assert stored(other, "validation") == [(ids[0].tolist(), 0)]
    assert other.manifest["labels"] == {"cat": 2, "dog": 2}


@pytest.mark.parametrize(
    ("ids", "labels", "message"),
    [
        ([[4]], [0, 1], r"an integer label for each. Received: 1 documents and labels of shape \(2,\)"),
        ([], [], "Received: 0 documents"),
        ([[4]], [0.0], "labels of shape .* of float64"),
        ([[4]], [2], "labels from 0 to 1. Received: 2 to 2 in 'train'"),
        ([[4], [4, 0]], [0, 1], "without 0, the padding. Received: 0 to 4 at 1 of 'train'"),
        ([[4], [259]], [0, 1], "ids from 0 to 258, .*Received: 259 to 259 at 1"),
        ([[4], [[4]]], [0, 1], r"arrays \(n,\) of integers, n at least 1. Received: shape \(1, 1\)"),
        ([[4], []], [0, 1], r"n at least 1. Received: shape \(0,\)"),
    ],
)
def test_bad_arrays_leave_nothing(tmp_path, ids, labels, message):
    with pytest.raises(ValueError, match=f"`splits` must hold .*{message}"):
        prepare_arrays(tmp_path / "out" / "deep", {"train": (ids, labels)}, ["a", "b"], ByteTokenizer())
    assert not any(tmp_path.iterdir())


def test_arrays_need_classes_a_training_part_and_a_free_place(tmp_path):
    part = ([[4]], [0])
    for splits, classes, message in (
        ({"train": part}, ["a", "a"], "`classes` must be two different names or more"),
        ({"test": part}, ["a", "b"], "`splits` must hold 'train', and may hold 'validation'. Received: test"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare_arrays(tmp_path / "out", splits, classes, ByteTokenizer())
    with pytest.raises(ValueError, match="`output` must be free"):
        prepare_arrays(tmp_path, {"train": part}, ["a", "b"], ByteTokenizer())
