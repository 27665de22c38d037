"""The table of what the WordPiece tokenizer does to each character: read by its rule, it gives the ids of the op."""

import json

import pytest

from krpe_tf.export import normalizer_file
from krpe_tf.text import RESERVED_TOKENS, WordPieceTokenizer, normalizer_table

CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]


def read(table):
    """The rule of docs/web.md: the words that a text becomes, as a function."""
    runs = {
        name: {c for first, last in table[name] for c in range(first, last + 1)}
        for name in ("dropped", "spaces", "alone")
    }
    changed = dict(zip(*table["changed"], strict=True))

    def becomes(character):
        code = ord(character)
        if code in runs["dropped"]:
            return ""
        if table["hangul"] and 0xAC00 <= code <= 0xD7A3:
            lead, rest = divmod(code - 0xAC00, 588)
            vowel, tail = divmod(rest, 28)
            return chr(0x1100 + lead) + chr(0x1161 + vowel) + (chr(0x11A7 + tail) if tail else "")
        return changed.get(character, character)

    def words(text):
        found = [""]
        for character in text:
            for each in becomes(character):
                if ord(each) in runs["spaces"]:
                    found.append("")
                elif ord(each) in runs["alone"]:
                    found += [each, ""]
                else:
                    found[-1] += each
        return [word for word in found if word]

    return words


def pieces(word, ids):
    """The longest token that fits, again and again, of a vocabulary of single characters."""
    tokens = [word[0], *(f"##{character}" for character in word[1:])]
    return [ids[token] for token in tokens] if ids.keys() >= set(tokens) else [ids["[UNK]"]]


@pytest.mark.parametrize(
    ("lowercase", "keep_marks", "characters"),
    [
        pytest.param(True, True, CHARACTERS, id="default"),
        pytest.param(True, False, CHARACTERS[:0x3000] + CHARACTERS[0xA000:0x11000:3], id="as-bert"),
        pytest.param(False, True, CHARACTERS[:0x3000] + CHARACTERS[0xF000:0x11000], id="cased"),
    ],
)
def test_every_character_gives_the_ids_of_the_op(lowercase, keep_marks, characters):
    table = normalizer_table(lowercase, keep_marks)
    letters = sorted({*"".join(table["changed"][1]), *CHARACTERS[0x100:0x250:2]} - {" "})
    known = [*letters, *(f"##{letter}" for letter in letters)]
    tokenizer = WordPieceTokenizer(dict.fromkeys([*RESERVED_TOKENS, "a", "##a", *known]), lowercase, keep_marks)
    assert json.loads(normalizer_file(tokenizer)) == table
    ids, words = {token: index for index, token in enumerate(tokenizer.vocabulary)}, read(table)
    texts = [f"a{character}a" for character in characters]
    for text, row in zip(texts, tokenizer.tokenize(texts).to_list(), strict=True):
        expected = [each for word in words(text) for each in pieces(word, ids)]
        assert row[1:-1] == expected, (ascii(text), hex(ord(text[1])))


def test_the_table_is_small_and_says_what_each_setting_does():
    default, bert, cased = (normalizer_table(*each) for each in ((True, True), (True, False), (False, True)))
    assert len(json.dumps(default, ensure_ascii=False).encode()) < 100_000
    changed = dict(zip(*default["changed"], strict=True))
    assert (changed["É"], changed["ß"], changed["½"]) == ("e", "ss", "1\u20442")
    assert cased["changed"] == ["", []]
    sign = ord("कु"[1])
    assert [any(first <= sign <= last for first, last in each["dropped"]) for each in (default, bert)] == [False, True]


def test_a_token_with_white_space_has_no_table():
    """The op finds it across words, which the rule does not."""
    tokenizer = WordPieceTokenizer([*RESERVED_TOKENS, "new york", "new"])
    assert tokenizer.tokenize(["new york"]).to_list() == [[2, 5, 3]]
    with pytest.raises(ValueError, match=r"no token with white space in it\. Received: a tokenizer with 'new york'"):
        normalizer_file(tokenizer)
