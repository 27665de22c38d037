"""Kernelized attention with relative positional encoding (NeurIPS 2021, arXiv 2106.12566) for Keras."""

import os
import sys

# `python -m krpe_tf` and `krpe-tf` come through here before their own code runs, and what TensorFlow says when it
# starts would bury what they print.
if os.path.basename((sys.argv or [""])[0]) in ("-m", "krpe-tf"):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# `training` is imported for what it registers: the optimizers and losses that a saved model names.
try:
    from . import export, models, training
except ImportError as error:
    if error.name == __name__:
        raise ImportError(
            "krpe_tf is not installed: beside its sources, models/ and export/ are not yet krpe_tf.models and "
            'krpe_tf.export. Run: pip install --editable ".[tensorflow]"'
        ) from error
    raise
from . import _moved
from .attention import KernelizedRPEAttention
from .conversion import from_multi_head_attention
from .position_bias import BucketedBias, DecayBias, LearnedBias, LearnedBias2D, PositionBias
from .toeplitz import toeplitz_attention

__version__ = "0.2.0"
__all__ = [
    "BucketedBias",
    "DecayBias",
    "KernelizedRPEAttention",
    "LearnedBias",
    "LearnedBias2D",
    "PositionBias",
    "export",
    "from_multi_head_attention",
    "models",
    "toeplitz_attention",
    "training",
]

_moved.install()
