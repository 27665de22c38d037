"""Encoders and task heads, as functional Keras models."""

from .encoder import Encoder
from .masked_lm import MaskedLM
from .text_classifier import TextClassifier
from .text_embedder import TextEmbedder

__all__ = ["Encoder", "MaskedLM", "TextClassifier", "TextEmbedder"]
