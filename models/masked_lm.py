"""Pretraining: predict masked tokens."""

import keras
from keras import ops

from .encoder import Dense, Encoder, LayerNormalization, check_encoder


@keras.saving.register_keras_serializable("krpe_tf")
class MaskedLM(keras.Model):
    """An encoder with a masked-language-model head: logits over the vocabulary, tied to the token embedding.

        logits = norm(gelu(dense(x))) E^T                          as in BERT (arXiv 1810.04805)

    Inputs: those of `encoder` -> float32 (batch, n, vocabulary_size). With `at_positions` also "mask_positions", int32
    (batch, p), and logits at those positions alone, (batch, p, vocabulary_size): what pretraining wants, at a fraction
    of the cost. Both have the same weights.

    Args:
        encoder: an `Encoder`.
        at_positions: take "mask_positions" as a third input.
    """

    def __init__(self, encoder: Encoder, at_positions: bool = False, **kwargs):
        check_encoder(encoder)
        dtype = kwargs.pop("dtype", None) or encoder.dtype_policy
        inputs = dict(encoder.input)
        x = encoder(inputs)
        if at_positions:
            inputs["mask_positions"] = keras.Input((None,), dtype="int32", name="mask_positions")
            x = ops.take_along_axis(x, inputs["mask_positions"][..., None], axis=1)
        x = Dense(encoder.hidden_dim, activation="gelu", dtype=dtype, name="transform")(x)
        x = LayerNormalization(epsilon=1e-6, dtype="float32", name="transform_norm")(x)
        logits = encoder.token_embedding(x, reverse=True)
        super().__init__(inputs=inputs, outputs=logits, **kwargs)
        self.encoder = encoder
        self.at_positions = at_positions

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "at_positions": self.at_positions,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        encoder = keras.saving.deserialize_keras_object(config["encoder"], custom_objects=custom_objects)
        return cls(**{**config, "encoder": encoder})
