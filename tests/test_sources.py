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


def test_columns_that_are_not_read_may_stand_twice(tmp_path):
    (tmp_path / "a.csv").write_text("more,label,text,more\n1,a,x,2\n1,b,y,2\n")
    (tmp_path / "a.jsonl").write_text(
        '{"more": 1, "text": "x", "label": "a", "more": {"text": 1, "text": 2}}\n{"text": "y", "label": "b"}\n'
    )
    for name in ("a.csv", "a.jsonl"):
        assert load_labelled_texts(tmp_path / name) == LabelledTexts(["x", "y"], ["a", "b"])


def test_the_limit_of_a_csv_field_is_the_users_while_rows_are_read(tmp_path):
    """Also of one who stops in the middle."""
    limit = csv.field_size_limit()
    rows = open_source(write_csv(tmp_path / "a.csv", [("word " * 60_000, "a"), ("short", "b")]), ("text",)).rows()
    assert len(next(rows).values["text"]) == 300_000
    assert csv.field_size_limit() == limit


def test_folder_per_label(tmp_path):
    files = {
        "b/2.txt": "two",
        "b/1.txt": "one",
        "a/x.txt": "é\n",
        ".c/x.txt": "no",
        "a/x.md": "no",
        "a/.txt": "no",
        "b/3.TXT": "3\r\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "top.txt").write_text("no")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert load_labelled_texts(tmp_path) == LabelledTexts(["é\n", "one", "two", "3\n"], ["a", "b", "b", "b"])


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
        ("a.csv", "text,label\nx,a\ny\n", "as wide as the header, 2 columns. Received: row 2"),
        ("a.csv", "text,label\nx,a\ny, \n", "empty label. Received: row 2"),
        ("a.csv", "text,label\nx,a\ny,b,c\n", "as wide as the header, 2 columns. Received: row 2"),
        ("a.csv", "text,label\nx,\u200b\n", "empty label. Received: row 1"),
        ("a.csv", 'text,label\nx,a\n"y,b\n\nz,b\n', r"valid CSV \(.*Received: row 2 of .*a.csv \(lines 3 to 5\)"),
        ("a.csv", 'text,label\n"x\n",a\n"y"z,b\n', r"valid CSV \(.*Received: row 2 of .*a.csv \(line 4\)"),
        (
            "a.csv",
            '"text";"label"\n"x";"a"\n',
            r"valid CSV.*separated by semicolons; .*Received: the header of .*a.csv",
        ),
        ("a.csv", "text;label\nx;a\n", r"one of \['text;label'\].*separated by semicolons; the columns of a .csv file"),
        ("a.csv", "text\tlabel\nx\ta\n", r"`text_column` must be one of .*looks separated by tabs"),
        ("a.csv", "text,label,text\nx,a,17\n", r"'text' \(`text_column`\) stands there 2 times.*in .*a.csv"),
        ("a.csv", "label,text,label,label\na,x,b,c\n", r"'label' \(`label_column`\) stands there 3 times"),
        (
            "a.jsonl",
            '{"text": "x", "label": "a", "text": "y"}\n',
            r"'text' .* stands there 2 times.*in row 1 of .*jsonl",
        ),
        ("a.jsonl", '\n{"text": ' + "[" * 100_000 + "\n", r"not nested as deeply.*Received: row 1 of .* \(line 2\)"),
        ("a.jsonl", '{"text": "x", "label": 1' + "0" * 5000 + "}\n", r"JSON object per line \(.*digits.*row 1"),
        (
            "a.csv",
            b"text,label\nx,a\nGr\xfc\xdfe,b\n",
            r"valid UTF-8 .*cp1252 .*UTF-16.*line 3 of .*a.csv, b'Gr.xfc.xdfe",
        ),
        (
            "a.csv",
            "text,label\n".encode("utf-16"),
            "begins as UTF-16 does; `iconv -f UTF-16 -t UTF-8` converts it.*a.csv",
        ),
        ("a.csv", "text,label\n".encode("utf-16-le"), "begins as UTF-16LE does"),
        ("a.jsonl", '{"text": "x"}\n'.encode("utf-16-be"), "begins as UTF-16BE does.*jsonl"),
        ("a.jsonl", '{"text": "x", "label": "a"}\n{"body": "y", "label": "b"}\n', "'body', 'label'.* in row 2 of"),
        ("a.jsonl", '{"text": "x", "label": "a"}\n{"text": ', "JSON object per line.*row 2"),
        ("a.jsonl", '["x", "a"]\n', "JSON object per line.*row 1"),
        ("a.jsonl", '{"text": 3, "label": "a"}\n', "string as text.*row 1"),
        ("a.jsonl", '{"text": "x", "label": null}\n', "integer as label.*row 1"),
        ("a.jsonl", '{"text": "", "label": "a"}\n', "empty text. Received: row 1"),
        ("a.jsonl", "\n", "no rows"),
        ("a.jsonl", b'{"text": "\xff", "label": "a"}\n', "valid UTF-8.*a.jsonl"),
        ("a.txt", "text\tlabel\n", "must be a .csv file, a .tsv file, a .jsonl file, .*a.txt"),
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
    (tmp_path / "a" / "2.txt").write_bytes("one".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"UTF-16LE.*2\.txt"):
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


def test_labelled_texts_give_rows_as_a_source_does(tmp_path):
    path = write_csv(tmp_path / "a.csv", ROWS)
    labelled, source = load_labelled_texts(path), open_source(path, ("text", "label"))
    assert (labelled.columns, [*labelled]) == (source.columns, [*source])
    assert [*labelled] == [*labelled]
    with pytest.raises(ValueError, match="shorter"):
        list(LabelledTexts(["one", "two"], ["a"]))


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


def test_a_folder_is_read_in_the_order_of_the_seed(tmp_path):
    for number in range(20):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[number % 2] / f"{number:02}.txt").write_text(str(number))
    plain = open_source(tmp_path, ("text", "label"))
    assert [values["text"] for values in plain] == [str(number) for half in (0, 1) for number in range(half, 20, 2)]
    assert next(plain.rows()).place == str(tmp_path / "a" / "00.txt")
    orders = [[values["text"] for values in open_source(tmp_path, ("text", "label"), seed=seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(map(str, range(20)))
    assert plain.bytes == 30


ACL_IMDB = [f"{split}/{label}/{n}.txt" for split in ("train", "test") for label in ("pos", "neg") for n in range(3)]
ACL_IMDB += [*(f"train/unsup/{n}.txt" for n in range(3)), "imdbEr.txt", "imdb.vocab", "train/labeledBow.feat"]
ACL_IMDB += ["train/urls_pos.txt", "train/urls_neg.txt", "test/urls_pos.txt"]


def write_files(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_a_folder_of_folders_of_labels_is_refused_and_what_is_inside_says_what_it_leaves_out(tmp_path, caplog):
    folder = write_files(tmp_path, ACL_IMDB)
    with pytest.raises(
        ValueError,
        match=r"1 right in the folder \(imdbEr\.txt\); 15 deeper \(test/neg/0\.txt, .*; 2 of other names than \*\.txt "
        r"\(imdb\.vocab, train/labeledBow\.feat\); 3 would be read\. Perhaps .*/test or .*/train is meant",
    ):
        load_labelled_texts(folder)
    assert load_labelled_texts(folder / "train").classes == ["neg", "pos", "unsup"]
    assert (
        "not read: 2 right in the folder (urls_neg.txt, urls_pos.txt); 1 of other names than *.txt (labeledBow.feat)"
        in caplog.text
    )
    assert len(list(open_source(folder, ("text",)))) == 19


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (["a/1.text", "a/2.text", "b/3.txt"], ("text",), r"2 of other names than \*\.txt \(a/1\.text, a/2\.text\)"),
        (["a/1", "b/2"], ("text", "label"), r"2 of other names .*; 0 would be read"),
        (["a/1.txt", "b/1.txt", "a/c/1.txt", "a/c/2.txt"], ("text", "label"), r"2 deeper \(a/c/1\.txt, a/c/2\.txt\)"),
    ],
)
def test_a_folder_of_which_most_would_not_be_read_is_refused(tmp_path, names, columns, message):
    with pytest.raises(
        ValueError, match=rf"`source` must hold texts in most of its files.*{message}.*Received: source"
    ):
        open_source(write_files(tmp_path, names), columns, argument="source")


def test_links_to_folders_and_hidden_texts_are_named(tmp_path, caplog):
    write_files(tmp_path, ["a/1.txt", "b/1.txt", "a/._1.txt", "a/.DS_Store", ".git/1.txt"])
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert len(list(open_source(tmp_path, ("text", "label")))) == 2
    assert "not read: 1 links to folders (c); 1 hidden (a/._1.txt)\n" in caplog.text
    (tmp_path / "b" / "gone.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"must be a readable file \(No such file.*gone\.txt"):
        open_source(tmp_path, ("text", "label"))


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
