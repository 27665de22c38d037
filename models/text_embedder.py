"""Embeddings of whole documents."""

import keras
from keras import ops

from .encoder import Encoder, check_encoder


@keras.saving.register_keras_serializable("krpe_tf")
class TextEmbedder(keras.Model):
    """An encoder's vectors as one a document: their mean over unmasked positions. No weights of its own.

    Inputs: those of `encoder`, of any length -> float32 (batch, hidden_dim). The mean is taken in float32, over what
    the mask shows; a row that is all padding has mean zero. For one vector a token take the encoder itself.

    Args:
        encoder: an `Encoder`.
    """

    def __init__(self, encoder: Encoder, **kwargs):
        check_encoder(encoder)
        kwargs.pop("dtype", None)
        inputs, mean = masked_mean(encoder)
        super().__init__(inputs=inputs, outputs=mean, **kwargs)
        self.encoder = encoder

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        encoder = keras.saving.deserialize_keras_object(config["encoder"], custom_objects=custom_objects)
        return cls(**{**config, "encoder": encoder})


def masked_mean(encoder: Encoder) -> tuple:
    """An encoder's inputs, and the mean of its vectors over what the padding mask shows, float32."""
    inputs = dict(encoder.input)
    mask = ops.cast(inputs["padding_mask"], "float32")[..., None]
    total = ops.sum(ops.cast(encoder(inputs), "float32") * mask, axis=1)
    return inputs, total / ops.maximum(ops.sum(mask, axis=1), 1)
