"""What encoders and heads have in common: they read token ids, and are saved under their registered names."""

import json

import keras
from keras import ops

from ..checks import known_values
from ..position_bias import check_scope
from .interface import InterfaceModel


class TokenModel(InterfaceModel):
    """A functional model whose inputs of ids must lie in their vocabularies.

    PyTorch refuses other ids by itself. JAX gives NaN for an id past the embedding, and JAX and TensorFlow count
    negative ones from the end: here they are refused wherever their values are known, which is not inside `jax.jit` or
    `tf.function`.
    """

    def __call__(self, inputs, *args, **kwargs):
        self._check_ids(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def compile(self, *args, **kwargs):
        check_scope(self, self.trainable_weights)
        super().compile(*args, **kwargs)

    def compile_from_config(self, config):
        # Keras leaves a loaded model uncompiled if its class has a `compile` of its own.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, *args, **kwargs):
        self._check_ids(x)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        self._check_ids(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        self._check_ids(x)
        return super().predict(x, *args, **kwargs)

    def save(self, filepath, *args, **kwargs):
        super().save(filepath, *args, **kwargs)
        if str(filepath).endswith((".h5", ".hdf5")):
            _write_registered_name(filepath, type(self))

    def quantize(self, mode=None, *args, **kwargs):
        """Refuse: a quantized model could not be saved and loaded, since its config has one dtype for all layers.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "a model of krpe_tf is quantized when it is exported: krpe_tf.export.export_tflite(model, path, "
            f'quantization="int8"). Received: mode={mode!r}'
        )

    @property
    def vocabulary_sizes(self) -> dict[str, int]:
        """Of each input that holds ids, the number of ids that there are."""
        return {"token_ids": getattr(self, "encoder", self).vocabulary_size}

    def _check_ids(self, inputs):
        if keras.backend.backend() not in ("jax", "tensorflow") or not isinstance(inputs, dict):
            return
        for name, size in self.vocabulary_sizes.items():
            ids = known_values(inputs[name]) if name in inputs else None
            if ids is not None and ids.size and (ids.min() < 0 or ids.max() >= size):
                raise ValueError(
                    f"`{name}` must lie in the vocabulary, from 0 to {size - 1}. "
                    f"Received: ids from {ids.min()} to {ids.max()}"
                )

    def _step_ids(self, token_ids):
        """Return the ids of a step, int32 `(batch, k)`, checked."""
        self._check_ids({"token_ids": token_ids})
        token_ids = ops.convert_to_tensor(token_ids, "int32")
        if len(token_ids.shape) != 2 or not token_ids.shape[1]:
            raise ValueError(
                "`token_ids` must have shape (batch, k), k known and at least 1. "
                f"Received: token_ids.shape={tuple(token_ids.shape)}"
            )
        return token_ids


def _write_registered_name(path, model_class: type) -> None:
    """Put the name under which Keras finds a class into an .h5 file, where Keras writes the bare one."""
    import h5py

    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["class_name"] = keras.saving.get_registered_name(model_class)
        file.attrs["model_config"] = json.dumps(config).encode()
