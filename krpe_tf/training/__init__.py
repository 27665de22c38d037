"""Training through `model.fit`: optimizer, loss, checkpoints, several devices. Knows Keras and no task."""

from .checkpoints import Checkpoint, Checkpoints
from .compile import compile_classifier, compile_masked_lm
from .distribution import ONE_DEVICE, Distribution, encoder_layout, make_distribution
from .fit import DivergedError, fit_resumably
from .losses import GlobalCrossEntropy, class_probabilities
from .optimizer import GlobalAdamW, GlobalLossScaleOptimizer, LinearDecay, make_optimizer

__all__ = [
    "ONE_DEVICE",
    "Checkpoint",
    "Checkpoints",
    "Distribution",
    "DivergedError",
    "GlobalAdamW",
    "GlobalCrossEntropy",
    "GlobalLossScaleOptimizer",
    "LinearDecay",
    "class_probabilities",
    "compile_classifier",
    "compile_masked_lm",
    "encoder_layout",
    "fit_resumably",
    "make_distribution",
    "make_optimizer",
]
