"""The base of all task heads."""

from typing import ClassVar

import keras
from keras import layers

from ..checks import check_rate
from .encoder import SHARDED_WEIGHTS, Encoder
from .layout import make_layout_map
from .precision import in_float32
from .token_model import TokenModel


class Head(TokenModel):
    """A functional model over an encoder: what a task adds to it.

    Inputs are the encoder's, and so `segment_ids` too where the head gives an output for each token.

    A head calls `encoder_inputs` first, and `Head.__init__` with what it made of them:

        inputs = self.encoder_inputs(encoder)
        logits = Dense(num_classes, name="logits")(encoder(inputs))
        super().__init__(encoder, inputs=inputs, outputs=logits, **kwargs)

    Args:
        encoder: The encoder below the head.
        inputs: The encoder's symbolic inputs, and those of the head.
        outputs: Symbolic outputs.
        **kwargs: Arguments of `keras.Model`.
    """

    # Weights of the head itself that are sharded over the devices of a model, as `SHARDED_WEIGHTS` of the encoder.
    sharded_weights: ClassVar[dict] = {}
    # Whether there is an output for each token, and not one for a row.
    of_each_token: ClassVar[bool] = True

    def __init__(self, encoder: Encoder, inputs: dict, outputs, **kwargs):
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.encoder = encoder

    def call(self, inputs, training=None, mask=None):
        """Compute the outputs.

        Raises:
            ValueError: For `segment_ids`, if the head gives one output for a whole row.
        """
        if not self.of_each_token and isinstance(inputs, dict) and "segment_ids" in inputs:
            raise ValueError(
                f"{type(self).__name__} takes no `segment_ids`: it gives one output for a whole row; put each document "
                f"into a row of its own. Received: inputs {', '.join(inputs)}"
            )
        return super().call(inputs, training=training, mask=mask)

    @staticmethod
    def encoder_inputs(encoder: Encoder) -> dict:
        """Return an encoder's symbolic inputs by name, in a new dict.

        Raises:
            ValueError: If `encoder` is not an `Encoder`.
        """
        if not isinstance(encoder, Encoder):
            raise ValueError(f"`encoder` must be an Encoder. Received: encoder={encoder!r}")
        return dict(encoder.input)

    def in_float32(self) -> "Head":
        """Return a model with these weights that computes in float32, as exports need it; itself if it does so."""
        return in_float32(self)

    @classmethod
    def get_layout_map(cls, device_mesh: keras.distribution.DeviceMesh) -> keras.distribution.LayoutMap:
        """Return how the weights of head and encoder lie on a mesh, as `Encoder.get_layout_map` does."""
        return make_layout_map(device_mesh, {**SHARDED_WEIGHTS, **cls.sharded_weights})

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


def head_dropout(encoder: Encoder, rate: float | None) -> layers.Dropout:
    """Make the dropout before a classification head's dense layer, in float32; of the encoder's rate if it is None.

    Raises:
        ValueError: For a rate outside of [0, 1).
    """
    if rate is not None:
        check_rate(dropout=rate)
    rate = encoder.dropout if rate is None else rate
    return layers.Dropout(rate, seed=encoder.seed, dtype="float32", name="classifier_dropout")
