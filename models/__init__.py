"""Encoders and task heads, as functional Keras models."""
