"""T5's buckets."""

import numpy as np
from keras import ops, saving

from ..checks import check_at_least
from .base import PositionBias, starting_bias


@saving.register_keras_serializable("krpe_tf")
class BucketedBias(PositionBias):
    """T5's buckets (arXiv 1910.10683): one scalar per head and bucket of offsets.

    Half of the buckets serve each direction. The first half of those holds one distance each; the rest grow
    logarithmically up to `max_distance`, and the last one holds everything further away.

    Args:
        num_heads: number of attention heads, at least 1.
        num_buckets: number of buckets over both directions, even and at least 4.
        max_distance: distance in positions at which the logarithmic growth ends, more than num_buckets // 4.
    """

    def __init__(self, num_heads: int, num_buckets: int = 32, max_distance: int = 128, **kwargs):
        check_at_least(1, num_heads=num_heads, max_distance=max_distance)
        check_at_least(4, num_buckets=num_buckets)
        if num_buckets % 2:
            raise ValueError(f"`num_buckets` must be even. Received: num_buckets={num_buckets}")
        if max_distance <= num_buckets // 4:
            raise ValueError(
                f"`max_distance` must be more than num_buckets // 4 = {num_buckets // 4}, the distances with a bucket "
                f"of their own. Received: max_distance={max_distance}"
            )
        first_distance = _bucket_starts(num_buckets // 2, max_distance)
        super().__init__(num_heads, radius=int(first_distance[-1]), **kwargs)
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self._bucket_of_distance = np.searchsorted(first_distance, np.arange(self.radius), side="right") - 1
        starts = np.concatenate([-first_distance, first_distance])
        self.table = self.add_bias_weight("table", starting_bias(num_heads, self.radius, starts))
        self.built = True

    def near_table(self):
        offsets = np.arange(1 - self.radius, self.radius)
        buckets = self._bucket_of_distance[np.abs(offsets)] + np.where(offsets > 0, self.num_buckets // 2, 0)
        return ops.take(ops.convert_to_tensor(self.table), buckets, axis=1)

    def tails(self):
        table = ops.convert_to_tensor(self.table)
        half = self.num_buckets // 2
        ends = ops.stack([table[:, half - 1 : half], table[:, -1:]])
        return ends, ops.zeros_like(ends)

    def get_config(self):
        return {**super().get_config(), "num_buckets": self.num_buckets, "max_distance": self.max_distance}


def _bucket_starts(num_buckets: int, max_distance: int) -> np.ndarray:
    """Return the smallest distance of each bucket of one direction, computed in integers, without rounding."""
    exact = num_buckets // 2
    steps = num_buckets - exact
    starts = list(range(exact))
    for step in range(steps):
        # The smallest d with d >= exact * (max_distance / exact)^(step / steps).
        distance = max(starts[-1], exact)
        while distance**steps * exact**step < exact**steps * max_distance**step:
            distance += 1
        starts.append(distance)
    return np.array(starts)
