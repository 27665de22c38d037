"""Bytes as tokens."""

import numpy as np

from .reversible import ReversibleTokenizer

RESERVED = ("<pad>", "<s>", "</s>")


class ByteTokenizer(ReversibleTokenizer):
    """The UTF-8 bytes of a text between a start and an end token: 259 tokens, nothing to learn.

        ids = ByteTokenizer().encode(["Ah!"])[0]        # [1, 68, 107, 36, 2]
        ByteTokenizer().decode(ids)                     # "Ah!"

    Byte b is id b + 3. There is no unknown token and no mask.
    """

    pad_id, start_id, end_id = range(len(RESERVED))
    unknown_id = None

    def __init__(self):
        self.vocabulary = [*RESERVED, *(f"<0x{byte:02X}>" for byte in range(256))]
        self.pieces = [b""] * len(RESERVED) + [bytes([byte]) for byte in range(256)]

    def _ids(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), "uint8") + np.int32(len(RESERVED))

    def get_config(self) -> dict:
        """Return what `save` writes."""
        return {"tokenizer": "bytes"}

    @classmethod
    def _arguments(cls, config: dict) -> dict:
        if config["tokenizer"] != "bytes":
            raise ValueError("another tokenizer")
        return {}
