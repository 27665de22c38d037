"""Encoders and task heads, as functional Keras models."""

from .encoder import Encoder
from .masked_lm import MaskedLM
from .text_classifier import TextClassifier

__all__ = ["Encoder", "MaskedLM", "TextClassifier"]
