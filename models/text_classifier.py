"""Classification of whole documents."""

import keras
from keras import layers

from ..checks import check_at_least, check_rate
from .encoder import Dense, Encoder, check_encoder
from .text_embedder import masked_mean


@keras.saving.register_keras_serializable("krpe_tf")
class TextClassifier(keras.Model):
    """An encoder with a classification head: the mean over unmasked positions, dropout, and a dense layer.

    Inputs: those of `encoder`, of any length -> float32 logits (batch, num_classes). The mean is taken in float32, over
    what the mask shows; a row that is all padding has mean zero.

    Args:
        encoder: an `Encoder`.
        num_classes: number of classes, at least 2.
        dropout: rate before the dense layer; the encoder's if None.
    """

    def __init__(self, encoder: Encoder, num_classes: int, dropout: float | None = None, **kwargs):
        check_encoder(encoder)
        check_at_least(2, num_classes=num_classes)
        if dropout is not None:
            check_rate(dropout=dropout)
        kwargs.pop("dtype", None)
        inputs, mean = masked_mean(encoder)
        rate = encoder.dropout if dropout is None else dropout
        mean = layers.Dropout(rate, seed=encoder.seed, dtype="float32", name="classifier_dropout")(mean)
        logits = Dense(num_classes, dtype="float32", name="logits")(mean)
        super().__init__(inputs=inputs, outputs=logits, **kwargs)
        self.encoder = encoder
        self.num_classes = num_classes
        self.dropout = dropout

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "num_classes": self.num_classes,
            "dropout": self.dropout,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        encoder = keras.saving.deserialize_keras_object(config["encoder"], custom_objects=custom_objects)
        return cls(**{**config, "encoder": encoder})
