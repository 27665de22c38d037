"""Corpora in memory and on disk: the same batches bit by bit, and what is kept in memory."""

import logging
import os
import re
import subprocess
import sys
import textwrap
import tracemalloc
from collections import Counter

import keras
import numpy as np
import pytest
from batch_checks import joined, real_rows, same, taken
from calls import QUICK_TO_COMPILE
from prepared_texts import CLS, SEP, SIZES, UNK, ids_of, make_documents, stored, windows_of, write_folder, write_jsonl

from krpe_tf.data import (
    LABELLED_TEXTS,
    TEXTS,
    Corpus,
    LabelledTexts,
    Ragged,
    buckets,
    build_corpus,
    load_corpus,
    load_prepared,
    open_source,
    prepare,
    windows,
)
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer


@pytest.fixture(scope="module")
def masked_lm(prepared):
    return prepared.masked_lm_batches(16, 8, seed=3)


@pytest.fixture(scope="module")
def classification(prepared):
    return prepared.classification_batches(64, 256, 16, seed=3, batch_multiple=2)[0]


@pytest.fixture(params=["masked_lm", "classification"])
def batches(request):
    return request.getfixturevalue(request.param)


def test_values_are_taken_from_places_spread_evenly():
    ragged = Ragged.join(np.arange(1000).reshape(100, 10))
    assert ragged.spread(1000).tolist() == list(range(1000))
    some = ragged.spread(600).tolist()
    assert len(some) == 512
    assert some[:2] == [0, 1]
    assert some[-2:] == [998, 999]
    assert Ragged.join([]).spread(5).tolist() == []


@pytest.mark.parametrize(
    ("unknown", "level", "said"),
    [(0, "INFO", "0.00 % of the tokens are"), (5, "INFO", "5.00 %"), (6, "WARNING", "6.0 % .*SentencePiece")],
)
def test_the_share_of_unknown_tokens_is_said(caplog, unknown, level, said):
    tokenizer = WordPieceTokenizer([*RESERVED_TOKENS, "a"])
    ids = Ragged.join([[CLS, UNK, SEP]] * unknown + [[CLS, 5, SEP]] * (100 - unknown))
    with caplog.at_level("INFO"):
        share = Corpus(tokenizer, None, ("text",), {"train": {"token_ids": ids}, "validation": {}}).log_unknown()
    assert share == unknown / 100
    (record,) = caplog.records
    assert record.levelname == level
    assert re.match(said, record.getMessage())


def test_a_text_that_is_lost_altogether_is_refused(tmp_path):
    tokenizer = WordPieceTokenizer([*RESERVED_TOKENS, "a", "##a"])
    source = write_jsonl(tmp_path / "a.jsonl", make_documents(30))
    with pytest.raises(ValueError, match=r"`tokenizer` must know some of the text; .*SentencePiece.* 7 tokens"):
        prepare(source, tmp_path / "out", tokenizer=tokenizer, **SIZES)
    assert not (tmp_path / "out").exists()


def test_a_cased_vocabulary_on_request(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", [(f"Ümit {text}", label) for text, label in make_documents(30)])
    rows = open_source(source, ("text", "label"))
    for corpus in (
        prepare(source, tmp_path / "out", vocabulary_size=100, cased=True, **SIZES),
        build_corpus(rows, validation=0.2, vocabulary_size=100, cased=True),
    ):
        assert not corpus.tokenizer.lowercase
        assert "Ümit" in corpus.tokenizer.vocabulary


def test_every_window_comes_exactly_once_an_epoch(prepared, masked_lm):
    expected = Counter(windows_of([ids for ids, _ in stored(prepared, "train")], 16))
    steps = masked_lm.steps_per_epoch
    orders = [real_rows(taken(masked_lm.steps(epoch * steps), steps)) for epoch in range(2)]
    assert Counter(orders[0]) == Counter(orders[1]) == expected
    assert orders[0] != orders[1]
    assert 0 <= 8 * steps - expected.total() < 8


def test_every_document_comes_once_an_epoch(prepared, classification):
    expected, cut = Counter(), 0
    for ids, label in stored(prepared, "train"):
        cut += max(0, len(ids) - 64)
        expected[tuple(ids if len(ids) <= 64 else [*ids[:63], SEP]), label] += 1
    _, report = prepared.classification_batches(64, 256)
    assert (report.cut_tokens, report.documents) == (cut, 48)
    steps = classification.steps_per_epoch
    found = taken(classification, 2 * steps)
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


def test_a_step_is_the_same_from_any_start_and_in_any_number_of_processes(batches, prepared):
    steps = batches.steps_per_epoch
    whole = taken(batches, 2 * steps + 2)
    again = load_corpus(prepared.path)
    if len(batches.signature[0]) == 3:
        other = again.masked_lm_batches(16, 8, seed=3)
    else:
        other, _ = again.classification_batches(64, 256, 16, seed=3, batch_multiple=2)
    for start in (2 * steps, 1, steps // 2, steps - 1, steps):
        assert same(taken(other.steps(start), 2), whole[start : start + 2])
    for count in (2, 4):
        if batches.batch_multiple % count == 0:
            parts = [taken(batches.steps(steps - 2, index, count), 5) for index in range(count)]
            for step in range(4):
                assert same(joined([part[step] for part in parts]), whole[steps - 2 + step])


def test_memory_and_disk_give_the_same_batches(tmp_path, words_tokenizer):
    """From a file, and from a folder in random order; the documents held out too."""
    for number, source in enumerate(
        (
            write_jsonl(tmp_path / "a.jsonl", [*make_documents(40), (" ", "a")]),
            write_folder(tmp_path / "texts", [*make_documents(40), (" ", "a")]),
        )
    ):
        disk = prepare(source, tmp_path / f"out{number}", tokenizer=words_tokenizer, seed=4, **SIZES)
        opened = open_source(source, LABELLED_TEXTS.columns, seed=4)
        memory = build_corpus(opened, tokenizer=words_tokenizer, validation=SIZES["validation_fraction"], seed=4)
        assert memory.classes == disk.classes
        for split in ("train", "validation"):
            assert memory.documents(split) == disk.documents(split)
            assert memory.tokens(split) == disk.tokens(split)
            pairs = [
                [each.masked_lm_batches(16, 8, seed=2, split=split) for each in (memory, disk)],
                [each.classification_batches(64, 256, 16, split=split)[0] for each in (memory, disk)],
            ]
            for left, right in pairs:
                assert left.steps_per_epoch == right.steps_per_epoch
                steps = 2 * left.steps_per_epoch
                keras.utils.set_random_seed(number)
                found = taken(left, steps)
                keras.utils.set_random_seed(number + 7)
                assert same(found, taken(right, steps))
                assert same(found[3], joined([right.rows(3, 0, 1)]))


def test_validation_is_deterministic_and_whole(prepared):
    batches = prepared.masked_lm_batches(16, 4, shuffle=False, split="validation")
    epoch = batches.epoch()
    assert int(epoch.cardinality()) == batches.steps_per_epoch
    first = taken(epoch)
    assert same(first, taken(epoch))
    assert same(first, taken(batches.steps(batches.steps_per_epoch), len(first)))
    documents = [ids for ids, _ in stored(prepared, "validation")]
    assert real_rows(first) == windows_of(documents, 16)
    labelled, _ = prepared.classification_batches(64, 256, 16, shuffle=False, split="validation")
    assert sum(weight.sum() for _, _, weight in taken(labelled.epoch())) == len(documents)


def test_arrays_are_read_one_by_one(prepared):
    fields = prepared["train"]
    documents = stored(prepared, "train")
    assert len(fields["token_ids"]) == len(documents)
    assert fields["token_ids"].lengths.tolist() == [len(ids) for ids, _ in documents]
    for index in (0, 5, -1):
        assert fields["token_ids"][index].tolist() == documents[index][0]
        assert fields["token_ids"][index].dtype == np.int32
    assert fields["label"].tolist() == [label for _, label in documents]
    with pytest.raises(IndexError):
        fields["token_ids"][len(documents)]
    with pytest.raises(ValueError, match="`split` must be one of 'train', 'validation'"):
        prepared["test"]


# build_corpus


def test_a_corpus_of_labelled_texts(words_tokenizer):
    texts, labels = zip(*make_documents(12), strict=True)
    train, validation = LabelledTexts([*texts[:9]], [*labels[:9]]), LabelledTexts([*texts[9:]], [*labels[9:]])
    corpus = build_corpus(train, validation=validation, tokenizer=words_tokenizer)
    assert (corpus.classes, corpus.columns) == (["a", "b", "c"], ("text", "label"))
    for split, part in (("train", train), ("validation", validation)):
        assert [ids.tolist() for ids in map(corpus[split]["token_ids"].__getitem__, range(len(part.texts)))] == [
            ids_of(text) for text in part.texts
        ]
        assert corpus[split]["label"].tolist() == ["abc".index(label) for label in part.labels]
    corpus.verify()
    alone = build_corpus(train, tokenizer=words_tokenizer)
    assert alone.documents("validation") == alone.tokens("validation") == 0
    with pytest.raises(ValueError, match=r"`split` must hold documents.*split='validation'"):
        alone.masked_lm_batches(16, 4, split="validation")


def test_a_vocabulary_is_learned_from_what_is_trained_on(words_tokenizer):
    rows = [{"text": f"{text} seen"} for text, _ in make_documents(20)]
    corpus = build_corpus(rows, TEXTS, validation=[{"text": "held alpha held"}] * 9, vocabulary_size=80)
    assert corpus.classes is None
    assert "seen" in corpus.tokenizer.vocabulary
    assert "held" not in corpus.tokenizer.vocabulary
    assert (corpus.documents(), corpus.documents("validation")) == (20, 9)
    with pytest.raises(ValueError, match="needs documents with labels"):
        corpus.classification_batches(32, 64)


def test_fingerprints_tell_corpora_apart(words_tokenizer, prepared):
    texts, labels = zip(*make_documents(12), strict=True)
    others = [
        (LabelledTexts([*texts], [*labels]), {}),
        (LabelledTexts([*texts[::-1]], [*labels[::-1]]), {}),
        (LabelledTexts([*texts], [*labels[::-1]]), {}),
        (LabelledTexts([*texts[:-1]], [*labels[:-1]]), {"validation": LabelledTexts([texts[-1]], [labels[-1]])}),
    ]
    found = [build_corpus(data, tokenizer=words_tokenizer, **arguments).fingerprint for data, arguments in others]
    assert len(set(found)) == len(found)
    assert found[0] == build_corpus(others[0][0], tokenizer=words_tokenizer).fingerprint
    assert load_prepared(prepared.path).fingerprint == prepared.fingerprint not in found


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ([], {}, "`data` must hold documents with a visible text. Received: none in data"),
        (LabelledTexts(["alpha", "beta"], ["a", "a"]), {}, "two labels or more.*'a'"),
        ([{"text": " ", "label": "a"}, {"text": "beta", "label": "b"}], {}, "`data` .*empty text. Received: row 1"),
        (
            [{"text": "alpha", "label": "a"}],
            {"validation": 0.5},
            r"share of labelled texts or a source.*validation=0\.5",
        ),
        (LabelledTexts(["alpha", "beta"], ["a", "b"]), {"seed": -1}, "`seed` must be"),
    ],
)
def test_bad_data_are_refused(words_tokenizer, data, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_corpus(data, tokenizer=words_tokenizer, **arguments)


def test_what_is_left_out_and_what_cannot_be_learned_is_logged(tmp_path, words_tokenizer, caplog):
    caplog.set_level(logging.INFO)
    rows = [*make_documents(12), ("\u200b", "a"), (" ", "b")]
    data = open_source(write_jsonl(tmp_path / "a.jsonl", rows), ("text", "label"))
    validation = open_source(write_jsonl(tmp_path / "b.jsonl", [("alpha", "a"), ("beta", "rare")]), ("text", "label"))
    corpus = build_corpus(data, tokenizer=words_tokenizer, validation=validation)
    assert (corpus.documents(), corpus.classes) == (12, ["a", "b", "c", "rare"])
    assert "a.jsonl: 2 documents without text were left out" in caplog.text
    assert "labels of validation documents alone, which training cannot learn: 'rare'" in caplog.text


def test_too_few_documents_to_hold_some_out(tmp_path, words_tokenizer):
    source = open_source(write_jsonl(tmp_path / "a.jsonl", make_documents(3)), ("text", "label"))
    with pytest.raises(
        ValueError, match=r"every label has one text, is `label_column` right\? Received: 3 labels of 3"
    ):
        build_corpus(source, tokenizer=words_tokenizer, validation=0.2)
    source = open_source(write_jsonl(tmp_path / "a.jsonl", [("alpha", "a"), ("beta", "b")] * 4), ("text", "label"))
    with pytest.raises(ValueError, match=r"enough different documents to hold some out\. Received: 8 documents"):
        build_corpus(source, tokenizer=words_tokenizer, validation=0.2)


# memory


def test_few_bytes_a_document_stay_in_memory(words_tokenizer):
    count = 100_000
    lengths = np.random.default_rng(0).integers(20, 1000, count)
    fields = {
        "token_ids": Ragged(np.zeros(lengths.sum(), "uint16"), np.concatenate([[0], np.cumsum(lengths)])),
        "label": np.zeros(count, "int32"),
    }
    windows_count = (-(-(lengths - 1) // 512)).sum()
    for make, kept, reading in (
        (lambda: windows(fields["token_ids"], 512, 16, pad_id=0), 8.5 * count, 4.5 * windows_count),
        (lambda: buckets(fields, 512, 8192, tokenizer=words_tokenizer)[0], 1.5 * count, 4.5 * count),
    ):
        tracemalloc.start()
        try:
            batches = make()
            assert tracemalloc.get_traced_memory()[0] < kept
            batches[0]
            assert tracemalloc.get_traced_memory()[0] < kept + reading
        finally:
            tracemalloc.stop()


def test_bad_numbers_are_refused(prepared):
    for arguments, message in (
        ({"length": 2}, "`length` must be"),
        ({"split": "test"}, "`split` must be one of 'train', 'validation'"),
        ({"seed": -1}, "`seed` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            prepared.masked_lm_batches(**{"length": 16, "batch_size": 4, **arguments})
    with pytest.warns(DeprecationWarning, match="`shuffle_tokens` has no effect"):
        prepared.masked_lm_batches(16, 4, shuffle_tokens=800)
    with pytest.warns(DeprecationWarning, match="`shuffle_tokens` has no effect"):
        prepared.classification_batches(64, 256, shuffle_tokens=800)


# Without TensorFlow

WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_text"] = None
import jax
jax.config.update("jax_disable_most_optimizations", True)  # Compiling takes nearly all of the time.
import numpy as np
from krpe_tf.data import load_corpus
from krpe_tf.models import Encoder, MaskedLM, TextClassifier

corpus = load_corpus(sys.argv[1])
corpus.verify()
encoder = Encoder(
    corpus.tokenizer.vocabulary_size,
    num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8, num_features=4, seed=0,
)

class Seen:
    "Batches that note which of them are made."
    def __init__(self, batches):
        self.batches, self.steps, make = batches, [], batches._make
        batches._make = lambda step, *processes: self.steps.append(step) or make(step, *processes)

def fit(model, train, validation, loss):
    train, validation = Seen(train), Seen(validation)
    model.compile("adam", loss)
    history = model.fit(
        train.batches.training_data(5), steps_per_epoch=3, epochs=4, initial_epoch=1, shuffle=False, verbose=0,
        validation_data=validation.batches.validation_data(steps=2),
    )
    assert np.isfinite(history.history["loss"] + history.history["val_loss"]).all()
    assert validation.steps == [0, 1] * 3, validation.steps
    taken = train.steps[:9]
    assert taken == list(range(5, 14)), train.steps
    return history.history

import keras
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
batches = [corpus.masked_lm_batches(16, 4, shuffle=split == "train", split=split) for split in ("train", "validation")]
fit(MaskedLM(encoder, at_positions=True), *batches, loss)
pairs = [
    corpus.classification_batches(64, 256, 32, shuffle=split == "train", split=split)[0]
    for split in ("train", "validation")
]
fit(TextClassifier(encoder, 3), *pairs, loss)
print(keras.backend.backend(), *(name for name in sys.modules if name.split(".")[0] == "tensorflow"))
print(*(int(sum(np.asarray(x, "int64").sum() for x in keras.tree.flatten(batches[0][step]))) for step in range(20)))
"""


def test_a_prepared_corpus_trains_on_jax_where_tensorflow_is_not_installed(prepared):
    environment = {**os.environ, **QUICK_TO_COMPILE, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", textwrap.dedent(WITHOUT_TENSORFLOW), str(prepared.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules, sums = done.stdout.splitlines()
    assert modules == "jax tensorflow"  # The one entry that blocks it.
    here = [prepared.masked_lm_batches(16, 4)[step] for step in range(20)]
    expected = [int(sum(np.asarray(x, "int64").sum() for x in keras.tree.flatten(batch))) for batch in here]
    assert [*map(int, sums.split())] == expected
