"""Texts to prepare, and what lies in the arrays of them."""

import json

import numpy as np

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
PAD, UNK, CLS, SEP, MASK = range(5)
SIZES = {"validation_fraction": 0.2, "progress": False}


def make_text(words, seed):
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def ids_of(text):
    """The ids of a text of `WORDS` between [CLS] and [SEP], by looking words up."""
    return [CLS, *(5 + WORDS.index(word) for word in text.split()), SEP]


def windows_of(documents, length):
    """Every window of documents of ids, in order, by cutting lists."""
    windows = []
    for ids in documents:
        for start in range(0, len(ids), length):
            window = list(ids[start : start + length])
            if window != [SEP]:
                windows.append(tuple(window + [PAD] * (length - len(window))))
    return windows


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
    """(ids, label) of every document, or (ids,), read by nothing of ours."""
    folder, manifest = prepared.path / split, prepared.manifest["splits"][split]
    starts = np.fromfile(folder / "token_ids.starts.bin", "<i8")
    ids = np.fromfile(
        folder / "token_ids.bin", {"uint16": "<u2", "int32": "<i4"}[manifest["fields"]["token_ids"]["dtype"]]
    )
    documents = [part.tolist() for part in np.split(ids, starts[1:-1])] if len(starts) > 1 else []
    assert (starts[0], starts[-1]) == (0, len(ids))
    assert (manifest["documents"], manifest["tokens"]) == (len(documents), len(ids))
    if "label" not in manifest["fields"]:
        return [(ids,) for ids in documents]
    return list(zip(documents, np.fromfile(folder / "label.bin", "<i4").tolist(), strict=True))
