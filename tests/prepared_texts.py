"""Texts to prepare, and what lies in the shards of them."""

import json

import numpy as np
import tensorflow as tf

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
PAD, UNK, CLS, SEP, MASK = range(5)
SIZES = {"validation_fraction": 0.2, "num_shards": 4, "progress": False}


def make_documents(count):
    """Texts, none like another, and labels."""
    for number in range(count):
        random = np.random.default_rng(number)
        yield " ".join(random.choice(WORDS, 8 + random.integers(1, 90))), "abc"[number % 3]


def write_jsonl(path, documents):
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in documents), "utf-8")
    return path


def write_folder(path, documents):
    for number, (text, label) in enumerate(documents):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{number}.txt").write_text(text, "utf-8")
    return path


def stored(prepared, split):
    """(ids, label) of every document of every shard, read by nothing of ours."""
    shards = []
    for shard in prepared.manifest["splits"][split]["shards"]:
        found = []
        for record in tf.data.TFRecordDataset(str(prepared.path / shard["file"])).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            found.append((list(features["token_ids"].int64_list.value), *features["label"].int64_list.value))
        assert (shard["documents"], shard["tokens"]) == (len(found), sum(len(ids) for ids, *_ in found))
        shards.append(found)
    return shards
