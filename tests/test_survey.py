"""What is said of documents before they are encoded: labels with their numbers, equal texts, what is held out."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_texts import SIZES, make_documents, write_jsonl

from krpe_tf.data import LABELLED_TEXTS, TEXTS, LabelledTexts, build_corpus, load_corpus, open_source, prepare
from krpe_tf.data.splits import streaming_holdout
from krpe_tf.data.survey import LEFT_OUT, DealtRows, Survey, log_labels
from krpe_tf.tasks import TOKEN_CLASSIFICATION


@pytest.fixture
def said(caplog):
    """Return what the survey logged since the last call, level and message by line."""
    caplog.set_level(logging.INFO)

    def take():
        lines = [
            f"{record.levelname} {record.getMessage()}" for record in caplog.records if record.name.endswith(".survey")
        ]
        caplog.clear()
        return lines

    return take


def rows_of(pairs):
    return [{"text": text, "label": label} for text, label in pairs]


# labels


def test_every_label_is_listed_with_its_number_or_summed_up(said):
    log_labels({"b": 1200, "a": 30, "\u4e2d": 30}, "x.csv")
    assert said() == ["INFO x.csv: 3 labels, and how many documents have each: 'b' 1,200, 'a' 30, '\u4e2d' 30"]
    log_labels({f"label {number}": number for number in range(2, 52)}, "x.csv", "words")
    (line,) = said()
    assert line.startswith("INFO x.csv: 50 labels, and how many words have each: 'label 51' 51, 'label 50' 50, ")
    assert line.endswith(f"'label 32' 32, and 30 more with {sum(range(2, 32))} together")


def test_labels_that_look_like_mistakes_are_named(said):
    counts = {"spam": 9, "Spam": 2, "sp\u200bam": 3, "nan": 4, "unsup": 5, "1": 8, "1.0": 7, "-1": 6, "ham": 90}
    log_labels(counts, "x.csv")
    lines = said()
    assert "'sp\\u200bam' 3" in lines[0]
    assert lines[1:] == [
        "WARNING x.csv: labels that usually mean a missing one are classes here: 'unsup' 5, 'nan' 4",
        "WARNING x.csv: labels that look alike are different classes here: 'spam' 9, 'sp\\u200bam' 3, 'Spam' 2; "
        "'1' 8, '1.0' 7",
    ]
    log_labels({"a": 1, "b": 1, "c": 7}, "x.csv")
    assert said()[1:] == ["WARNING x.csv: 2 of 3 labels come once: is `label_column` right?"]


def test_prepare_and_train_say_the_same_of_the_same_source(tmp_path, words_tokenizer, said):
    pairs = [*make_documents(30), ("alpha", "B"), ("beta beta", "B"), ("\u200b", "a")]
    source = write_jsonl(tmp_path / "a.jsonl", pairs)
    prepare(source, tmp_path / "out", tokenizer=words_tokenizer, **SIZES)
    of_prepare = said()
    build_corpus(open_source(source, LABELLED_TEXTS.columns), tokenizer=words_tokenizer, validation=0.2)
    assert (
        said()
        == of_prepare
        == [
            f"INFO {source}: 1 documents without text were left out",
            f"INFO {source}: 4 labels, and how many documents have each: 'a' 10, 'b' 10, 'c' 10, 'B' 2",
            f"WARNING {source}: labels that look alike are different classes here: 'b' 10, 'B' 2",
        ]
    )
    corpus = load_corpus(tmp_path / "out")
    corpus.log_labels()
    expected = [line.replace(str(source), repr(str(tmp_path / "out"))) for line in of_prepare[1:]]
    assert said() == expected
    del corpus.manifest["labels"]  # As earlier versions wrote it.
    type(corpus)(corpus.path, corpus.manifest).log_labels()
    assert said() == expected


def test_labels_of_words_are_counted_by_words(said):
    rows = [{"tokens": ["a", "b"], "labels": ["O", "B-X"]}, {"tokens": ["a"], "labels": ["O"]}]
    survey = Survey(rows, TOKEN_CLASSIFICATION.encoding)
    survey.log(survey.deal(0.0, 0, "data"), "x.conll")
    assert said() == ["INFO x.conll: 2 labels, and how many words have each: 'O' 2, 'B-X' 1"]


# equal texts


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    labels=st.lists(st.sampled_from("abc"), min_size=6, max_size=60),
    fraction=st.just(0.0) | st.floats(0.01, 0.9),
    seed=st.integers(0, 9),
)
def test_without_equal_texts_rows_are_dealt_one_by_one(labels, fraction, seed):
    """Those without a text too, as 0.2 did: runs and corpora of that version stay as they are."""
    texts = [" " if number % 5 == 4 else f"text {number}" for number in range(len(labels))]
    held_out = streaming_holdout(fraction, seed)
    expected = [LEFT_OUT if text == " " else held for text, held in zip(texts, map(held_out, labels), strict=True)]
    for label in set(labels):  # The first of a label is never held out, and where it has no text, the next.
        shown = [place for place, text in enumerate(texts) if labels[place] == label and text != " "]
        if shown:
            expected[shown[0]] = 0
    survey = Survey(rows_of(zip(texts, labels, strict=True)), LABELLED_TEXTS)
    assert survey.deal(fraction, seed, "data").tolist() == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), fraction=st.floats(0.05, 0.6), seed=st.integers(0, 9))
def test_equal_texts_are_dealt_together(data, fraction, seed):
    pairs = data.draw(st.lists(st.tuples(st.sampled_from("klmnopqrst "), st.sampled_from("ab")), min_size=6))
    pairs = [*pairs, ("u", "a"), ("u\n", "a"), ("w", "b"), ("x", "b")]
    splits = Survey(rows_of(pairs), LABELLED_TEXTS).deal(fraction, seed, "data")
    sides = [
        [(t.strip(), label) for (t, label), split in zip(pairs, splits, strict=True) if split == n] for n in (0, 1)
    ]
    texts = [{text for text, _ in side} for side in sides]
    assert not texts[0] & texts[1]
    assert {label for _, label in sides[0]} == {"a", "b"}
    assert all(len({label for t, label in sides[1] if t == text}) == 1 for text in texts[1])
    assert [pairs[place][0] for place in np.flatnonzero(splits == LEFT_OUT)] == [" "] * sum(t == " " for t, _ in pairs)
    distinct = [text for text, _ in pairs if text != " "]
    unlabelled = Survey([{"text": text} for text in distinct], TEXTS).deal(fraction, seed, "data")
    assert (
        abs(
            len({t.strip() for t, held in zip(distinct, unlabelled, strict=True) if held})
            - fraction * len(texts[0] | texts[1])
        )
        <= 2
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pairs=st.lists(st.tuples(st.sampled_from("klmn "), st.sampled_from("ab")), max_size=6), labelled=st.booleans())
def test_of_few_documents_one_text_is_held_out_where_one_can_be(pairs, labelled):
    pairs = [("x", "a"), ("y ", "b"), *pairs]
    survey = Survey(rows_of(pairs), LABELLED_TEXTS if labelled else TEXTS)
    dealt = survey.deal(0.0, 0, "data")
    splits = survey.hold_some_out(dealt)
    labels_of = {}
    for text, label in pairs:
        labels_of.setdefault(text.strip(), set()).add(label if labelled else "any")
    held = {text.strip() for (text, _), split in zip(pairs, splits, strict=True) if split == 1}
    trained = {text.strip() for (text, _), split in zip(pairs, splits, strict=True) if split == 0}
    # Other texts than the first of each label, of one label each.
    candidates = {text for text, labels in labels_of.items() if len(labels) == 1} - {"", "x", *("y" * labelled)}
    assert held <= candidates
    assert len(held) == bool(candidates)
    assert not held & trained
    assert (splits == LEFT_OUT).tolist() == (dealt == LEFT_OUT).tolist()
    assert survey.hold_some_out(splits) is splits


def test_equal_texts_are_counted_and_never_on_both_sides(tmp_path, words_tokenizer, said):
    pairs = [*make_documents(20), *make_documents(6), ("alpha", "a"), (" alpha\n", "b")]
    source = write_jsonl(tmp_path / "a.jsonl", pairs)
    expected = [
        f"INFO {source}: 7 of 28 documents repeat the text of another, and none of these is on both sides of the split",
        f"WARNING {source}: texts that come with two labels or more: 1, the first of them in document 27",
    ]
    prepared = prepare(source, tmp_path / "out", tokenizer=words_tokenizer, **SIZES)
    assert said()[1:] == expected
    opened = open_source(source, LABELLED_TEXTS.columns)
    memory = build_corpus(opened, tokenizer=words_tokenizer, validation=0.2)
    assert said()[1:] == expected
    for corpus in (prepared, memory):
        sides = [
            {tuple(corpus[split]["token_ids"][index]) for index in range(corpus.documents(split))}
            for split in ("train", "validation")
        ]
        assert sides[1]
        assert not sides[0] & sides[1]


def test_texts_that_are_also_in_a_validation_set_are_counted(words_tokenizer, said):
    texts, labels = map(list, zip(*make_documents(12), strict=True))
    validation = LabelledTexts([texts[0], "alpha", f"{texts[1]}\n"], ["a", "b", "c"])
    build_corpus(LabelledTexts(texts, labels), validation=validation, tokenizer=words_tokenizer)
    assert said()[1:] == [
        "INFO data: 2 of 15 documents repeat the text of another",
        "WARNING data: 2 documents to validate by repeat a text to train on",
        "WARNING data: texts that come with two labels or more: 1, the first of them in document 2",
    ]


def test_each_label_once_asks_for_the_column(tmp_path, words_tokenizer):
    source = write_jsonl(
        tmp_path / "a.jsonl", [(text, str(number)) for number, (text, _) in enumerate(make_documents(30))]
    )
    with pytest.raises(ValueError, match=r"`source` .*is `label_column` right\? Received: 30 labels of 30 texts"):
        prepare(source, tmp_path / "out", tokenizer=words_tokenizer, **SIZES)


def test_documents_that_change_while_they_are_read_are_refused():
    rows = rows_of([("x", "a"), ("y", "b")])
    splits = Survey(rows, LABELLED_TEXTS).deal(0.0, 0, "data")
    for others in (rows[:1], rows + rows):
        with pytest.raises(ValueError, match="must not change while they are read"):
            list(DealtRows(others, splits))
