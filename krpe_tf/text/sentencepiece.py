"""SentencePiece tokens, on tensorflow-text's own tool."""

import base64
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_text as tf_text

# The names that the tokens without text have, in models as SentencePiece and BERT call them.
NAMES = {
    "pad_id": ("<pad>", "[PAD]"),
    "unknown_id": ("<unk>", "[UNK]"),
    "start_id": ("<s>", "[CLS]"),
    "end_id": ("</s>", "[SEP]"),
}

MASKS = ("[MASK]", "<mask>")

# Characters of the vocabulary, read as a text, that a model is tried on.
TRIED = 20_000


class SentencePieceTokenizer(Tokenizer):
    """SentencePiece tokens between `<s>` and `</s>`, by tensorflow-text's `FastSentencepieceTokenizer`.

    The same interface as `WordPieceTokenizer`. A model that fits is trained with the `sentencepiece` package:

        sentencepiece.SentencePieceTrainer.train(
            input="texts.txt", model_prefix="pieces", vocab_size=8000,
            pad_id=0, unk_id=1, bos_id=2, eos_id=3, control_symbols=["[MASK]"],
        )
        tokenizer = SentencePieceTokenizer(pathlib.Path("pieces.model").read_bytes())

    Control symbols written in a text (`[MASK]`, `<s>`) are plain characters. An empty text gives `<s>` and `</s>`.

    Attributes: those of `Tokenizer`, `model`, and `pieces`, the `FastSentencepieceTokenizer` itself.

    Args:
        model: The bytes of a SentencePiece model of the unigram kind, with `<pad>`, `<unk>`, `<s>` and `</s>` (or
            `[PAD]`, `[UNK]`, `[CLS]` and `[SEP]`), and `[MASK]` or `<mask>` if it is to pretrain.
        vocabulary: The model's pieces, as `save` wrote them: TensorFlow then reads and checks the model when a text is
            first tokenized, and not before. None reads and checks it at once.

    Raises:
        ValueError: For bytes that are no such model, a model without those tokens, or one that the fast tokenizer would
            read as another than SentencePiece does: byte pairs (BPE), words, byte fallback.
    """

    def __init__(self, model: bytes, vocabulary: Sequence[str] | None = None):
        if not isinstance(model, bytes):
            raise ValueError(f"`model` must be the bytes of a SentencePiece model. Received: model={model!r:.80}")
        self.model = model
        if vocabulary is None:
            self.pieces, self.vocabulary = _read(model)
        else:
            self.vocabulary = list(vocabulary)
        ids = {token: index for index, token in enumerate(self.vocabulary)}
        for attribute, names in NAMES.items():
            found = [ids[name] for name in names if name in ids]
            if not found:
                raise ValueError(f"`model` must hold {' or '.join(names)}. Received: model without")
            setattr(self, attribute, found[0])
        self.mask_id = next((ids[name] for name in MASKS if name in ids), None)
        if vocabulary is None:
            _check_pieces(self.pieces, model, self.vocabulary, self.reserved_ids)

    @cached_property
    def pieces(self) -> "tf_text.FastSentencepieceTokenizer":
        """The `FastSentencepieceTokenizer`, made when first used: the ids alone need no TensorFlow."""
        pieces, vocabulary = _read(self.model)
        if vocabulary != self.vocabulary:
            raise ValueError(f"`vocabulary` must be the pieces of `model`. Received: {len(self.vocabulary)} others")
        _check_pieces(pieces, self.model, vocabulary, self.reserved_ids)
        return pieces

    def _pieces(self, texts: "tf.Tensor") -> "tf.RaggedTensor":
        return self.pieces.tokenize(texts)

    def get_config(self) -> dict:
        """Return what `save` writes."""
        return {"sentencepiece": base64.b64encode(self.model).decode(), "vocabulary": self.vocabulary}

    @classmethod
    def _arguments(cls, config: dict) -> dict:
        # Files of 0.1 lack the vocabulary.
        model, vocabulary = base64.b64decode(config["sentencepiece"], validate=True), config.get("vocabulary")
        if vocabulary is not None and not all(isinstance(piece, str) for piece in vocabulary):
            raise TypeError("pieces must be strings")
        return {"model": model, "vocabulary": vocabulary}


def _read(model: bytes) -> "tuple[tf_text.FastSentencepieceTokenizer, list[str]]":
    """Return the fast tokenizer of a model, and the model's pieces."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    try:
        with tf.init_scope():  # Its tables must not belong to a graph that happens to be traced.
            reference = tf_text.SentencepieceTokenizer(model)
            size = int(reference.vocab_size())
            vocabulary = [piece.decode() for piece in reference.id_to_string(tf.range(size)).numpy()]
            return tf_text.FastSentencepieceTokenizer(model), vocabulary
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"`model` must be the bytes of a SentencePiece model ({error}). Received: {len(model)} bytes"
        ) from error


def _check_pieces(
    pieces: "tf_text.FastSentencepieceTokenizer", model: bytes, vocabulary: list[str], reserved_ids: set[int]
) -> None:
    """Raise a ValueError unless the fast tokenizer reads a model as SentencePiece does.

    It is asked for a text of the model's own pieces: where another algorithm is read as unigram, it comes apart
    differently.
    """
    import tensorflow as tf
    import tensorflow_text as tf_text

    text = "".join(p for i, p in enumerate(vocabulary) if i not in reserved_ids).replace("\u2581", " ")
    texts = [text[:TRIED], text[-TRIED:], text[:TRIED].replace(" ", ""), "\u2603 \U0001f642 e\u0301 \ufb01"]
    with tf.init_scope():
        expected = tf_text.SentencepieceTokenizer(model).tokenize(texts).to_list()
        found = pieces.tokenize(texts).to_list()
    if found != expected:
        raise ValueError(
            "`model` must be of the unigram kind, without byte fallback: tensorflow-text's fast tokenizer reads "
            "others wrong. Received: a model that it gives other ids for than SentencePiece"
        )
