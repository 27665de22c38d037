"""Classification of whole documents."""

from typing import ClassVar

import keras

from ..checks import check_at_least, check_one_of
from .blocks import Dense
from .encoder import Encoder
from .head import Head, head_dropout
from .text_embedder import masked_mean


@keras.saving.register_keras_serializable("krpe_tf")
class TextClassifier(Head):
    """An encoder with a classification head: one vector for the document, dropout, and a dense layer.

    Inputs: those of `encoder`, of any length -> float32 logits `(batch, num_classes)`. The mean is taken in float32,
    over what the mask shows; a row that is all padding has mean zero.

    Args:
        encoder: An `Encoder`.
        num_classes: Number of classes, at least 2.
        dropout: Rate before the dense layer; the encoder's if None.
        pooling: "mean", over all that the mask shows; or "first", the vector of the first token, which each tokenizer
            sets before a text. What stands at one place alone, and counts, is lost in the mean of a long document.
    """

    of_each_token: ClassVar[bool] = False

    def __init__(
        self, encoder: Encoder, num_classes: int, dropout: float | None = None, pooling: str = "mean", **kwargs
    ):
        inputs = self.encoder_inputs(encoder)
        check_at_least(2, num_classes=num_classes)
        check_one_of(("mean", "first"), pooling=pooling)
        kwargs.pop("dtype", None)
        vectors = encoder(inputs)
        pooled = masked_mean(vectors, inputs["padding_mask"]) if pooling == "mean" else vectors[:, 0]
        logits = Dense(num_classes, dtype="float32", name="logits")(head_dropout(encoder, dropout)(pooled))
        super().__init__(encoder, inputs=inputs, outputs=logits, **kwargs)
        self.num_classes = num_classes
        self.dropout = dropout
        self.pooling = pooling

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "dropout": self.dropout,
            "pooling": self.pooling,
        }
