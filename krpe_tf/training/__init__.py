"""Training through `model.fit`: optimizer, loss, checkpoints, several devices. Knows Keras and no task."""

from .bits_per_byte import BitsPerByte
from .checkpoint_callback import DivergedError, check_resumable
from .checkpoints import Checkpoint, Checkpoints
from .compile import compile_classifier, compile_masked_lm, compile_model
from .distribution import ONE_DEVICE, Distribution, encoder_layout, make_distribution
from .fit import Budget, fit, fit_resumably
from .losses import GlobalCrossEntropy, GlobalVectorError, class_probabilities
from .optimizer import (
    GlobalAdamW,
    GlobalLossScaleOptimizer,
    InverseSquareRootDecay,
    LinearDecay,
    check_optimizer,
    make_optimizer,
)
from .perplexity import Perplexity

__all__ = [
    "ONE_DEVICE",
    "BitsPerByte",
    "Budget",
    "Checkpoint",
    "Checkpoints",
    "Distribution",
    "DivergedError",
    "GlobalAdamW",
    "GlobalCrossEntropy",
    "GlobalLossScaleOptimizer",
    "GlobalVectorError",
    "InverseSquareRootDecay",
    "LinearDecay",
    "Perplexity",
    "check_optimizer",
    "check_resumable",
    "class_probabilities",
    "compile_classifier",
    "compile_masked_lm",
    "compile_model",
    "encoder_layout",
    "fit",
    "fit_resumably",
    "make_distribution",
    "make_optimizer",
]
