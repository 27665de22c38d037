"""What is held out: of labelled texts in memory, of groups, and of documents that stream by."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krpe_tf.data import LabelledTexts, split_holdout
from krpe_tf.data.splits import streaming_holdout


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


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    labels=st.lists(st.sampled_from("abc"), min_size=8, max_size=60),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 9),
)
def test_without_equal_texts_the_split_is_that_of_0_1(labels, fraction, seed):
    """Its unfinished runs resume."""
    random, held = np.random.default_rng(seed), []
    for label in sorted(set(labels)):
        members = np.flatnonzero(np.array(labels) == label)
        size = min(max(1, round(fraction * len(members))), len(members) - 1)
        held += random.permutation(members)[:size].tolist()
    _, validation = split_holdout(labelled(labels), fraction, seed)
    assert validation.texts == [f"text {place}" for place in sorted(held)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), fraction=st.floats(0.05, 0.6), seed=st.integers(0, 9))
def test_equal_texts_stay_together_and_every_label_is_trained(data, fraction, seed):
    pairs = data.draw(
        st.lists(st.tuples(st.sampled_from("klmnopqrst"), st.sampled_from("ab")), min_size=6, max_size=60)
    )
    pairs = [*pairs, ("u", "a"), ("v", "a"), ("w\n", "b"), ("x", "b"), ("w", "b"), ("x", "b")]
    both = LabelledTexts(*map(list, zip(*pairs, strict=True)))
    train, validation = split_holdout(both, fraction, seed)
    sides = [{text.strip() for text in part.texts} for part in (train, validation)]
    assert not sides[0] & sides[1]
    assert set(train.labels) == set(validation.labels) == {"a", "b"}
    assert sorted(train.texts + validation.texts) == sorted(both.texts)
    labels_of = {}
    for text, label in pairs:
        labels_of.setdefault(text.strip(), set()).add(label)
    assert all(len(labels_of[text]) == 1 for text in sides[1])
    single = [text.strip() for text, _ in pairs if len(labels_of[text.strip()]) == 1]
    largest = max(Counter(single).values())
    assert len(validation.texts) <= fraction * len(single) + 2 * largest


def test_one_text_over_and_over_cannot_be_held_out():
    with pytest.raises(ValueError, match=r"too few texts to hold some out. Received: 40 texts, 1 of them different"):
        split_holdout(LabelledTexts(["the same"] * 40, ["a", "b"] * 20), 0.2, 0)
    train, validation = split_holdout(LabelledTexts(["x"] * 40 + ["y", "z"], ["a"] * 41 + ["b"]), 0.2, 0)
    assert (train.texts, validation.texts) == (["x"] * 40 + ["z"], ["y"])


def test_two_groups_give_one_each():
    train, validation = split_holdout(labelled("abab"), 0.1, 0, ["x", "x", "y", "y"])
    assert sorted((train.texts, validation.texts)) == [["text 0", "text 1"], ["text 2", "text 3"]]


@pytest.mark.parametrize(
    ("labels", "fraction", "groups", "message"),
    [
        ("abab", 0.0, None, "`fraction` must lie between 0 and 1.*fraction=0.0"),
        ("abab", 1.0, None, "`fraction` must lie between 0 and 1"),
        ("abab", 0.5, [1, 2], "`groups` must name a group per text, 4. Received: 2 groups"),
        ("ab", 0.5, None, "every label has one text, is `label_column` right. Received: 2 labels of 2 texts"),
        ("abab", 0.5, [1, 1, 1, 1], "too few groups"),
        ("ab", 0.5, [1, 2], r"without training texts: \['[ab]'\]"),
    ],
)
def test_impossible_splits_are_refused(labels, fraction, groups, message):
    with pytest.raises(ValueError, match=message):
        split_holdout(labelled(labels), fraction, 0, groups)


# streaming_holdout


@settings(max_examples=50, deadline=None, derandomize=True)
@given(fraction=st.floats(0.01, 0.95), count=st.integers(1, 300), seed=st.integers(0, 9))
def test_held_out_are_a_fraction_of_every_label_and_never_its_first(fraction, count, seed):
    held_out = streaming_holdout(fraction, seed)
    held = [[held_out(label) for label in "ab"] for _ in range(count)]
    for chosen in zip(*held, strict=True):
        assert not chosen[0]
        assert abs(sum(chosen) - fraction * count) <= 2
    again = streaming_holdout(fraction, seed)
    assert held == [[again(label) for label in "ab"] for _ in range(count)]
    assert not any(map(streaming_holdout(0, seed), "ab"))
