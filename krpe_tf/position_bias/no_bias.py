"""No bias: every offset weighs the same."""

from keras import ops


class NoBias:
    """Stands for `position_bias=None`: every offset has weight 1, as a near band of one offset and a constant tail."""

    radius = 1

    def __init__(self, num_heads: int):
        self.num_heads = num_heads

    def log_weights(self, offsets):
        """Return zeros."""
        return ops.zeros((self.num_heads, *ops.shape(offsets)), "float32")

    def near_table(self):
        """Return one zero for each head."""
        return ops.zeros((self.num_heads, 1), "float32")

    def tails(self):
        """Return one constant term on each side."""
        zeros = ops.zeros((2, self.num_heads, 1), "float32")
        return zeros, zeros
