"""Position biases: a learned log-weight for every offset between a key and a query.

A bias is defined by `log_weights`. Every one-dimensional bias has one shape, and this shape is what the linear routes
use: free values in a near band, and on each side a sum of decaying exponentials. Images have a table over two axes.
"""

from .base import BiasLayer, PositionBias, alibi_slopes, remove_peaks
from .bucketed import BucketedBias
from .decay import DecayBias
from .learned import LearnedBias
from .learned_2d import LearnedBias2D
from .make import make_position_bias
from .no_bias import NoBias
from .sharing import deserialize_bias, note_owner, serialize_bias
from .strategy import adopt_bias, check_scope

__all__ = [
    "BiasLayer",
    "BucketedBias",
    "DecayBias",
    "LearnedBias",
    "LearnedBias2D",
    "NoBias",
    "PositionBias",
    "adopt_bias",
    "alibi_slopes",
    "check_scope",
    "deserialize_bias",
    "make_position_bias",
    "note_owner",
    "remove_peaks",
    "serialize_bias",
]
