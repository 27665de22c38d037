"""Free values near the query, exponentials beyond."""

import numpy as np
from keras import ops, saving

from ..checks import check_at_least
from .base import PositionBias, alibi_slopes, starting_bias


@saving.register_keras_serializable("krpe_tf")
class DecayBias(PositionBias):
    """Free values near the query and a learned sum of exponentials beyond: any length at linear cost. The default.

    c_t = exp(b_t) for |t| < radius, and c_t = sum_r a_r exp(-s_r (|t| - radius)) beyond, with a_r and s_r learned in
    log space on each side. `radius=1, num_terms=1` starts as, and can stay, ALiBi.

    Args:
        num_heads: number of attention heads, at least 1.
        radius: half-width of the near band in positions, at least 1.
        num_terms: exponentials on each side, at least 1.
    """

    def __init__(self, num_heads: int, radius: int = 16, num_terms: int = 2, **kwargs):
        check_at_least(1, num_heads=num_heads, radius=radius, num_terms=num_terms)
        super().__init__(num_heads, radius, **kwargs)
        self.num_terms = num_terms
        slopes = alibi_slopes(num_heads)[:, None]
        # Terms that start equal would stay equal; one term alone starts at the slope itself.
        spread = np.exp(np.linspace(-0.5, 0.5, num_terms)) if num_terms > 1 else np.ones(1)
        log_amplitude = np.broadcast_to(-slopes * radius - np.log(num_terms), (2, num_heads, num_terms))
        log_rate = np.broadcast_to(np.log(slopes * spread), (2, num_heads, num_terms))
        self.near = self.add_bias_weight("near", starting_bias(num_heads, radius, np.arange(1 - radius, radius)))
        self.log_amplitude = self.add_bias_weight("log_amplitude", log_amplitude)
        self.log_rate = self.add_bias_weight("log_rate", log_rate)
        self.built = True

    def near_table(self):
        return ops.convert_to_tensor(self.near)

    def tails(self):
        return ops.convert_to_tensor(self.log_amplitude), ops.exp(ops.convert_to_tensor(self.log_rate))

    def get_config(self):
        return {**super().get_config(), "radius": self.radius, "num_terms": self.num_terms}
