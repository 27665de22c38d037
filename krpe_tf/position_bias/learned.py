"""The paper's table."""

import numpy as np
from keras import ops, saving

from ..checks import check_at_least
from .base import PositionBias, starting_bias


@saving.register_keras_serializable("krpe_tf")
class LearnedBias(PositionBias):
    """The paper's table (Eq. 6): one scalar per head and offset, constant past `max_distance`.

    b_t = table[clip(t, -max_distance, max_distance)]. With max_distance = n - 1 these are the paper's 2n - 1 scalars;
    here they start from slopes with a peak, see `starting_bias`, because a start from zeros trains far worse.

    Args:
        num_heads: number of attention heads, at least 1.
        max_distance: largest offset with a scalar of its own, at least 1.
    """

    def __init__(self, num_heads: int, max_distance: int, **kwargs):
        check_at_least(1, num_heads=num_heads, max_distance=max_distance)
        super().__init__(num_heads, radius=max_distance, **kwargs)
        self.max_distance = max_distance
        offsets = np.arange(-max_distance, max_distance + 1)
        self.table = self.add_bias_weight("table", starting_bias(num_heads, max_distance, offsets))
        self.built = True

    def near_table(self):
        return ops.convert_to_tensor(self.table)[:, 1:-1]

    def tails(self):
        table = ops.convert_to_tensor(self.table)
        ends = ops.stack([table[:, :1], table[:, -1:]])
        return ends, ops.zeros_like(ends)

    def get_config(self):
        return {**super().get_config(), "max_distance": self.max_distance}
