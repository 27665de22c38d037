"""SentencePiece tokens that give the text back: trained here, and encoded by the package `sentencepiece`."""

import base64
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

from ..checks import check_at_least
from .checks import check_texts
from .reversible import ReversibleTokenizer

# SentencePiece writes a space as this sign; the sign itself, in a text, is written in bytes.
SPACE = "\u2581"

# No piece is learned of these: SentencePiece's own signs, and NUL.
NOT_LEARNED = f"{SPACE}\u2585\0"

# What pieces are learned from, in characters: 10 seconds, and 600 MB of memory. Of more text it is spread evenly.
LEARNED_FROM, CHUNK = 2**24, 4096

# 256 bytes, the four reserved tokens, and as many places again as a small alphabet takes.
FEWEST_TOKENS = 320

# What a model is tried on: white space of all kinds, marks, folded forms, what stands in no vocabulary, its own signs.
TRIED = (" a  b\n\n\tC\r\n ", "e\u0301 \ufb01 \uff21 \u00a0\u2003\u200b\ufeff", "\0\U0010ffff\U0001f642 <s> <0x41>")


def train_pieces(texts: Iterable[str | bytes], vocabulary_size: int) -> bytes:
    """Learn a SentencePiece model for `PieceTokenizer`: unigram, with bytes for all that has no piece.

    The same texts give the same model. Of more than 16 million characters, at least half as many are taken, spread
    evenly. Characters have at most half of the places that the bytes leave, the commonest first.

    Args:
        texts: Texts to learn from, `str` or UTF-8 `bytes`.
        vocabulary_size: The most tokens, at least 320: `<pad>`, `<unk>`, `<s>`, `</s>` (ids 0 to 3) and the 256 bytes
            are among them. Few texts give fewer.

    Returns:
        The model, as the package `sentencepiece` and LiteRT-LM read it.

    Raises:
        ValueError: For bad texts (see `check_texts`), a `vocabulary_size` out of range, or without `sentencepiece`.
    """
    check_at_least(FEWEST_TOKENS, vocabulary_size=vocabulary_size)
    sentencepiece = _import_sentencepiece()
    chunks = _spread(check_texts(texts))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_sentences(chunks, (vocabulary_size - 260) // 2),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocabulary_size,
        hard_vocab_limit=False,
        pad_id=0,  # LiteRT-LM takes id 0 for padding at the start of a text.
        unk_id=1,
        bos_id=2,
        eos_id=3,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        max_sentence_length=8 * CHUNK,
        num_threads=4,  # Sums of floats depend on it.
        minloglevel=2,
    )
    return model.getvalue()


def _spread(texts: list[str]) -> list[str]:
    """Return chunks of texts, spread evenly over them if they are too many."""
    step = -(-sum(map(len, texts)) // LEARNED_FROM)
    chunks = (text[start : start + CHUNK] for text in texts for start in range(0, len(text), CHUNK))
    return list(itertools.islice(chunks, 0, None, step))


def _sentences(chunks: list[str], places: int) -> Iterator[str]:
    """Return chunks, split where a character stands that gets no place: SentencePiece would give each of them one."""
    counts = Counter()
    for chunk in chunks:
        counts.update(chunk)
    ranked = sorted(counts.keys() - {*NOT_LEARNED}, key=lambda each: (-counts[each], each))
    split_at = str.maketrans(dict.fromkeys([*ranked[places:], *NOT_LEARNED], "\0"))
    found = (part for chunk in chunks for part in chunk.translate(split_at).split("\0") if part)
    return itertools.chain([" "], found)  # Without a place of its own, a space would be in bytes as SPACE is.


class PieceTokenizer(ReversibleTokenizer):
    """SentencePiece tokens between `<s>` and `</s>`; decoding gives back exactly what was encoded.

        tokenizer = PieceTokenizer(train_pieces(texts, 8192))
        tokenizer.decode(tokenizer.encode(["So  be\\tit."])[0])         # "So  be\\tit."

    Differs from `SentencePieceTokenizer`, which TensorFlow runs inside exported classifiers and which normalises its
    texts: it runs in the package `sentencepiece`, and it has a byte token for each byte that no piece covers, so no
    text is unknown.

    Attributes: those of `ReversibleTokenizer`, and `model`.

    Args:
        model: The bytes of a SentencePiece model, of `train_pieces` or any other that gives the text back: no
            normalization, no dummy prefix, white space kept, byte fallback. Its padding must be id 0.

    Raises:
        ValueError: For bytes that are no such model, or without the package `sentencepiece`.
    """

    def __init__(self, model: bytes):
        sentencepiece = _import_sentencepiece()
        if not isinstance(model, bytes):
            raise ValueError(f"`model` must be the bytes of a SentencePiece model. Received: model={model!r:.80}")
        try:
            self._processor = processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            count = processor.get_piece_size()
        except RuntimeError as error:
            raise ValueError(
                f"`model` must be the bytes of a SentencePiece model ({error}). Received: {len(model)} bytes"
            ) from error
        self.model = model
        self.vocabulary = [processor.id_to_piece(index) for index in range(count)]
        self.pad_id, self.unknown_id = processor.pad_id(), processor.unk_id()
        self.start_id, self.end_id = processor.bos_id(), processor.eos_id()
        if self.pad_id != 0 or min(self.start_id, self.end_id) < 0:
            raise ValueError(
                "`model` must have a start and an end token, and padding as id 0. Received: "
                f"bos_id={self.start_id}, eos_id={self.end_id}, pad_id={self.pad_id}"
            )
        self.pieces = [self._bytes_of(index) for index in range(count)]
        self._space = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        for text in (*TRIED, SPACE):
            found = self.decode(self._ids(text))
            if found != text:
                raise ValueError(
                    "`model` must give every text back: trained with identity normalization, byte fallback, all white "
                    f"space and no dummy prefix, as `train_pieces` does. Received: {found!r} for {text!r}"
                )

    def _bytes_of(self, index: int) -> bytes:
        processor = self._processor
        if processor.is_byte(index):
            return bytes([int(self.vocabulary[index][3:5], 16)])
        if processor.is_control(index) or processor.is_unknown(index) or processor.is_unused(index):
            return b""
        return self.vocabulary[index].replace(SPACE, " ").encode()

    def _ids(self, text: str) -> list[int]:
        first, *others = text.split(SPACE)
        ids = self._processor.encode(first)
        for part in others:
            ids += self._space
            ids += self._processor.encode(part)
        return ids

    def get_config(self) -> dict:
        """Return what `save` writes."""
        return {"tokenizer": "pieces", "model": base64.b64encode(self.model).decode()}

    @classmethod
    def _arguments(cls, config: dict) -> dict:
        if config["tokenizer"] != "pieces":
            raise ValueError("another tokenizer")
        return {"model": base64.b64decode(config["model"], validate=True)}


def _import_sentencepiece():
    try:
        import sentencepiece
    except ImportError as error:
        raise ValueError(
            "pieces of text need the package sentencepiece: pip install sentencepiece; tokens of bytes need none. "
            "Received: no such package"
        ) from error
    return sentencepiece
