"""Kernelized attention with relative positional encoding (NeurIPS 2021, arXiv 2106.12566) for Keras."""

from krpe_tf import export, models
from krpe_tf.attention import KernelizedRPEAttention
from krpe_tf.position_bias import BucketedBias, DecayBias, LearnedBias, PositionBias
from krpe_tf.toeplitz import toeplitz_attention

__version__ = "0.1.0"
__all__ = [
    "BucketedBias",
    "DecayBias",
    "KernelizedRPEAttention",
    "LearnedBias",
    "PositionBias",
    "export",
    "models",
    "toeplitz_attention",
]
