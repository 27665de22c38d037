"""Random strings that mix scripts, controls, marks, emoji and words of any length, for tokenizers to agree on."""

import numpy as np


def _range(first, last):
    return [chr(code) for code in range(first, last + 1)]


POOLS = [
    _range(0x61, 0x7A),
    _range(0x61, 0x7A) + [" "] * 6,
    _range(0x20, 0x7E),
    _range(0, 0x1F) + _range(0x7F, 0xA0),
    _range(0xA1, 0x24F),
    _range(0x300, 0x36F) + list("aeiou"),
    _range(0x370, 0x3FF) + _range(0x1F00, 0x1FFF),
    _range(0x400, 0x52F),
    _range(0x591, 0x5F4),
    _range(0x600, 0x6FF),
    _range(0x900, 0x97F),
    _range(0xE01, 0xE5B),
    _range(0x1100, 0x11FF) + _range(0xAC00, 0xAC80) + _range(0xD780, 0xD7A3),
    _range(0x1E00, 0x1EFF),
    _range(0x2000, 0x206F),
    _range(0x20A0, 0x214F) + _range(0x2190, 0x22FF),
    _range(0x3000, 0x30FF),
    _range(0x4E00, 0x4E80) + _range(0x20000, 0x20040),
    _range(0xFB00, 0xFB4F) + _range(0xFE00, 0xFE2F),
    _range(0xFF00, 0xFFEF),
    _range(0x1D400, 0x1D4FF),
    [*"👩🏽\u200d💻🏳️\u200d🌈❤️🇨🇭👨\u200d👩\u200d👧", *_range(0x1F600, 0x1F64F)],
    _range(0xE0000, 0xE007F) + _range(0xE0100, 0xE0120) + ["\ue000", "\ufdd0", "\ufffe", "\ufffd", "\U0010ffff"],
    [
        *"[]#",
        "[CLS]",
        "[MASK]",
        "##",
        "##a",
        "\r\n",
        "ß",
        "İ",
        "\u0131",
        "\u017f",
        "ﬃ",
        "½",
        "™",
        "Ω",
        "Å",
        "가",
        "\u0345",
    ],
    ["the", "law", "war", "people", " "],
]


def odd_strings(count: int, seed: int = 0) -> list[str]:
    """Make strings: of up to 60 characters, some of hundreds, and last two with a word of 10,000."""
    random = np.random.default_rng(seed)
    texts = []
    for index in range(count - 2):
        text = ""
        for _ in range(random.integers(0, 6)):
            if random.random() < 0.15:  # any characters at all
                codes = random.integers(0, 0x110000, random.integers(1, 8))
                text += "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
            else:
                pool = POOLS[random.integers(len(POOLS))]
                size = random.integers(1, 400 if index % 50 == 0 else 13)
                text += "".join(pool[place] for place in random.integers(0, len(pool), size))
            text += random.choice(["", " ", ". "])
        texts.append(text)
    return [*texts, "law" + "e" * 10_000 + " law", "é😀" * 5_000]
