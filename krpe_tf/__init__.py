"""Kernelized attention with relative positional encoding (NeurIPS 2021, arXiv 2106.12566) for Keras."""

from . import export, models
from .attention import KernelizedRPEAttention
from .position_bias import BucketedBias, DecayBias, LearnedBias, PositionBias
from .toeplitz import toeplitz_attention

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
