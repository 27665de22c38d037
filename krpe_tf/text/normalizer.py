"""Lower case without accents, and with the marks that other scripts cannot do without.

tensorflow-text's FastBertNormalizer strips every mark, the vowel signs of Hindi among them. It maps one character at a
time, by a table that it takes as a buffer; its own op reads the same buffer in TensorFlow and in LiteRT. So another
table is all that another rule needs.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow_text as tf_text

# Marks on Latin, Greek and Cyrillic letters, and the variation selectors: blocks of Unicode, first and last.
STRIPPED_MARKS = (
    ("0300", "036F"),
    ("0483", "0487"),
    ("1AB0", "1AFF"),
    ("1DC0", "1DFF"),
    ("20D0", "20FF"),
    ("2DE0", "2DFF"),
    ("A66F", "A66F"),
    ("A674", "A67D"),
    ("A69E", "A69F"),
    ("FE00", "FE0F"),
    ("FE20", "FE2F"),
    ("E0100", "E01EF"),
)

# A value of the table: this bit, where in the pool the normalised character begins, and how many bytes it has there.
DIFFERENT, LENGTH_BITS = 1 << 30, 6

# A unit of the trie: the byte that leads to it; whether a value follows; from bit 10 on what leads to the next one.
HAS_VALUE, OFFSET_SHIFT = 1 << 8, 10


def make_normalizer(lowercase: bool, keep_marks: bool) -> "tf_text.FastBertNormalizer":
    """Make a FastBertNormalizer, see `WordPieceTokenizer`."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    with tf.init_scope():  # Its table must not belong to a graph that happens to be traced.
        return tf_text.FastBertNormalizer(lowercase, model_buffer=normalizer_model(lowercase, keep_marks))


def normalizer_model(lowercase: bool, keep_marks: bool) -> bytes | None:
    """Return what FastBertNormalizer takes as its `model_buffer`; None where its own table is right."""
    return _keeping_marks() if lowercase and keep_marks else None


@functools.cache
def _keeping_marks() -> bytes:
    """Make FastBertNormalizer's buffer for lower case that loses `STRIPPED_MARKS` and no other mark.

    As with `lower_case_nfd_strip_accents`, characters are folded (NFKC_Casefold) and decomposed (NFD), and controls
    become spaces.
    """
    import flatbuffers

    pool, offsets, values = bytearray(), {}, {}
    zero = DIFFERENT
    for character, normalised in _changes().items():
        if normalised not in offsets:
            offsets[normalised] = len(pool)
            pool += normalised
        value = DIFFERENT | offsets[normalised] << LENGTH_BITS | len(normalised)
        if character == b"\0":  # No key of a trie: it ends one.
            zero = value
        else:
            values[character] = value
    builder = flatbuffers.Builder(2**18)
    strings = builder.CreateByteVector(bytes(pool))
    units = _trie(values)
    builder.StartVector(4, len(units), 4)
    for unit in reversed(units):
        builder.PrependUint32(unit)
    trie = builder.EndVector()
    builder.StartObject(4)
    builder.PrependBoolSlot(0, True, False)
    builder.PrependUOffsetTRelativeSlot(1, trie, 0)
    builder.PrependInt32Slot(2, zero, 0)
    builder.PrependUOffsetTRelativeSlot(3, strings, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _changes() -> dict[bytes, bytes]:
    """Return the normalised form of every character that it changes, both in UTF-8."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    stripped = "".join(rf"\x{{{first}}}-\x{{{last}}}" for first, last in STRIPPED_MARKS)
    with tf.init_scope():
        characters = tf.constant([chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000])
        found = tf_text.normalize_utf8(tf_text.case_fold_utf8(characters), "NFD")
        found = tf.strings.regex_replace(found, f"[{stripped}]", "")
        found = tf.strings.regex_replace(found, r"\p{Cc}|\p{Cf}", " ")
        changed = found != characters
        pairs = tf.boolean_mask(characters, changed).numpy(), tf.boolean_mask(found, changed).numpy()
    return dict(zip(*pairs, strict=True))


def _trie(values: Mapping[bytes, int]) -> list[int]:
    """Build a double array in the format of Darts-clone.

    From the unit at place p, byte b leads to the unit at p ^ offset ^ b, if that one bears the byte; a value lies at
    p ^ offset. The bytes 0x80 to 0xBF, by which UTF-8 continues, are given 64 places in a row for each prefix.

    Args:
        values: By the UTF-8 of a character, positive and below 2**31.
    """
    prefixes = {key[:length] for key in values for length in range(1, len(key))}
    base = {b"": 0, **{prefix: 256 + 64 * row ^ 0x80 for row, prefix in enumerate(sorted(prefixes))}}
    units = [0] * (256 + -(-64 * len(prefixes) // 256) * 256)  # Every byte after every prefix stays within.
    place = {key: base[key[:-1]] ^ key[-1] for key in [*prefixes, *values]}
    free = sorted(set(range(1, len(units))) - set(place.values()), reverse=True)
    leaves = {}
    for value in sorted(set(values.values())):
        if free:
            leaves[value] = free.pop()
        else:
            leaves[value] = len(units)
            units += [0] * 256
            free = list(range(len(units) - 1, len(units) - 256, -1))
        units[leaves[value]] = 1 << 31 | value
    for key, at in place.items():
        end = leaves[values[key]] if key in values else base[key]
        units[at] = key[-1] | HAS_VALUE * (key in values) | (at ^ end) << OFFSET_SHIFT
    return units
