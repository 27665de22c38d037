"""Tokenizers: their vocabularies, their ids against tensorflow-text, and their files."""

import errno
import functools
import json
import os
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text as tf_text
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece_models import train_sentencepiece
from tensorflow_text.python.ops.bert_tokenizer import BasicTokenizer

from krpe_tf.text import RESERVED_TOKENS, SentencePieceTokenizer, WordPieceTokenizer, check_texts, train_wordpiece
from krpe_tf.text.normalizer import STRIPPED_MARKS, make_normalizer

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "seven", "wizards", "mix", ",", "."]
CHARACTERS = "abcdefgilmnéß"
PIECES = [*RESERVED_TOKENS, *WORDS, *CHARACTERS, *("##" + c for c in CHARACTERS), *"A中!", "fo", "##ox", "##ing"]
PAD, UNK, CLS, SEP, MASK = range(5)


def make_text(words, seed):
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer(PIECES)


def test_check_texts_decodes_and_keeps_everything_else():
    assert check_texts((" a\n", "b\u00e9".encode(), np.str_("c"), "\ufffd")) == [" a\n", "b\u00e9", "c", "\ufffd"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", "list of texts.*Received: texts='one text'"),
        (b"one text", "list of texts"),
        ([], "at least one"),
        (["fine", 3], r"str or bytes.*texts\[1\]=3 of type int"),
        (["fine", b"\xff\xfe"], r"valid UTF-8.*texts\[1\]"),
        (["\ud800"], "valid UTF-8"),
        (["fine", ""], r"empty.*texts\[1\]=''"),
        ([" \n\t\u00a0"], "empty"),
        (["\u200b\x00\ufeff"], "empty"),
    ],
)
def test_bad_texts_are_refused(tokenizer, texts, message):
    for function in (check_texts, tokenizer, tokenizer.encode, lambda texts: train_wordpiece(texts, 100)):
        with pytest.raises(ValueError, match=message):
            function(texts)


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_text"] = None
import krpe_tf.data
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer, check_texts, load_tokenizer
print(check_texts(["fine"]))
tokenizer = WordPieceTokenizer([*RESERVED_TOKENS, "fox"])
tokenizer.save(sys.argv[1])
for path in sys.argv[1:]:
    loaded = load_tokenizer(path)
    print(loaded.vocabulary_size, loaded.pad_id, loaded.start_id, loaded.end_id, loaded.mask_id)
    try:
        loaded(["fox"])
    except ImportError:
        print("needs TensorFlow")
"""


def test_import_checks_and_ids_need_no_tensorflow(tmp_path):
    pieces = SentencePieceTokenizer(train_sentencepiece())
    pieces.save(tmp_path / "pieces.json")
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, str(tmp_path / "words.json"), str(tmp_path / "pieces.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "['fine']",
        "6 0 2 3 4",
        "needs TensorFlow",
        f"1000 0 2 3 {pieces.mask_id}",
        "needs TensorFlow",
    ], done.stderr


# WordPieceTokenizer


@functools.cache
def both_tokenizers(lowercase):
    """Ours, and tensorflow-text's older one: regex splitting and a lookup table, no code shared with the fast one."""
    bert = tf_text.BertTokenizer(lookup_table(PIECES), lower_case=lowercase)
    return WordPieceTokenizer(PIECES, lowercase, keep_marks=False, max_word_bytes=100), bert


def lookup_table(pieces):
    initializer = tf.lookup.KeyValueTensorInitializer(pieces, tf.range(len(pieces), dtype=tf.int64))
    return tf.lookup.StaticVocabularyTable(initializer, 1)


# The two differ on white space beyond ASCII (BertTokenizer splits at none of it) and on code points newer than one's
# Unicode tables; everything else agrees.
characters = st.characters(codec="utf-8", exclude_categories=("Cs", "Cn", "Zs", "Zl", "Zp"))
words = st.one_of(st.sampled_from(WORDS), st.text(characters, max_size=8), st.text("abcdefgilmnéßA", max_size=20))


@pytest.mark.parametrize("lowercase", [True, False])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(texts=st.lists(st.lists(words, max_size=6).map(" ".join), min_size=1, max_size=4))
def test_ids_match_bert_tokenizer(lowercase, texts):
    ours, bert = both_tokenizers(lowercase)
    expected = [[CLS, *ids, SEP] for ids in bert.tokenize(texts).merge_dims(1, 2).to_list()]
    assert ours.tokenize(texts).to_list() == expected


class LowerCaseWithMarks(BasicTokenizer):
    """What the older tokenizer does first, with the marks of other scripts kept: by regular expressions, no table."""

    def lower_case(self, text_input):
        folded = tf_text.normalize_utf8(tf_text.case_fold_utf8(text_input), "NFD")
        return tf.strings.regex_replace(folded, r"[\x{300}-\x{36F}\x{483}-\x{487}\x{FE00}-\x{FE0F}]", "")


SCRIPTS = "aÉñß йёЙ άΐ कुि़क़ต้ำไ が゛か بَؤ שָׁ 가각 \u0300\u0327\ufe0f😀"
MARKED = [
    *RESERVED_TOKENS,
    *dict.fromkeys("aens\u0438\u0435\u03b1\u03b9" + unicodedata.normalize("NFKD", SCRIPTS).replace(" ", "")),
]
MARKED += [f"##{piece}" for piece in MARKED[5:]] + ["कु", "##ु़", "กำ"]


@functools.cache
def marked_tokenizers():
    options = {"lower_case": True, "max_bytes_per_word": 10**6, "basic_tokenizer_class": LowerCaseWithMarks}
    return WordPieceTokenizer(MARKED), tf_text.BertTokenizer(lookup_table(MARKED), **options)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(texts=st.lists(st.text(SCRIPTS, min_size=1, max_size=150), min_size=1, max_size=4))
def test_ids_match_an_older_tokenizer_that_keeps_marks_and_long_words(texts):
    texts = [unicodedata.normalize("NFD", text) for text in texts]  # A table does not reorder marks.
    ours, bert = marked_tokenizers()
    expected = [[CLS, *ids, SEP] for ids in bert.tokenize(texts).merge_dims(1, 2).to_list()]
    assert ours.tokenize(texts).to_list() == expected


def test_every_character_is_normalised_as_said():
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    folded = tf_text.normalize_utf8(tf_text.case_fold_utf8(characters), "NFD")
    stripped = "".join(rf"\x{{{first}}}-\x{{{last}}}" for first, last in STRIPPED_MARKS)
    expected = tf.strings.regex_replace(tf.strings.regex_replace(folded, f"[{stripped}]", ""), r"\p{Cc}|\p{Cf}", " ")
    found = make_normalizer(lowercase=True, keep_marks=True).normalize(characters)
    assert bool(tf.reduce_all(found == expected))


def test_accents_go_and_the_marks_of_other_scripts_stay():
    texts = ["Éñ Йё ά", "कु के", "กำ ต้น", "が", "بَ ؤ", "שָׁ"]
    found = make_normalizer(True, True).normalize(texts).numpy()
    expected = ["en \u0438\u0435 \u03b1", "कु के", "กํา ต้น", "か\u3099", "بَ و\u0654", "שָׁ"]
    assert [text.decode() for text in found] == [unicodedata.normalize("NFD", text) for text in expected]
    without = make_normalizer(True, False).normalize(texts[1:2]).numpy()
    assert without[0].decode() == "क क"


def test_no_word_is_too_long():
    pieces = [*RESERVED_TOKENS, "a", "##a"]
    word = "a" * 3_000_000
    assert len(WordPieceTokenizer(pieces).encode([word])[0]) == 3_000_002
    limited = WordPieceTokenizer(pieces, max_word_bytes=100)
    assert limited(["a" * 101, "a" * 100])["token_ids"][:, 1].tolist() == [UNK, 5]
    with pytest.raises(ValueError, match="`max_word_bytes` must be an integer of at least 1"):
        WordPieceTokenizer(pieces, max_word_bytes=0)


def test_a_vocabulary_that_splits_nothing_names_another_tokenizer():
    with pytest.raises(ValueError, match=r"`vocabulary` must hold tokens that .*SentencePieceTokenizer.*5 tokens"):
        WordPieceTokenizer(RESERVED_TOKENS)(["text"])


def test_call_pads_and_masks(tokenizer):
    out = tokenizer(["fox", b"The quick fox!"])
    the, quick, fox, mark = (PIECES.index(piece) for piece in ("the", "quick", "fox", "!"))
    assert out["token_ids"].tolist() == [[CLS, fox, SEP, PAD, PAD, PAD], [CLS, the, quick, fox, mark, SEP]]
    assert out["padding_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    assert out["token_ids"].dtype == out["padding_mask"].dtype == np.int32
    longer = tokenizer(["fox", "The quick fox!"], length=9)
    assert longer["token_ids"].shape == longer["padding_mask"].shape == (2, 9)
    np.testing.assert_array_equal(longer["token_ids"][:, :6], out["token_ids"])
    assert longer["token_ids"][:, 6:].sum() == longer["padding_mask"][:, 6:].sum() == 0


def test_case_is_kept_on_request():
    ids = WordPieceTokenizer(PIECES, lowercase=False)(["A é The"])["token_ids"]
    assert ids.tolist() == [[CLS, PIECES.index("A"), PIECES.index("é"), UNK, SEP]]


def test_too_long_a_text_is_refused_with_its_count(tokenizer):
    tokenizer(["fox fox fox"], length=5)
    with pytest.raises(ValueError, match=r"texts\[1\] has 5 tokens. Received: length=4"):
        tokenizer(["fox", "fox fox fox"], length=4)


@pytest.mark.parametrize("length", [0, -1, 2.0, True, "9"])
def test_bad_lengths_are_refused(tokenizer, length):
    with pytest.raises(ValueError, match="`length` must be an integer of at least 1"):
        tokenizer(["fox"], length=length)


def test_only_unknown_characters_work(tokenizer):
    assert tokenizer(["☃ 字☃"])["token_ids"].tolist() == [[CLS, UNK, UNK, UNK, SEP]]


def test_reserved_tokens_in_a_text_are_text(tokenizer):
    assert not {PAD, MASK} & set(tokenizer(["[MASK] [PAD] [CLS] [SEP]"])["token_ids"][0, 1:-1].tolist())


def test_a_two_megabyte_document_works(tokenizer):
    out = tokenizer(["fox " * 500_000])
    assert out["token_ids"].shape == (1, 500_002)
    assert out["padding_mask"].all()


def test_tokenize_works_in_graphs(tokenizer):
    texts = ["The fox", "rest .", "☃"]
    expected = tokenizer.tokenize(texts).to_list()
    function = tf.function(tokenizer.tokenize, input_signature=[tf.TensorSpec([None], tf.string)])
    assert function(tf.constant(texts)).to_list() == expected
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(2).map(tokenizer.tokenize)
    assert [row for batch in dataset for row in batch.to_list()] == expected
    assert dataset.element_spec == tf.RaggedTensorSpec([None, None], tf.int32)


def test_the_first_call_may_be_inside_a_graph():
    """What is made then must not belong to that graph."""
    tokenizer = WordPieceTokenizer(PIECES)
    function = tf.function(tokenizer.tokenize, input_signature=[tf.TensorSpec([None], tf.string)])
    expected = function(tf.constant(["The fox", "☃"])).to_list()
    assert tokenizer.tokenize(["The fox", "☃"]).to_list() == expected


def test_threads_may_share_a_tokenizer_from_its_first_call_on(tokenizer):
    texts = [[make_text(words, words)] for words in range(1, 20)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(WordPieceTokenizer(PIECES), texts))
    for text, inputs in zip(texts, found, strict=True):
        np.testing.assert_array_equal(inputs["token_ids"], tokenizer(text)["token_ids"])


def test_encode_gives_each_text_alone(tokenizer):
    texts = [make_text(words, words) for words in range(1, 140)]
    arrays = tokenizer.encode(texts)
    assert all(array.dtype == np.int32 for array in arrays)
    assert [array.tolist() for array in arrays] == [tokenizer([text])["token_ids"][0].tolist() for text in texts]


def test_reserved_tokens_may_stand_anywhere():
    moved = [*PIECES[5:], *RESERVED_TOKENS]
    tokenizer = WordPieceTokenizer(moved)
    ids = (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id, tokenizer.mask_id)
    assert [moved[index] for index in ids] == list(RESERVED_TOKENS)
    tokens = [[moved[index] for index in row] for row in tokenizer(["fox ☃", "fox"])["token_ids"]]
    assert tokens == [["[CLS]", "fox", "[UNK]", "[SEP]"], ["[CLS]", "fox", "[SEP]", "[PAD]"]]


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (PIECES[1:], r"Received: vocabulary without \['\[PAD\]'\]"),
        ([*PIECES, "fox"], "each token once.*'fox'"),
        ([*PIECES, ""], "non-empty strings.*''"),
        ([*PIECES, b"x"], "non-empty strings.*b'x'"),
    ],
)
def test_bad_vocabularies_are_refused(vocabulary, message):
    with pytest.raises(ValueError, match=message):
        WordPieceTokenizer(vocabulary)


@pytest.mark.parametrize("settings", [{}, {"lowercase": False}, {"keep_marks": False, "max_word_bytes": 100}])
def test_save_and_load(tmp_path, settings):
    path = tmp_path / "tokenizer.json"
    path.write_text("an older file")
    saved = WordPieceTokenizer(PIECES, **settings)
    saved.save(path)
    loaded = WordPieceTokenizer.load(path)
    assert vars(loaded) == vars(saved)
    texts = ["The Fox é 中"]
    np.testing.assert_array_equal(loaded(texts)["token_ids"], saved(texts)["token_ids"])
    assert os.listdir(tmp_path) == ["tokenizer.json"]


def test_a_file_of_an_earlier_version_keeps_its_ids(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"lowercase": True, "vocabulary": MARKED}))
    loaded = WordPieceTokenizer.load(path)
    assert (loaded.keep_marks, loaded.max_word_bytes) == (False, 100)
    a = MARKED.index("a")
    assert loaded(["कु", "a" * 101, "a"])["token_ids"][:, 1].tolist() == [MARKED.index("क"), UNK, a]
    loaded.save(path)
    assert json.loads(path.read_text()) == {"lowercase": True, "vocabulary": MARKED}


def test_a_failed_save_leaves_nothing(tmp_path, tokenizer):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    for unwritable in ("folder", "file/t.json", "missing/t.json"):
        with pytest.raises(ValueError, match="`path` must be a writable file"):
            tokenizer.save(tmp_path / unwritable)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_full_disk_is_no_bad_path(tmp_path, tokenizer, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        tokenizer.save(tmp_path / "tokenizer.json")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"vocabulary": []}', '{"vocabulary": null, "lowercase": true}', "3", b"\xff"]
)
def test_load_refuses_other_files(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"written by save\(\).*other.json"):
        WordPieceTokenizer.load(path)
    with pytest.raises(ValueError, match="readable file"):
        WordPieceTokenizer.load(tmp_path / "missing.json")
