"""Token classification: words and labels from files, labels at first tokens, F1 by entity, and the whole path."""

import json
import logging
import random

import numpy as np
import pytest

from krpe_tf.cli import main
from krpe_tf.data import Corpus, open_source
from krpe_tf.export import LiteRTModel
from krpe_tf.runs import load_run, predict_run
from krpe_tf.tasks import TOKEN_CLASSIFICATION
from krpe_tf.tasks.word_alignment import encode_words, split_words
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer

PAD, UNK, CLS, SEP, MASK = range(5)
NAMES = {"PER": ["ada", "grace", "alan", "emmy"], "LOC": ["paris", "oslo", "lima", "kyoto"]}
FAMILIES = ["hopper", "turing", "noether"]
FILLERS = ["went", "to", "saw", "the", "old", "river", "with", "and"]


def make_sentences(count):
    """Words and labels: a name follows fillers, a family name may follow a person's."""
    rng = random.Random(0)
    for _ in range(count):
        words, labels = [], []
        for _ in range(rng.randint(1, 4)):
            words += (fillers := rng.choices(FILLERS, k=rng.randint(1, 3)))
            labels += ["O"] * len(fillers)
            kind = rng.choice(["PER", "LOC"])
            words.append(rng.choice(NAMES[kind]))
            labels.append(f"B-{kind}")
            if kind == "PER" and rng.random() < 0.5:
                words.append(rng.choice(FAMILIES))
                labels.append("I-PER")
        yield words, labels


def write_conll(path, sentences):
    lines = ["-DOCSTART- -X- O O", ""]
    for words, labels in sentences:
        lines += [*(f"{word} NN {label}" for word, label in zip(words, labels, strict=True)), ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def rows_of(path, **names):
    return [
        (row.values["tokens"], row.values["labels"]) for row in open_source(path, ("tokens", "labels"), names).rows()
    ]


@pytest.fixture(scope="module")
def tokenizer():
    letters = "abcdefghijklmnopqrstuvwxyz"
    return WordPieceTokenizer([*RESERVED_TOKENS, *letters, *(f"##{letter}" for letter in letters), "the", "##ing", "-"])


# files


def test_all_kinds_of_files_hold_the_same_rows(tmp_path):
    sentences = list(make_sentences(20))
    conll = write_conll(tmp_path / "a.conll", sentences)
    jsonl, listed, spaced = (tmp_path / name for name in ("a.jsonl", "lists.csv", "spaces.csv"))
    jsonl.write_text("".join(json.dumps({"words": w, "tags": t}) + "\n" for w, t in sentences), encoding="utf-8")
    quoted = (
        (json.dumps(words).replace('"', '""'), json.dumps(labels).replace('"', '""')) for words, labels in sentences
    )
    listed.write_text(
        "tokens,labels\n" + "".join(f'"{words}","{labels}"\n' for words, labels in quoted), encoding="utf-8"
    )
    spaced.write_text(
        "tokens,labels\n" + "".join(f"{' '.join(words)},{' '.join(labels)}\n" for words, labels in sentences),
        encoding="utf-8",
    )
    assert rows_of(conll) == rows_of(listed) == rows_of(spaced) == sentences
    assert rows_of(jsonl, tokens="words", labels="tags") == sentences


def test_only_spaces_and_tabs_part_columns_and_sentences_need_no_last_line(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("10\u00a0000\tB-NUM\nmen \tNN  O\n\n\n# O", encoding="utf-8")
    assert rows_of(path) == [(["10\u00a0000", "men"], ["B-NUM", "O"]), (["#"], ["O"])]
    path.write_text("# id 7f domain=en\n# text = one\none _ _ B-X\n# _ _ O\n\n# newdoc\n# _ _ O\n", encoding="utf-8")
    assert rows_of(path) == [(["one", "#"], ["B-X", "O"]), (["#"], ["O"])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "one O\ntwo\n", r"a word and its label in each line. Received: line 2 of .*a\.conll"),
        (
            "a.jsonl",
            '{"tokens": ["a", "b"], "labels": ["O"]}',
            r"one label per token. Received: row 1 .*2 tokens and 1",
        ),
        ("a.jsonl", '{"tokens": ["a", " "], "labels": ["O", "O"]}', r"words as tokens, none empty.*Received: row 1 of"),
        ("a.jsonl", '{"tokens": [], "labels": []}', r"words as tokens, none empty.*Received: row 1 of"),
        ("a.jsonl", '{"tokens": ["a"], "labels": [3]}', r"a label for each token, none empty.*Received: row 1 of"),
        ("a.csv", 'tokens,labels\n"[""a"", ",O\n', r"words as tokens.*Received: row 1 of"),
        ("a.csv", "tokens,labels\n\"['a', 'b']\",\"['O', 'O']\"\n", r"a JSON list \(.*Received: row 1 of"),
        ("a.csv", "tokens,tags\na,O\n", r"`labels_column` must be one of \['tokens', 'tags'\]"),
        ("a.txt", "a O", r"must be a \.csv file, a \.tsv file, a \.jsonl file, a \.conll file or a folder"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        rows_of(tmp_path / name)


def test_a_file_for_another_task_says_which_it_is_for(tmp_path):
    path = write_conll(tmp_path / "a.conll", make_sentences(2))
    with pytest.raises(ValueError, match="--task token_classification"):
        open_source(path, ("text", "label"))
    with pytest.raises(ValueError, match="a folder has text and label"):
        open_source(tmp_path, ("tokens", "labels"))


# alignment


def test_the_first_token_of_a_word_has_its_label(tokenizer):
    rows = [
        {"tokens": ["the", "thing", "x-y"], "labels": ["O", "B-A", "I-A"]},
        {"tokens": ["\u200dé\u200d", "the"], "labels": ["I-A", "O"]},
    ]
    found = encode_words(rows, tokenizer, ["B-A", "I-A", "O"])
    ids = {token: index for index, token in enumerate(tokenizer.vocabulary)}
    first = [CLS, ids["the"], ids["t"], ids["##h"], ids["##ing"], ids["x"], ids["-"], ids["y"], SEP]
    assert found["token_ids"][0].tolist() == first
    assert found["labels"][0].tolist() == [-1, 2, 0, -1, -1, 1, -1, -1, -1]
    assert found["labels"][1].tolist()[-2:] == [2, -1]
    for row, token_ids, labels in zip(rows, found["token_ids"], found["labels"], strict=True):
        text = " ".join(row["tokens"])
        assert token_ids.tolist() == tokenizer.encode([text])[0].tolist()
        words, places = split_words(text, tokenizer, len(token_ids))
        assert words == row["tokens"]
        assert [["B-A", "I-A", "O"][labels[place]] for place in places] == row["labels"]


def test_a_text_that_comes_apart_otherwise_is_refused(tokenizer):
    with pytest.raises(ValueError, match="7 tokens word by word and 8 as a whole"):
        split_words("the thing x", tokenizer, 8)


# scores


def entities(labels):
    """(kind, first, last) of every entity, by hand: B starts one, I continues one of its kind or starts one."""
    found, start = set(), None
    for place, label in enumerate([*labels, "O"]):
        kind = label[2:]
        if start is not None and (label[0] != "I" or kind != start[0]):
            found.add((*start, place - 1))
            start = None
        if start is None and label != "O":
            start = (kind, place)
    return found


class Fixed:
    """A model that gives a prepared answer for each batch."""

    def __init__(self, answers):
        self.answers = iter(answers)

    def predict_on_batch(self, inputs):
        return next(self.answers)


def corpus_of(classes):
    return Corpus(None, classes, ("tokens", "labels"), {})


def test_f1_is_by_entity():
    classes = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
    rng = np.random.default_rng(0)
    shape, count = (6, 12), 3
    labels = [rng.choice(5, shape, p=[0.1, 0.2, 0.1, 0.3, 0.3]) for _ in range(count)]
    guesses = [np.where(rng.random(shape) < 0.8, each, rng.choice(5, shape)) for each in labels]
    weights = [(rng.random(shape) < 0.9).astype("float32") for _ in labels]

    class Batches:
        steps_per_epoch = count

        def __getitem__(self, step):
            return None, labels[step], weights[step]

    scores = TOKEN_CLASSIFICATION.scores(
        Fixed([np.eye(5)[each] for each in guesses]), Batches(), corpus_of(classes), None
    )
    true, said, right, words, words_right = 0, 0, 0, 0, 0
    for label, guess, weight in zip(*(np.concatenate(x) for x in (labels, guesses, weights)), strict=True):
        label, guess = ([classes[index] for index in row[weight > 0]] for row in (label, guess))
        one, other = entities(label), entities(guess)
        true, said, right = true + len(one), said + len(other), right + len(one & other)
        words, words_right = words + len(label), words_right + sum(a == b for a, b in zip(label, guess, strict=True))
    assert 0.2 < right / true < 0.9
    assert scores == pytest.approx(
        {
            "accuracy": words_right / words,
            "precision": right / said,
            "recall": right / true,
            "f1": 2 * right / (said + true),
        }
    )


def test_labels_without_entities_have_an_accuracy_alone():
    class Batches:
        steps_per_epoch = 1

        def __getitem__(self, step):
            return None, np.array([[0, 1]]), np.ones((1, 2))

    scores = TOKEN_CLASSIFICATION.scores(Fixed([np.eye(2)[[[0, 0]]]]), Batches(), corpus_of(["NOUN", "VERB"]), None)
    assert scores == {"accuracy": 0.5}


# the whole path


@pytest.mark.slow
def test_train_export_and_predict(tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    data, run = write_conll(tmp_path / "names.conll", make_sentences(150)), tmp_path / "run"
    sizes = ["--preset", "tiny", "--vocabulary-size", "100", "--max-length", "32", "--batch-tokens", "256"]
    training = ["--pretrain-steps", "1", "--pretrain-length", "16", "--epochs", "3"]
    rate = ["--fine-tune-optimizer", "learning_rate=0.01"]
    command = ["train", str(data), "--output", str(run), "--task", "token_classification"]
    assert main([*command, *sizes, *training, *rate]) == 0
    summary = json.loads((run / "training.json").read_text())
    assert summary["scores"]["f1"] > 0.95
    assert f"f1 {summary['scores']['f1']:.4f}" in caplog.text
    assert json.loads((run / "labels.json").read_text()) == ["B-LOC", "B-PER", "I-PER", "O"]

    text = "Ada Turing saw the river,  and went to\nOslo"
    expected = ["B-PER", "I-PER", "O", "O", "O", "O", "O", "O", "B-LOC"]
    from_keras = predict_run(run, [text])[0]
    assert [each["word"] for each in from_keras] == text.split()
    assert [each["label"] for each in from_keras] == expected
    assert main(["export", str(run), "--lengths", "32", "--no-measure"]) == 0
    from_file = predict_run(run, [text])[0]
    for ours, theirs in zip(from_file, from_keras, strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-4)
    model, tokenizer, _ = load_run(run)
    inputs = tokenizer([text])
    file = LiteRTModel(run / "model.tflite")
    np.testing.assert_allclose(file(inputs), model(inputs), atol=1e-4)
    np.testing.assert_allclose(file([text]), model(inputs), atol=1e-4)
    capsys.readouterr()
    assert main(["predict", str(run), text]) == 0
    assert capsys.readouterr().out.startswith(
        "Ada/B-PER Turing/I-PER saw/O the/O river,/O and/O went/O to/O Oslo/B-LOC  <-"
    )
