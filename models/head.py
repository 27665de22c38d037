"""The base of all task heads."""

from typing import ClassVar

import keras
from keras import layers

from ..checks import check_rate
from .encoder import SHARDED_WEIGHTS, Encoder
from .interface import Interface, functional_interface
from .layout import make_layout_map
from .precision import in_float32


class Head(keras.Model):
    """A functional model over an encoder: what a task adds to it.

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

    def __init__(self, encoder: Encoder, inputs: dict, outputs, **kwargs):
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.encoder = encoder

    @staticmethod
    def encoder_inputs(encoder: Encoder) -> dict:
        """Return an encoder's symbolic inputs by name, in a new dict.

        Raises:
            ValueError: If `encoder` is not an `Encoder`.
        """
        if not isinstance(encoder, Encoder):
            raise ValueError(f"`encoder` must be an Encoder. Received: encoder={encoder!r}")
        return dict(encoder.input)

    @property
    def interface(self) -> Interface:
        """What the model takes and gives."""
        return functional_interface(self)

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
