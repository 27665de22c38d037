"""What lies on disk: damage of any file is named, when it is met and not before."""

import json
import os

import pytest
from batch_checks import same, taken
from prepared_texts import SIZES, make_documents, write_jsonl

from krpe_tf.data import load_corpus, prepare, store


@pytest.fixture
def copy(tmp_path, words_tokenizer):
    source = write_jsonl(tmp_path / "a.jsonl", make_documents(30))
    return prepare(source, tmp_path / "out", tokenizer=words_tokenizer, **SIZES)


def flip_a_bit(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


NAMES = ["token_ids.bin", "token_ids.starts.bin", "label.bin", "token_ids.bin.crc32", "label.bin.crc32"]


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_or_missing_file_is_named(copy, name):
    path = copy.path / "train" / name
    place = f"Received: .*train/{name}$"
    copy.verify()
    for share in (0.0, 0.3, 0.9):
        flip_a_bit(path, share)
        with pytest.raises(ValueError, match=f"a file differs from its SHA-256.*{place}"):
            copy.verify()
        with pytest.raises(ValueError, match=rf"must hold what `prepare` wrote, but a file differs.*{place}"):
            taken(load_corpus(copy.path).classification_batches(64, 256)[0], 30)
        flip_a_bit(path, share)
    copy.verify()
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"has .* bytes instead of .*{place}"):
        load_corpus(copy.path)
    path.unlink()
    with pytest.raises(ValueError, match=f"is missing.*{place}"):
        load_corpus(copy.path)
    with pytest.raises(ValueError, match=f"cannot be read.*{place}"):
        copy.verify()


def test_damage_is_met_in_the_middle_of_training_and_not_before_its_block(tmp_path, words_tokenizer, monkeypatch):
    monkeypatch.setattr(store, "BLOCK_BYTES", 256)
    source = write_jsonl(tmp_path / "a.jsonl", make_documents(60))
    copy = prepare(source, tmp_path / "out", tokenizer=words_tokenizer, **SIZES)
    path = copy.path / "train" / "token_ids.bin"
    flip_a_bit(path, 0.5)
    batches = load_corpus(copy.path).masked_lm_batches(16, 4, shuffle=False)
    damaged = batches.steps_per_epoch // 2
    before = taken(batches, damaged - 8)
    with pytest.raises(ValueError, match=r"in block \d+. Received: .*token_ids\.bin"):
        taken(batches, damaged + 8)
    assert batches[batches.steps_per_epoch - 1]
    flip_a_bit(path, 0.5)
    assert same(taken(batches, damaged - 8), before)
    assert len(taken(batches, damaged + 8)) == damaged + 8


def test_a_file_that_shrinks_while_it_is_read_is_named(copy):
    batches = load_corpus(copy.path).masked_lm_batches(16, 4)
    path = copy.path / "train" / "token_ids.bin"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"has .* bytes instead of .*token_ids\.bin"):
        taken(batches, 30)


def test_damage_reaches_fit_with_its_name(copy):
    path = copy.path / "train" / "token_ids.bin"
    flip_a_bit(path)
    dataset = load_corpus(copy.path).masked_lm_batches(16, 4).dataset()
    with pytest.raises(Exception, match=r"ValueError: `path` must hold what `prepare` wrote.*token_ids\.bin"):
        taken(dataset, 30)


def test_files_that_changed_places_are_noticed(copy):
    first, second = copy.path / "train" / "label.bin", copy.path / "validation" / "label.bin"
    first.rename(first.with_suffix(".x"))
    second.rename(first)
    first.with_suffix(".x").rename(second)
    with pytest.raises(ValueError, match=r"bytes instead of .*label\.bin"):
        load_corpus(copy.path)
    with pytest.raises(ValueError, match=r"differs from its SHA-256.*label\.bin"):
        copy.verify()


def test_damaged_tokenizers_and_manifests_are_named(copy):
    tokenizer, manifest = copy.path / "tokenizer.json", copy.path / "manifest.json"
    flip_a_bit(tokenizer)
    with pytest.raises(ValueError, match=r"differs from its SHA-256.*tokenizer\.json"):
        load_corpus(copy.path)
    for text in ("{", "{}", "[]", '{"format": 99}', '{"format": 2, "files": 3}', '{"format": 2, "files": {}}'):
        manifest.write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json cannot be read"):
            load_corpus(copy.path)


def test_a_folder_of_0_1_is_refused_with_what_to_do(tmp_path, words_tokenizer):
    source = write_jsonl(tmp_path / "a b.jsonl", make_documents(30))
    folder = tmp_path / "out put"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "00000.tfrecord").write_bytes(b"records")
    words_tokenizer.save(folder / "tokenizer.json")
    settings = {"source": str(source), "vocabulary_size": 99, "validation_fraction": 0.2, "seed": 3}
    manifest = {"format": 1, "settings": settings, "classes": None, "splits": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    command = rf"krpe_tf prepare '{source}' --output '{folder}' --overwrite --vocabulary-size 99"
    command += " --validation-fraction 0.2 --seed 3 --unlabelled"
    with pytest.raises(ValueError, match=rf"prepared by krpe_tf 0\.1.*: python -m {command}"):
        load_corpus(folder)
    prepared = prepare(source, folder, tokenizer=words_tokenizer, overwrite=True, **SIZES)
    assert prepared.documents() == 24
    assert not (folder / "train" / "00000.tfrecord").exists()
