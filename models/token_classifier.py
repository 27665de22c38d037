"""Classification of every token."""

import keras

from ..checks import check_at_least
from .blocks import Dense
from .encoder import Encoder
from .head import Head, head_dropout


@keras.saving.register_keras_serializable("krpe_tf")
class TokenClassifier(Head):
    """An encoder with a classification head at every token: dropout and a dense layer, for named entities and the like.

    Inputs: those of `encoder`, of any length -> float32 logits `(batch, n, num_classes)`. Those of a padded token mean
    nothing: give it weight 0 in the loss.

    Args:
        encoder: An `Encoder`.
        num_classes: Number of classes, at least 2.
        dropout: Rate before the dense layer; the encoder's if None.
    """

    def __init__(self, encoder: Encoder, num_classes: int, dropout: float | None = None, **kwargs):
        inputs = self.encoder_inputs(encoder)
        check_at_least(2, num_classes=num_classes)
        kwargs.pop("dtype", None)
        x = head_dropout(encoder, dropout)(encoder(inputs))
        logits = Dense(num_classes, dtype="float32", name="logits")(x)
        super().__init__(encoder, inputs=inputs, outputs=logits, **kwargs)
        self.num_classes = num_classes
        self.dropout = dropout

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes, "dropout": self.dropout}
