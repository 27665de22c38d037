"""Kernelized attention with relative positional encoding (NeurIPS 2021, arXiv 2106.12566) for Keras."""

from ._quiet import quiet_start

# `training` is imported for what it registers: the optimizers and losses that a saved model names.
try:
    with quiet_start():
        from . import export, models, training
except ImportError as error:
    if error.name == __name__:
        raise ImportError(
            "krpe_tf is not installed: beside its sources, models/ and export/ are not yet krpe_tf.models and "
            "krpe_tf.export. In the sources' folder it must be installed from there: "
            'pip install --editable ".[tensorflow]"; elsewhere any installation does'
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
