"""Whole documents in length buckets, against the documents: what comes, in which shapes, and what is truncated."""

import itertools
import math
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from batch_checks import same, taken
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_texts import CLS, SEP, WORDS, ids_of, make_text

from krpe_tf.data import CutReport, Ragged, buckets, classification_batches, classification_dataset

# classification_dataset


def make_corpus(lengths):
    """Texts with these token counts, [CLS] and [SEP] included; the label is the place."""
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, length - 2)) for length in lengths], list(range(len(lengths)))


def batches(dataset):
    return [(*inputs.values(), label) for inputs, label in taken(dataset)]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(3, 90), min_size=1, max_size=40),
    max_length=st.sampled_from([5, 8, 24, 32, 64, 90]),
    batch_tokens=st.sampled_from([1, 64, 130, 1000]),
    shuffle=st.booleans(),
)
def test_every_document_comes_once_whole_or_truncated_and_counted(
    words_tokenizer, lengths, max_length, batch_tokens, shuffle
):
    texts, labels = make_corpus(lengths)
    fields = {"token_ids": Ragged.join(map(ids_of, texts)), "label": np.array(labels)}
    made, report = buckets(fields, max_length, batch_tokens, tokenizer=words_tokenizer, min_length=8, shuffle=shuffle)
    excess = [max(0, length - max_length) for length in lengths]
    assert report == CutReport(len(lengths), sum(e > 0 for e in excess), sum(excess), sum(lengths))
    seen = {}
    for inputs, label, weight in taken(made, made.steps_per_epoch):
        for ids, mask, index in zip(*(rows[weight == 1] for rows in (*inputs.values(), label)), strict=True):
            assert index not in seen
            seen[index] = ids[mask == 1].tolist()
            assert not ids[mask == 0].any()
            assert (np.diff(mask) <= 0).all()
        assert not any(rows[weight == 0].any() for rows in (*inputs.values(), label))
    for index, ids in enumerate(map(ids_of, texts)):
        assert seen.pop(index) == (ids if len(ids) <= max_length else [*ids[: max_length - 1], SEP])
    assert not seen


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_dataset_has_the_rows_of_the_batches_without_padding(words_tokenizer, shuffle):
    texts, labels = make_corpus([*range(3, 60)])
    arguments = (words_tokenizer, texts, labels, 40, 256, 8, 1, shuffle)
    dataset, _ = classification_dataset(*arguments)
    made, _ = classification_batches(*arguments)
    assert int(dataset.cardinality()) == made.steps_per_epoch
    for epoch in range(2):
        expected = [
            (inputs["token_ids"][weight == 1], inputs["padding_mask"][weight == 1], label[weight == 1])
            for inputs, label, weight in taken(made.steps(epoch * made.steps_per_epoch), made.steps_per_epoch)
        ]
        assert same(batches(dataset), expected)


def test_buckets_shapes_and_batch_sizes(words_tokenizer):
    texts, labels = make_corpus([3, 128, 129, 256, 257, 512, 513, 600, 601, 5000] * 9)
    dataset, _ = classification_dataset(words_tokenizer, texts, labels, max_length=600, batch_tokens=1024)
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


def test_a_cut_document_keeps_its_end(words_tokenizer):
    dataset, report = classification_dataset(words_tokenizer, ["alpha " * 100, "beta"], [0, 1], 16, 64, shuffle=False)
    ((ids, mask, label),) = batches(dataset)
    alpha, beta = 5, 6
    assert ids.tolist() == [[2] + [alpha] * 14 + [3], [2, beta, 3] + [0] * 13]
    assert mask.sum(axis=1).tolist() == [16, 3]
    assert label.tolist() == [0, 1]
    assert str(report) == "truncated 1 of 2 documents; 82 % of tokens dropped"


def test_report_of_nothing_cut(words_tokenizer):
    _, report = classification_dataset(words_tokenizer, ["alpha", "beta"], [0, 1], 16, 64)
    assert str(report) == "truncated 0 of 2 documents; 0 % of tokens dropped"
    report = CutReport(documents=150, cut_documents=86, cut_tokens=503_730, total_tokens=1_528_892)
    assert str(report) == "truncated 86 of 150 documents; 33 % of tokens dropped"


def test_same_seed_same_batches_and_a_new_order_each_epoch(words_tokenizer):
    texts, labels = make_corpus([*range(3, 60)])

    def epochs(seed, shuffle=True):
        dataset, _ = classification_dataset(words_tokenizer, texts, labels, 64, 256, 8, seed, shuffle)
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
        ({"max_length": 2}, "`max_length` must be an integer of at least 3"),
        ({"batch_tokens": 0}, "`batch_tokens` must be"),
        ({"min_length": 0}, "`min_length` must be"),
        ({"labels": [0]}, r"one class per text, 2. Received: shape \(1,\)"),
        ({"labels": [[0], [1]]}, r"shape \(2, 1\)"),
        ({"labels": [0, -1]}, r"integers of 0 or more.*\[0, -1\]"),
        ({"labels": ["a", "b"]}, "integers of 0 or more"),
        ({"labels": [0.0, 1.0]}, "integers of 0 or more"),
        ({"texts": ["alpha", ""]}, r"empty.*texts\[1\]"),
    ],
)
def test_classification_refuses_bad_arguments(words_tokenizer, change, message):
    arguments = {"texts": ["alpha", "beta"], "labels": [0, 1], "max_length": 16, "batch_tokens": 64, **change}
    with pytest.raises(ValueError, match=message):
        classification_dataset(words_tokenizer, **arguments)


# classification_batches


@pytest.fixture(scope="module")
def classification(words_tokenizer):
    texts = [make_text(words, words) for words in range(1, 60)]
    return classification_batches(words_tokenizer, texts, [*range(59)], 48, 128, 8, seed=5, batch_multiple=2)[0]


def test_every_document_comes_once_an_epoch_in_batches_of_one_size_a_bucket(classification):
    steps = classification.steps_per_epoch
    found = taken(classification, 2 * steps)
    lengths = [words + 2 for words in range(1, 60)]
    counts = Counter(next(bucket for bucket in (8, 16, 32, 48) if min(length, 48) <= bucket) for length in lengths)
    sizes = {8: 16, 16: 8, 32: 4, 48: 2}
    assert steps == sum(math.ceil(count / sizes[bucket]) for bucket, count in counts.items())
    for epoch in (found[:steps], found[steps:]):
        seen = []
        for inputs, label, weight in epoch:
            rows, bucket = inputs["token_ids"].shape
            assert rows == sizes[bucket]
            for ids, mask, document, real in zip(*inputs.values(), label, weight, strict=True):
                if not real:
                    assert document == mask.sum() == ids.sum() == 0
                    continue
                seen.append(document)
                expected = ids_of(make_text(document + 1, document + 1))
                expected = expected if len(expected) <= 48 else [*expected[:47], SEP]
                np.testing.assert_array_equal(ids[mask == 1], expected)
        assert sorted(seen) == list(range(59))
    assert [label.tolist() for _, label, _ in found[:steps]] != [label.tolist() for _, label, _ in found[steps:]]


def test_batches_of_all_buckets_come_in_random_order(classification):
    """Not bucket by bucket: the lengths of successive batches change about as often as in a shuffled deck."""
    widths = [inputs["token_ids"].shape[1] for inputs, *_ in taken(classification, 4 * classification.steps_per_epoch)]
    assert np.count_nonzero(np.diff(widths)) > len(widths) // 3


def test_filled_rows_reach_neither_loss_nor_gradient(words_tokenizer):
    """One document in a batch of four, against the document alone."""
    from krpe_tf.models import Encoder, TextClassifier

    encoder = Encoder(vocabulary_size=11, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8, seed=0)
    batches, _ = classification_batches(words_tokenizer, ["alpha beta"], [1], 16, 64)
    model = TextClassifier(encoder, 2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    inputs, label, weight = batches[0]
    assert weight.tolist() == [1, 0, 0, 0]
    results = []
    for rows in (slice(None), slice(1)):
        with tf.GradientTape() as tape:
            value = loss(label[rows], model({k: v[rows] for k, v in inputs.items()}), sample_weight=weight[rows])
        gradients = tape.gradient(value, model.trainable_variables)
        results.append([value, *(tf.convert_to_tensor(gradient) for gradient in gradients)])
    for filled, alone in zip(*results, strict=True):
        np.testing.assert_allclose(filled, alone, rtol=1e-4, atol=1e-6)


# buckets


def test_a_target_for_each_token(words_tokenizer):
    """The target of a token is its place in the document; every third has none."""
    lengths = [3, 9, 20, 50, 51]
    places = [np.where(np.arange(length) % 3 == 2, -1, np.arange(length)) for length in lengths]
    documents = [np.arange(length) + 5 for length in lengths]
    made, report = buckets(
        {"token_ids": Ragged.join(documents), "tags": Ragged.join(places)},
        max_length=50,
        batch_tokens=100,
        tokenizer=words_tokenizer,
        min_length=16,
        target="tags",
        shuffle=False,
    )
    assert report == CutReport(5, 1, 1, sum(lengths))
    found = {}
    for inputs, labels, weights in taken(made, made.steps_per_epoch):
        assert labels.shape == weights.shape == inputs["token_ids"].shape
        for ids, mask, label, weight in zip(*inputs.values(), labels, weights, strict=True):
            if mask.any():
                found[len(found)] = ids[mask == 1].tolist()
                expected = [place for place in range(mask.sum()) if place % 3 != 2 and ids[place] != SEP]
                assert np.flatnonzero(weight).tolist() == expected
                assert label[weight == 1].tolist() == expected
            assert not label[weight == 0].any()
    truncated = [*documents[4][:49].tolist(), SEP]
    assert [*found.values()] == [*(document.tolist() for document in documents[:4]), truncated]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(3, 90), min_size=1, max_size=20), max_length=st.sampled_from([3, 8, 24, 90]))
def test_long_documents_are_split_and_lose_nothing(words_tokenizer, lengths, max_length):
    """Every token of the documents comes once, with its target; a piece has a [CLS] and a [SEP] of its own."""
    starts = np.cumsum([0, *lengths])
    documents = [np.array([CLS, *range(100 + a, 98 + b), SEP]) for a, b in itertools.pairwise(starts)]
    targets = [np.where(np.isin(ids, (CLS, SEP)), -1, ids + 1000) for ids in documents]
    made, report = buckets(
        {"token_ids": Ragged.join(documents), "tags": Ragged.join(targets)},
        max_length,
        100,
        tokenizer=words_tokenizer,
        min_length=8,
        target="tags",
        split_long=True,
    )
    pieces = []
    for inputs, labels, weights in taken(made, made.steps_per_epoch):
        for ids, mask, label, weight in zip(*inputs.values(), labels, weights, strict=True):
            if mask.any():
                piece = ids[mask == 1].tolist()
                assert (piece[0], piece[-1]) == (CLS, SEP)
                assert weight.tolist() == [0, *[1] * (len(piece) - 2), *[0] * (len(ids) - len(piece) + 1)]
                assert label[weight == 1].tolist() == [token + 1000 for token in piece[1:-1]]
                pieces.append(piece[1:-1])
    assert [token for piece in sorted(pieces) for token in piece] == [token for ids in documents for token in ids[1:-1]]
    whole = sum(length <= max_length for length in lengths)
    assert report == CutReport(len(lengths), len(lengths) - whole, 0, sum(lengths), len(pieces))
    assert str(report) == f"split {len(lengths) - whole} of {len(lengths)} documents; {len(pieces)} pieces in all"
    assert max(map(len, pieces)) <= max_length - 2


def test_no_documents_are_refused(words_tokenizer):
    with pytest.raises(ValueError, match="`fields` must hold at least one document"):
        buckets({"token_ids": Ragged.join([]), "label": np.zeros(0)}, 16, 64, tokenizer=words_tokenizer)
    with pytest.raises(ValueError, match="`batch_multiple` must be"):
        classification_batches(words_tokenizer, ["alpha"], [0], 16, 64, batch_multiple=0)
    fields = {"token_ids": Ragged.join([ids_of("alpha")]), "label": np.zeros(1)}
    with pytest.raises(ValueError, match="`split_long` needs a target for each token"):
        buckets(fields, 16, 64, tokenizer=words_tokenizer, split_long=True)
