"""A user's rows: what is read of files and folders, and what is refused."""

import csv
import json

import pytest

from krpe_tf.data import LabelledTexts, load_labelled_texts, open_source

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
        ("a.csv", "label,body\nx,y\n", r"`text_column` must be one of \['label', 'body'\].*text_column='text'"),
        ("a.csv", "text,kind\nx,y\n", r"`label_column` must be one of \['text', 'kind'\]"),
        ("a.csv", "", r"`text_column` must be one of \[\]"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "text,label\nx,a\ny,a\n", "two labels or more, all are 'a'"),
        ("a.csv", "text,label\nx,a\n  ,b\n", "empty text. Received: row 2 of .*a.csv"),
        ("a.csv", "text,label\nx,a\n\u200b,b\n", "empty text. Received: row 2 of .*a.csv"),
        ("a.csv", "text,label\nx,a\ny\n", "as wide as the header. Received: row 2"),
        ("a.csv", "text,label\nx,a\ny, \n", "empty label. Received: row 2"),
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
        ("a.tsv", "text\tlabel\n", "must be a .csv file, a .jsonl file, a .conll file or a folder.*a.tsv"),
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


# open_source


def test_a_source_gives_its_rows_as_often_as_wanted_with_their_places(tmp_path):
    csv_file = write_csv(tmp_path / "a.csv", ROWS, header=("kind", "body", "more"))
    source = open_source(csv_file, ("text", "label"), {"text": "body", "label": "kind"})
    for _ in range(2):
        rows = list(source.rows())
        assert [(row.values["text"], row.values["label"]) for row in rows] == ROWS
        assert [row.place for row in rows] == [f"row {number} of {csv_file}" for number in (1, 2, 3)]
    assert source.bytes == csv_file.stat().st_size
    (row, *_) = open_source(write_jsonl(tmp_path / "a.jsonl", ROWS), ("label",)).rows()
    assert row.values == {"label": "yes"}


def test_columns_that_are_unknown_are_refused_and_some_of_a_file_are_read(tmp_path):
    path = write_csv(tmp_path / "a.csv", ROWS)
    for columns, names, unknown in ((("text", "image"), None, "image"), (("text",), {"texts": "body"}, "texts")):
        with pytest.raises(ValueError, match=f"`columns` and `names` must be of columns among .*Received: {unknown}"):
            open_source(path, columns, names)
    (tmp_path / "a.conll").write_text("one O\ntwo B-X\n")
    for column, values in (("tokens", ["one", "two"]), ("labels", ["O", "B-X"])):
        (row,) = open_source(tmp_path / "a.conll", (column,)).rows()
        assert row.values == {column: values}
    (tmp_path / "a.jsonl").write_text('{"tokens": ["one", "two "], "labels": [" O", "B-X"]}\n')
    (row,) = open_source(tmp_path / "a.jsonl", ("tokens", "labels")).rows()
    assert row.values == {"tokens": ["one", "two"], "labels": ["O", "B-X"]}


def test_a_folder_is_read_where_it_is_wanted_and_in_the_order_of_the_seed(tmp_path):
    for number in range(20):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[number % 2] / f"{number:02}.txt").write_text(str(number))
    plain = open_source(tmp_path, ("text", "label"))
    rows = list(plain.rows(lambda values: values["label"] == "b"))
    assert [row.values.get("text") for row in rows] == [None] * 10 + [str(number) for number in range(1, 20, 2)]
    assert rows[0].place == str(tmp_path / "a" / "00.txt")
    orders = [
        [row.values["text"] for row in open_source(tmp_path, ("text", "label"), seed=seed).rows()] for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(map(str, range(20)))
    assert plain.bytes == 30


def test_messages_name_the_argument_that_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"`source` must be a file or a folder that exists. Received: source="):
        open_source(tmp_path / "missing", ("text",), argument="source")
    with pytest.raises(ValueError, match=r"`source` must have tokens; a folder has text and label.*source="):
        open_source(tmp_path, ("tokens",), argument="source")
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "\\ud800"}\n')
    rows = open_source(path, ("text",), argument="source").rows()
    assert next(rows).values == {"text": "fine"}
    with pytest.raises(ValueError, match=r"`source` must hold valid UTF-8 .*row 2 of .*a\.jsonl"):
        next(rows)
