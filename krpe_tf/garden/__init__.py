"""For TensorFlow Model Garden: the attention layer on tf_keras, and an encoder that its trainer builds from a config.

Needs the extra `garden`, and TensorFlow as the backend of Keras. Importing it registers the experiment
"krpe_tf/pretraining".
"""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "krpe_tf.garden runs on TensorFlow: set KERAS_BACKEND=tensorflow before Keras is imported. "
        f"Received: backend={keras.backend.backend()!r}"
    )
try:
    import official  # noqa: F401
    import tf_keras  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'krpe_tf.garden needs {error.name}. Run in a checkout of krpe_tf: pip install ".[garden]"'
    ) from error

from .attention import KernelizedRPEAttention
from .conversion import to_keras
from .encoder import Encoder
from .encoder_config import EncoderConfig, PositionBiasConfig
from .position_bias import PositionBias
from .pretraining import pretraining

__all__ = [
    "Encoder",
    "EncoderConfig",
    "KernelizedRPEAttention",
    "PositionBias",
    "PositionBiasConfig",
    "pretraining",
    "to_keras",
]
