"""Sentences and their translations: what is read of files, what is refused, what is held out, and the batches."""

import json
from collections import Counter

import numpy as np
import pytest

from krpe_tf.data import (
    PAIRS,
    Ragged,
    Source,
    build_corpus,
    deal_documents,
    open_source,
    pair_buckets,
    pair_lengths,
    pair_shapes,
)
from krpe_tf.text import ByteTokenizer

ROWS = [('A "quoted" word.', 'Ein "zitiertes" Wort.'), ("é 中", "it's"), ("three", "drei")]
BYTES = ByteTokenizer()


def write(folder, **files):
    """Write files by their names, "__" for the dot, and return their paths."""
    paths = []
    for name, content in files.items():
        paths.append(folder / name.replace("__", "."))
        paths[-1].write_bytes(content if isinstance(content, bytes) else content.encode())
    return paths


def read(path, names=None):
    return list(open_source(path, PAIRS.columns, names, argument="data", optional=PAIRS.optional))


def of(rows, **more):
    return [{"source": source, "target": target, **more} for source, target in rows]


# Sources


def test_pairs_are_read_from_files_of_all_kinds(tmp_path, caplog):
    caplog.set_level("INFO")
    tsv = "".join(f"{source}\t{target}\r\n" for source, target in ROWS)
    jsonl = "".join(json.dumps(row) + "\n" for row in of(ROWS))
    sources, targets = ("".join(f" {row[side]}\n" for row in ROWS) for side in (0, 1))
    plain, header, other, lines, csv, *two = write(
        tmp_path,
        plain__tsv=b"\xef\xbb\xbf" + tsv.encode(),
        header__tsv="source\ttarget\n" + tsv,
        other__TSV="n\ten\tde\n" + "".join(f"1\t{line}\n" for line in tsv.splitlines()),
        a__jsonl=jsonl,
        a__csv="target,source\ndrei,three\n",
        source__en=sources,
        target=targets.removesuffix("\n"),  # No line break at the end.
    )
    assert read(plain) == read(header) == read(lines) == read(two) == read(tuple(map(str, two))) == of(ROWS)
    assert caplog.text.count("has no header that names columns: its first column is the source") == 1
    assert read(other, {"source": "en", "target": "de"}) == of(ROWS)
    assert read(csv) == of(ROWS[2:])


def test_a_column_of_documents_is_read_where_there_is_one(tmp_path):
    tsv, jsonl, csv = write(
        tmp_path,
        a__tsv="document\tsource\ttarget\n7\ta\tb\n",
        a__jsonl='{"source": "a", "target": "b", "document": 7}\n{"source": "c", "target": "d"}\n',
        a__csv="source,target,page\na,b,7\n",
    )
    assert read(tsv) == read(csv, {"document": "page"}) == of([("a", "b")], document="7")
    assert read(csv) == of([("a", "b")])
    with pytest.raises(ValueError, match=r"`document_column` must be left out: `path` is read for source and target "):
        open_source(csv, ("source", "target"), {"document": "page"})
    with pytest.raises(
        ValueError, match=r"`document_column` must be one of \['source', 'target'\] in row 2 of .*a.jsonl"
    ):
        read(jsonl)
    with pytest.raises(ValueError, match=r"`document_column` must be one of .*in .*a.csv.*document_column='chapter'"):
        read(csv, {"document": "chapter"})


def test_a_document_without_a_name_is_a_row_by_itself(tmp_path):
    tsv, jsonl, bad = write(
        tmp_path,
        a__tsv="document\tsource\ttarget\n \ta\tb\n",
        a__jsonl='{"source": "a", "target": "b", "document": null}\n',
        b__jsonl='{"source": "a", "target": "b", "document": [7]}\n',
    )
    assert read(tsv) == read(jsonl) == of([("a", "b")], document=None)
    with pytest.raises(ValueError, match=r"`data` must hold a string or integer as document. Received: row 1 of .*b"):
        read(bad)


def test_an_empty_target_of_python_is_refused_as_one_of_a_file_is():
    for rows in (of([("a", "b"), ("c", " ")]), of([("a", "b"), (" ", "c")])):
        with pytest.raises(ValueError, match=r"`data` must hold no row with an empty text. Received: row 2"):
            deal_documents(rows, PAIRS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "a\tb\nc\td\te\n", "lines as wide as the first, 2 columns. Received: line 2 of .*a.tsv, 3 columns"),
        ("a.tsv", "a\tb\n\nc\td\n", "Received: line 2 of .*a.tsv, 1 columns"),
        ("a.tsv", "a\tb\n \tc\n", "no row with an empty source. Received: line 2 of .*a.tsv"),
        ("a.tsv", "a\tb\tc\n", r"`source_column` must be one of \['a', 'b', 'c'\] in .*a.tsv"),
        ("a.tsv", "source\tb\n", r"`target_column` must be one of \['source', 'b'\] in .*a.tsv"),
        ("a.tsv", "source\ttarget\tsource\n", r"'source' \(`source_column`\) stands there 2 times"),
        ("a.tsv", b"a\tb\n\xff\tc\n", r"valid UTF-8 .*line 2 of .*a.tsv"),
        ("a.tsv", "", r"`source_column` must be one of \[\]"),
        ("a.csv", "source,target\na,\n", "no row with an empty target. Received: row 1 of .*a.csv"),
        ("a.jsonl", '{"source": "a", "target": 3}', "a string as target. Received: row 1 of .*a.jsonl"),
        ("a.jsonl", '{"source": "a", "target": "\\ud800"}', "valid UTF-8 .*row 1 of .*a.jsonl"),
        ("a.conll", "a b\n", "a .conll file has tokens and labels, which is what --task token_classification takes"),
        ("a.txt", "a\tb\n", "must be a .csv file, a .tsv file, .*or two files for --task translation"),
    ],
)
def test_bad_files_are_refused_by_name_and_line(tmp_path, name, content, message):
    (path,) = write(tmp_path, **{name.replace(".", "__"): content})
    with pytest.raises(ValueError, match=f"(?s){message}"):
        read(path)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("a\nb\nc\n", "d\n", "files of as many lines.* Received: 3 in .*a and 1 in .*b$"),
        ("a\n", "d\ne\n\nf", "Received: 1 in .*a and 4 in .*b$"),
        ("a\nb\n", "c\n\u2003\n", "a sentence in each line. Received: line 2 of .*b, empty"),
        ("a\nb\n", b"c\n\xe9\n", "valid UTF-8 .*line 2 of .*b,"),
        (b"a\0b\0", "c\n", "begins as UTF-16LE does.*Received: .*a$"),
    ],
)
def test_bad_aligned_files_are_refused_by_name_and_line(tmp_path, source, target, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, a=source, b=target))


def test_what_is_given_twice_is_refused(tmp_path):
    (path,) = write(tmp_path, a__tsv="a\tb\n")
    with pytest.raises(
        ValueError, match=r"`source_column` and `target_column` must be different columns. Received: 'a'"
    ):
        read(path, {"source": "a", "target": "a"})
    with pytest.raises(ValueError, match="must be two different files"):
        read([path, tmp_path / "." / "a.tsv"])
    with pytest.raises(ValueError, match="or two files that exist"):
        read([path, tmp_path / "b"])
    with pytest.raises(ValueError, match="or two files that exist"):
        read([path] * 3)
    with pytest.raises(ValueError, match="`source_column` must be left out with two files"):
        read(write(tmp_path, a="x", b="y"), {"source": "en"})
    with pytest.raises(
        ValueError, match=r"`path` must be one path. Two files have source and target, which is what --task"
    ):
        open_source([path, path], ("text", "label"))


# What is held out


def deal(rows, **options):
    dealt = deal_documents(rows_of(rows), PAIRS, **options).rows
    return {split: [row for row, of in dealt if of == split] for split in ("train", "validation")}


def rows_of(rows):
    """A source of rows that are in memory."""
    return Source("rows", PAIRS.columns, "data", lambda: ((f"row {i}", row) for i, row in enumerate(rows)), 1)


def test_equal_sources_are_on_one_side():
    rows = of([(f"s{index % 30}", f"t{index}") for index in range(90)])
    splits = deal(rows, validation=0.2, seed=3)
    train, held = ({row["source"] for row in splits[split]} for split in ("train", "validation"))
    assert not train & held
    assert len(held) == 6
    assert len(splits["train"]) + len(splits["validation"]) == 90


def test_documents_are_held_out_whole_but_for_what_is_trained_on(caplog):
    caplog.set_level("INFO")
    rows = [row for page in range(20) for row in of([("Note", "Hinweis"), (f"s{page}", "t")], document=str(page))]
    splits = deal(rows, validation=0.2, seed=3)
    train, held = ({row["document"] for row in splits[split]} for split in ("train", "validation"))
    assert not train & held
    assert len(held) == 4
    assert len(splits["train"]) == 32
    assert [row["source"] for row in splits["validation"]] == [f"s{page}" for page in sorted(held, key=int)]
    assert "of documents that are held out, 4 rows whose text is also to train on were left out" in caplog.text
    # One document is all that there is to hold out.
    assert len(deal(of([("a", "b"), ("c", "d")], document="1") + of([("e", "f")]), validation=0.01)["validation"]) == 1


def test_copies_are_counted_and_refused_if_there_is_nothing_else(caplog):
    caplog.set_level("INFO")
    translated, copied = of([(f"s{index}", "t") for index in range(18)]), of([("a", "a"), ("b", "b"), ("c", "c")])
    for rows, level in ((translated + copied, "WARNING"), (translated + copied[:1], "INFO")):
        caplog.clear()
        deal(rows, validation=0.2)
        (record,) = [record for record in caplog.records if "teaches to copy" in record.getMessage()]
        assert record.levelname == level
        assert f"{len(rows) - 18} of {len(rows)} pairs" in record.getMessage()
    with pytest.raises(ValueError, match=r"`data` must hold translations, .*source and target are equal: .*3 pairs"):
        deal(copied, validation=0.2)


# Shapes and batches


def corpus_of(lengths):
    """Pairs of these tokens, as the model reads them; the source of pair i is all i, its target all i + 1."""
    sides = [
        Ragged.join(
            [
                [BYTES.start_id, *[3 + index + side] * (each - 2 + side), BYTES.end_id]
                for index, each in enumerate(column)
            ]
        )
        for side, column in enumerate(np.array(lengths).T)
    ]
    return dict(zip(("source_ids", "target_ids"), sides, strict=True))


def test_shapes_are_few_and_leave_less_padding_than_doublings():
    random = np.random.default_rng(0)
    source = np.maximum(3, random.lognormal(3, 0.8, 4000)).astype(int)
    lengths = np.stack([source, np.maximum(3, source * random.normal(1.1, 0.2, 4000)).astype(int)], axis=1)
    shapes = pair_shapes(lengths, 512, 1024, 12)
    assert len(shapes) == 12
    assert len(pair_shapes(lengths, 512, 1024, 1)) == 1
    assert all(source % 8 == target % 8 == 0 for source, target in shapes)
    rungs = 8 * 2 ** np.arange(7)
    doublings = rungs[np.searchsorted(rungs, lengths)]
    assert len(np.unique(doublings, axis=0)) > 12
    cost = [min(sum(shape) for shape in shapes if (pair <= shape).all()) for pair in lengths]
    assert sum(cost) < 0.95 * doublings.sum()
    # Few pairs do not get batches of their own.
    assert len(pair_shapes(lengths[:20], 512, 1024, 12)) < 5


def test_every_pair_comes_once_an_epoch_in_the_order_of_the_seed():
    random = np.random.default_rng(1)
    lengths = random.integers(3, 40, (90, 2))
    lengths[7] = 10, 100
    fields = corpus_of(lengths)
    np.testing.assert_array_equal(pair_lengths(fields), lengths)
    shapes = pair_shapes(lengths, 50, 200, 4)
    batches, report = pair_buckets(fields, shapes, 200, tokenizer=BYTES, seed=5, batch_multiple=2)
    assert (report.pairs, report.left_out) == (90, 1)
    assert "left out 1 of 90 pairs, with a side longer than `max_length`" in str(report)
    found, places = Counter(), 0
    for step in range(batches.steps_per_epoch):
        inputs, labels, weights = batches[step]
        rows, source = inputs["source_ids"].shape
        shape = source, labels.shape[1]
        assert shape in shapes
        assert rows == 2 * max(1, 200 // sum(shape) // 2)
        places += rows * sum(shape)
        for index in range(rows):
            read, asked, weight = inputs["token_ids"][index], labels[index], weights[index] == 1
            np.testing.assert_array_equal(inputs["padding_mask"][index], weight)
            np.testing.assert_array_equal(read[1:][weight[1:]], asked[:-1][weight[1:]])
            if weight.any():
                ids = inputs["source_ids"][index][inputs["source_mask"][index] == 1]
                pair = int(ids[1]) - 3
                found[pair] += 1
                np.testing.assert_array_equal(ids, fields["source_ids"][pair])
                np.testing.assert_array_equal([*read[weight], asked[weight][-1]], fields["target_ids"][pair])
                assert asked[weight][-1] == BYTES.end_id
            else:
                assert not inputs["source_mask"][index].any()
        one, other = (batches.rows(step, process, 2) for process in (0, 1))
        np.testing.assert_array_equal(np.concatenate([one[1], other[1]]), labels)
    assert found == Counter(set(range(90)) - {7})
    assert report.padding == pytest.approx(1 - np.delete(lengths, 7, 0).sum() / places)
    again = pair_buckets(fields, shapes, 200, tokenizer=BYTES, seed=5, batch_multiple=2)[0]
    later = batches.steps_per_epoch + 1
    np.testing.assert_array_equal(again[later][1], batches[later][1])
    orders = [
        [
            pair_buckets(fields, shapes, 200, tokenizer=BYTES, seed=seed)[0][step][0]["source_ids"][0, 1]
            for step in range(8)
        ]
        for seed in (5, 6)
    ]
    assert orders[0] != orders[1]


def test_shapes_must_hold_some_pair():
    lengths = np.array([[9, 30], [30, 9]])
    with pytest.raises(ValueError, match=r"`max_length` must hold some pair. Received: max_length=20, and 2 pairs"):
        pair_shapes(lengths, 20, 100, 4)
    with pytest.raises(ValueError, match="`shapes` must hold some pair"):
        pair_buckets(corpus_of(lengths), [(20, 20)], 100, tokenizer=BYTES)


def test_a_corpus_of_pairs_has_one_vocabulary_for_both_sides():
    corpus = build_corpus(of(ROWS), PAIRS, tokenizer="sentencepiece", vocabulary_size=330)
    tokenizer = corpus.tokenizer
    assert [tokenizer.decode(corpus["train"]["target_ids"][index]) for index in range(3)] == [row[1] for row in ROWS]
    assert {"Q", "q", "Z", "z"} & set(tokenizer.vocabulary)
    assert corpus["train"]["source_ids"][2][0] == tokenizer.start_id
