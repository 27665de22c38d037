"""Embeddings of whole documents."""

from typing import ClassVar

import keras
from keras import ops

from .encoder import Encoder
from .head import Head


@keras.saving.register_keras_serializable("krpe_tf")
class TextEmbedder(Head):
    """One vector for each document, the mean of an encoder's over unmasked positions. No weights of its own.

    Inputs: those of `encoder`, of any length -> float32 `(batch, hidden_dim)`. The mean is taken in float32, over what
    the mask shows; a row that is all padding has mean zero. For one vector a token take the encoder itself.

    Args:
        encoder: An `Encoder`.
    """

    of_each_token: ClassVar[bool] = False

    def __init__(self, encoder: Encoder, **kwargs):
        inputs = self.encoder_inputs(encoder)
        kwargs.pop("dtype", None)
        mean = masked_mean(encoder(inputs), inputs["padding_mask"])
        super().__init__(encoder, inputs=inputs, outputs=mean, **kwargs)


def masked_mean(vectors, padding_mask):
    """Return the mean of vectors `(batch, n, width)` over what the padding mask shows, float32."""
    mask = ops.cast(padding_mask, "float32")[..., None]
    total = ops.sum(ops.cast(vectors, "float32") * mask, axis=1)
    return total / ops.maximum(ops.sum(mask, axis=1), 1)
