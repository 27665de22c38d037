"""Pretraining: predict masked tokens."""

from dataclasses import replace
from typing import ClassVar

import keras
from keras import ops

from .blocks import Dense, make_norm
from .encoder import Encoder
from .head import Head
from .interface import Interface


@keras.saving.register_keras_serializable("krpe_tf")
class MaskedLM(Head):
    """An encoder with a masked-language-model head: logits over the vocabulary, tied to the token embedding.

        logits = norm(gelu(dense(x))) E^T                          as in BERT (arXiv 1810.04805)

    Inputs: those of `encoder` -> float32 `(batch, n, vocabulary_size)`. With `at_positions` also `mask_positions`,
    int32 `(batch, p)`, and logits at those positions alone, `(batch, p, vocabulary_size)`: what pretraining wants, at a
    fraction of the cost. Both have the same weights.

    Args:
        encoder: An `Encoder`.
        at_positions: Take `mask_positions` as a third input.
    """

    sharded_weights: ClassVar[dict] = {
        r"(.*/)?transform/kernel": (None, "model"),
        r"(.*/)?transform/bias": ("model",),
    }

    def __init__(self, encoder: Encoder, at_positions: bool = False, **kwargs):
        inputs = self.encoder_inputs(encoder)
        dtype = kwargs.pop("dtype", None) or encoder.dtype_policy
        x = encoder(inputs)
        if at_positions:
            inputs["mask_positions"] = keras.Input((None,), dtype="int32", name="mask_positions")
            x = ops.take_along_axis(x, inputs["mask_positions"][..., None], axis=1)
        x = Dense(encoder.hidden_dim, activation="gelu", dtype=dtype, name="transform")(x)
        x = make_norm("transform_norm")(x)
        logits = encoder.token_embedding(x, reverse=True)
        super().__init__(encoder, inputs=inputs, outputs=logits, **kwargs)
        self.at_positions = at_positions

    @property
    def interface(self) -> Interface:
        """What the model takes and gives; `mask_positions` and logits at positions have an axis "positions"."""
        interface = super().interface
        if not self.at_positions:
            return interface

        def at_positions(array):
            return replace(array, axes=("batch", "positions", *array.axes[2:]))

        inputs = (at_positions(x) if x.name == "mask_positions" else x for x in interface.inputs)
        return replace(interface, inputs=tuple(inputs), outputs=tuple(map(at_positions, interface.outputs)))

    def get_config(self):
        return {**super().get_config(), "at_positions": self.at_positions}
