import csv
import json
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from krpe_tf.data import CutReport, LabelledTexts, classification_dataset, load_labelled_texts, split_holdout
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer

ROWS = [('A text, with\na line break and a "quote".', "yes"), ("é 中", "no"), ("third", "yes")]
TEXTS = LabelledTexts([text for text, _ in ROWS], [label for _, label in ROWS])


def write_csv(path, rows, header=("label", "text", "more")):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *((label, text, "x") for text, label in rows)])
    return path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n\n" for text, label in rows), "utf-8")
    return path


# load_labelled_texts


def test_csv_and_jsonl(tmp_path):
    assert load_labelled_texts(write_csv(tmp_path / "a.csv", ROWS)) == TEXTS
    assert load_labelled_texts(str(write_jsonl(tmp_path / "a.JSONL", ROWS))) == TEXTS
    other = write_csv(tmp_path / "b.csv", ROWS, header=("kind", "body", "more"))
    assert load_labelled_texts(other, text_column="body", label_column="kind") == TEXTS
    assert TEXTS.classes == ["no", "yes"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    for path in (write_csv(tmp_path / "a.csv", ROWS), write_jsonl(tmp_path / "a.jsonl", ROWS)):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert load_labelled_texts(path, label_column="label") == TEXTS


def test_long_documents_in_a_csv(tmp_path):
    limit = csv.field_size_limit()
    rows = [("word " * 400_000, "a"), ("short", "b")]
    assert load_labelled_texts(write_csv(tmp_path / "a.csv", rows)).texts[0] == rows[0][0]
    assert csv.field_size_limit() == limit


def test_integer_labels_in_jsonl_become_strings(tmp_path):
    assert load_labelled_texts(write_jsonl(tmp_path / "a.jsonl", [("x", 1), ("y", " 0 ")])).labels == ["1", "0"]


def test_folder_per_label(tmp_path):
    files = {"b/2.txt": "two", "b/1.txt": "one", "a/x.txt": "é\n", ".c/x.txt": "no", "a/x.md": "no", "a/.txt": "no"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "top.txt").write_text("no")
    assert load_labelled_texts(tmp_path) == LabelledTexts(["é\n", "one", "two"], ["a", "b", "b"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "label,body\nx,y\n", r"text_column must be one of \['label', 'body'\].*text_column='text'"),
        ("a.csv", "text,kind\nx,y\n", r"label_column must be one of \['text', 'kind'\]"),
        ("a.csv", "", r"text_column must be one of \[\]"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "text,label\nx,a\ny,a\n", "two labels or more, all are 'a'"),
        ("a.csv", "text,label\nx,a\n  ,b\n", "empty text. Received: row 2 of .*a.csv"),
        ("a.csv", "text,label\nx,a\ny\n", "empty label. Received: row 2"),
        ("a.csv", "text,label\nx,a\ny,b,c\n", "as wide as the header. Received: row 2"),
        ("a.csv", 'text,label\nx,a\n"y,b\n', "valid CSV"),
        ("a.csv", b"text,label\nx,a\n\xff,b\n", "valid UTF-8.*a.csv"),
        ("a.jsonl", '{"text": "x", "label": "a"}\n{"body": "y", "label": "b"}\n', "'body', 'label'.* in row 2 of"),
        ("a.jsonl", '{"text": "x", "label": "a"}\n{"text": ', "JSON object per line.*row 2"),
        ("a.jsonl", '["x", "a"]\n', "JSON object per line.*row 1"),
        ("a.jsonl", '{"text": 3, "label": "a"}\n', "string as text.*row 1"),
        ("a.jsonl", '{"text": "x", "label": null}\n', "integer as label.*row 1"),
        ("a.jsonl", '{"text": "", "label": "a"}\n', "empty text. Received: row 1"),
        ("a.jsonl", "\n", "no rows"),
        ("a.jsonl", b'{"text": "\xff", "label": "a"}\n', "valid UTF-8.*a.jsonl"),
        ("a.tsv", "text\tlabel\n", "must be a .csv file, a .jsonl file or a folder.*a.tsv"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load_labelled_texts(path)


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"exists.*missing"):
        load_labelled_texts(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"no \.txt files in subfolders.*`prepare --unlabelled`"):
        load_labelled_texts(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_text("one")
    with pytest.raises(ValueError, match="two labels"):
        load_labelled_texts(tmp_path)
    (tmp_path / "a" / "2.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"valid UTF-8.*2\.txt"):
        load_labelled_texts(tmp_path)
    (tmp_path / "a" / "2.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"empty text.*2\.txt"):
        load_labelled_texts(tmp_path)


# split_holdout


def labelled(labels):
    labels = list(labels)
    return LabelledTexts([f"text {index}" for index in range(len(labels))], labels)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    labels=st.lists(st.sampled_from("abc"), min_size=8, max_size=60),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 9),
)
def test_split_is_a_stratified_partition(labels, fraction, seed):
    both = labelled(labels)
    train, validation = split_holdout(both, fraction, seed)
    pairs = list(zip(both.texts, both.labels, strict=True))
    parts = [list(zip(part.texts, part.labels, strict=True)) for part in (train, validation)]
    assert sorted(parts[0] + parts[1], key=pairs.index) == pairs
    assert all(part == sorted(part, key=pairs.index) for part in parts)
    for label, count in Counter(labels).items():
        held = validation.labels.count(label)
        assert abs(held - fraction * count) <= 1
        assert held < count
        assert held or count == 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), fraction=st.floats(0.1, 0.5), seed=st.integers(0, 9))
def test_groups_stay_whole(data, fraction, seed):
    groups = [*data.draw(st.lists(st.sampled_from(range(12)), min_size=12, max_size=60)), 12, 13]
    both = labelled("ab"[group % 2] for group in groups)
    train, validation = split_holdout(both, fraction, seed, groups)
    group_of = dict(zip(both.texts, groups, strict=True))
    sides = [{group_of[text] for text in part.texts} for part in (train, validation)]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]
    assert sorted(train.texts + validation.texts) == sorted(both.texts)


def test_equal_groups_reach_the_fraction_in_every_label():
    groups = [author for author in range(40) for _ in range(5)]
    both = labelled("abcd"[author % 4] for author in groups)
    for seed in range(5):
        _, validation = split_holdout(both, 0.2, seed, groups)
        assert Counter(validation.labels) == dict.fromkeys("abcd", 10)


def test_split_follows_the_seed_only():
    both, groups = labelled("ab" * 30), [index // 3 for index in range(60)]
    for by in (None, groups, [f"author {group}" for group in groups]):
        assert split_holdout(both, 0.3, 1, by) == split_holdout(both, 0.3, 1, by)
        assert split_holdout(both, 0.3, 1, by) != split_holdout(both, 0.3, 2, by)


def test_two_groups_give_one_each():
    train, validation = split_holdout(labelled("abab"), 0.1, 0, ["x", "x", "y", "y"])
    assert sorted((train.texts, validation.texts)) == [["text 0", "text 1"], ["text 2", "text 3"]]


@pytest.mark.parametrize(
    ("labels", "fraction", "groups", "message"),
    [
        ("abab", 0.0, None, "fraction must lie between 0 and 1.*fraction=0.0"),
        ("abab", 1.0, None, "fraction must lie between 0 and 1"),
        ("abab", 0.5, [1, 2], "groups must name a group per text, 4. Received: 2 groups"),
        ("ab", 0.5, None, "too few texts"),
        ("abab", 0.5, [1, 1, 1, 1], "too few groups"),
        ("ab", 0.5, [1, 2], r"without training texts: \['[ab]'\]"),
    ],
)
def test_impossible_splits_are_refused(labels, fraction, groups, message):
    with pytest.raises(ValueError, match=message):
        split_holdout(labelled(labels), fraction, 0, groups)


# classification_dataset

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer([*RESERVED_TOKENS, *WORDS])


def make_corpus(lengths):
    """Texts with these token counts, [CLS] and [SEP] included; the label is the place."""
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, length - 2)) for length in lengths], list(range(len(lengths)))


def batches(dataset):
    return [(inputs["token_ids"].numpy(), inputs["padding_mask"].numpy(), label.numpy()) for inputs, label in dataset]


def same(left, right):
    return len(left) == len(right) and all(
        np.array_equal(a, b) for one, two in zip(left, right, strict=True) for a, b in zip(one, two, strict=True)
    )


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(3, 90), min_size=1, max_size=40),
    max_length=st.sampled_from([5, 8, 24, 32, 64, 90]),
    batch_tokens=st.sampled_from([1, 64, 130, 1000]),
    shuffle=st.booleans(),
)
def test_every_document_comes_once_whole_or_cut_and_counted(tokenizer, lengths, max_length, batch_tokens, shuffle):
    texts, labels = make_corpus(lengths)
    dataset, report = classification_dataset(
        tokenizer, texts, labels, max_length, batch_tokens, min_length=8, shuffle=shuffle
    )
    excess = [max(0, length - max_length) for length in lengths]
    assert report == CutReport(len(lengths), sum(e > 0 for e in excess), sum(excess), sum(lengths))
    seen = {}
    found = batches(dataset)
    for ids, mask, label in found:
        for row, row_mask, index in zip(ids, mask, label, strict=True):
            assert index not in seen
            seen[index] = row[row_mask == 1].tolist()
            assert not row[row_mask == 0].any()
            assert (np.diff(row_mask) <= 0).all()
    expected = tokenizer.encode(texts)
    for index, ids in enumerate(expected):
        cut = ids.tolist() if len(ids) <= max_length else [*ids[: max_length - 1].tolist(), tokenizer.end_id]
        assert seen.pop(index) == cut
    assert not seen
    assert int(dataset.cardinality()) == len(found)


def test_buckets_shapes_and_batch_sizes(tokenizer):
    texts, labels = make_corpus([3, 128, 129, 256, 257, 512, 513, 600, 601, 5000] * 9)
    dataset, _ = classification_dataset(tokenizer, texts, labels, max_length=600, batch_tokens=1024)
    row = tf.TensorSpec([None, None], tf.int32)
    assert dataset.element_spec == ({"token_ids": row, "padding_mask": row}, tf.TensorSpec([None], tf.int32))
    documents, full = Counter(), {128: 8, 256: 4, 512: 2, 600: 1}
    for ids, mask, _ in batches(dataset):
        count, bucket = ids.shape
        documents[bucket] += count
        assert count <= full[bucket]
        longest = mask.sum(axis=1).max()
        assert longest <= bucket
        assert bucket == 128 or mask.sum(axis=1).min() > bucket // 2
    assert documents == {128: 18, 256: 18, 512: 18, 600: 36}


def test_a_cut_document_keeps_its_end(tokenizer):
    dataset, report = classification_dataset(tokenizer, ["alpha " * 100, "beta"], [0, 1], 16, 64, shuffle=False)
    ((ids, mask, label),) = batches(dataset)
    alpha, beta = 5, 6
    assert ids.tolist() == [[2] + [alpha] * 14 + [3], [2, beta, 3] + [0] * 13]
    assert mask.sum(axis=1).tolist() == [16, 3]
    assert label.tolist() == [0, 1]
    assert str(report) == "1 of 2 documents cut, by 86 of 105 tokens (81.9%)"


def test_report_of_nothing_cut(tokenizer):
    _, report = classification_dataset(tokenizer, ["alpha", "beta"], [0, 1], 16, 64)
    assert str(report) == "0 of 2 documents cut, by 0 of 6 tokens (0.0%)"


def test_same_seed_same_batches_and_a_new_order_each_epoch(tokenizer):
    texts, labels = make_corpus([*range(3, 60)])

    def epochs(seed, shuffle=True):
        dataset, _ = classification_dataset(tokenizer, texts, labels, 64, 256, 8, seed, shuffle)
        return [batches(dataset), batches(dataset)]

    first, again, other = epochs(1), epochs(1), epochs(2)
    assert same(first[0], again[0])
    assert same(first[1], again[1])
    assert not same(first[0], other[0])
    assert not same(first[0], first[1])
    plain = epochs(1, shuffle=False)
    assert same(plain[0], plain[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": 2}, "max_length must be an integer of at least 3"),
        ({"batch_tokens": 0}, "batch_tokens must be"),
        ({"min_length": 0}, "min_length must be"),
        ({"labels": [0]}, r"one class per text, 2. Received: shape \(1,\)"),
        ({"labels": [[0], [1]]}, r"shape \(2, 1\)"),
        ({"labels": [0, -1]}, r"integers of 0 or more.*\[0, -1\]"),
        ({"labels": ["a", "b"]}, "integers of 0 or more"),
        ({"labels": [0.0, 1.0]}, "integers of 0 or more"),
        ({"texts": ["alpha", ""]}, r"empty.*texts\[1\]"),
    ],
)
def test_classification_refuses_bad_arguments(tokenizer, change, message):
    arguments = {"texts": ["alpha", "beta"], "labels": [0, 1], "max_length": 16, "batch_tokens": 64, **change}
    with pytest.raises(ValueError, match=message):
        classification_dataset(tokenizer, **arguments)
