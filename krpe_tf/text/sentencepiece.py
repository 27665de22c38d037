"""SentencePiece tokens, on tensorflow-text's own tool."""

import base64
from typing import TYPE_CHECKING

from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import tensorflow as tf

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

    Raises:
        ValueError: For bytes that are no such model, a model without those tokens, or one that the fast tokenizer would
            read as another than SentencePiece does: byte pairs (BPE), words, byte fallback.
    """

    def __init__(self, model: bytes):
        import tensorflow as tf
        import tensorflow_text as tf_text

        if not isinstance(model, bytes):
            raise ValueError(f"model must be the bytes of a SentencePiece model. Received: model={model!r:.80}")
        try:
            reference = tf_text.SentencepieceTokenizer(model)
            size = int(reference.vocab_size())
            self.pieces = tf_text.FastSentencepieceTokenizer(model)
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"model must be the bytes of a SentencePiece model ({error}). Received: {len(model)} bytes"
            ) from error
        self.model = model
        self.vocabulary = [piece.decode() for piece in reference.id_to_string(tf.range(size)).numpy()]
        ids = {token: index for index, token in enumerate(self.vocabulary)}
        for attribute, names in NAMES.items():
            found = [ids[name] for name in names if name in ids]
            if not found:
                raise ValueError(f"model must hold {' or '.join(names)}. Received: model without")
            setattr(self, attribute, found[0])
        self.mask_id = next((ids[name] for name in MASKS if name in ids), None)
        # A text of the model's own pieces: where another algorithm is read as unigram, it comes apart differently.
        text = "".join(p for i, p in enumerate(self.vocabulary) if i not in self.reserved_ids).replace("\u2581", " ")
        texts = [text[:TRIED], text[-TRIED:], text[:TRIED].replace(" ", ""), "\u2603 \U0001f642 e\u0301 \ufb01"]
        if self._pieces(texts).to_list() != reference.tokenize(texts).to_list():
            raise ValueError(
                "model must be of the unigram kind, without byte fallback: tensorflow-text's fast tokenizer reads "
                "others wrong. Received: a model that it gives other ids for than SentencePiece"
            )

    def _pieces(self, texts: "tf.Tensor") -> "tf.RaggedTensor":
        return self.pieces.tokenize(texts)

    def _config(self) -> dict:
        return {"sentencepiece": base64.b64encode(self.model).decode()}

    @classmethod
    def _arguments(cls, config: dict) -> dict:
        return {"model": base64.b64decode(config["sentencepiece"], validate=True)}
