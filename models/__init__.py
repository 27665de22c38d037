"""Encoders and task heads, as functional Keras models."""

from . import samplers
from .absolute_positions import AbsolutePositions
from .causal_lm import CausalLM
from .encoder import Encoder
from .encoder_decoder import EncoderDecoder
from .head import Head
from .interface import Array, Interface, interface_of
from .layer_vectors import LayerVectors
from .masked_lm import MaskedLM
from .precision import compute_dtypes, in_float32
from .presets import PRESETS, preset_arguments
from .text_classifier import TextClassifier
from .text_embedder import TextEmbedder
from .token_classifier import TokenClassifier

__all__ = [
    "PRESETS",
    "AbsolutePositions",
    "Array",
    "CausalLM",
    "Encoder",
    "EncoderDecoder",
    "Head",
    "Interface",
    "LayerVectors",
    "MaskedLM",
    "TextClassifier",
    "TextEmbedder",
    "TokenClassifier",
    "compute_dtypes",
    "in_float32",
    "interface_of",
    "preset_arguments",
    "samplers",
]
