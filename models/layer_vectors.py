"""The vectors of all layers, for distillation."""

import keras
import numpy as np
from keras import ops

from .encoder import Encoder
from .head import Head
from .programs import kept_program


@keras.saving.register_keras_serializable("krpe_tf")
class LayerVectors(Head):
    """The vectors behind each layer of an encoder, the last as the encoder gives them. No weights of its own.

    Inputs: those of `encoder` -> float32 `(batch, num_layers, n, hidden_dim)`. The student of another encoder imitates
    them, layer by layer.

    Args:
        encoder: An `Encoder`.
    """

    def __init__(self, encoder: Encoder, **kwargs):
        inputs = self.encoder_inputs(encoder)
        last = "residual" if encoder.normalize_first else "norm"
        found = [encoder.get_layer(f"layer_{i}_feed_forward_{last}").output for i in range(encoder.num_layers - 1)]
        vectors = ops.stack([*(ops.cast(x, "float32") for x in found), encoder.output], axis=1)
        kwargs.pop("dtype", None)
        super().__init__(encoder, inputs=inputs, outputs=vectors, **kwargs)

    def read(self, inputs: dict) -> np.ndarray:
        """Compute the vectors, also of rows longer than the encoder's absolute positions.

        Those it reads in windows, each behind the row's first token; the windows touch.

        Args:
            inputs: "token_ids" and "padding_mask", int32 `(batch, n)`.

        Returns:
            float32 `(batch, num_layers, n, hidden_dim)`.
        """
        (rows, n), places = inputs["token_ids"].shape, self.encoder.absolute_positions
        if places is None or n <= places:
            return self._compute(inputs)
        width = places - 1
        count = -(-(n - 1) // width)
        windows = {}
        for name, values in inputs.items():
            first, others = values[:, :1], np.pad(values[:, 1:], [(0, 0), (0, count * width - n + 1)])
            others = others.reshape(rows * count, width)
            windows[name] = np.concatenate([np.repeat(first, count, axis=0), others], axis=1)
        vectors = np.moveaxis(self._compute(windows), 1, 0)  # Layers first.
        later = vectors[:, :, 1:].reshape(len(vectors), rows, count * width, -1)[:, :, : n - 1]
        return np.moveaxis(np.concatenate([vectors[:, ::count, :1], later], axis=2), 0, 1)

    def _compute(self, inputs: dict) -> np.ndarray:
        # Not `predict_on_batch`: TensorFlow warns of its many shapes.
        program = kept_program(self, "read", lambda inputs: self(inputs, training=False))
        return ops.convert_to_numpy(program(inputs))
