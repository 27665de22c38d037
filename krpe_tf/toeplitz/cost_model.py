"""The cost model by which `route="auto"` chooses a route."""

import math

from ..position_bias import NoBias
from .banded import chunk_plan
from .dense import BLOCK
from .fft import fast_length
from .grid import is_grid


def choose_route(
    position_bias, n_q: int | None, n_k: int | None, m: int, d: int, causal: bool = False, packed: bool = False
) -> str:
    """Return the cheapest route by a cost model.

    The unit is the time of one operation of the banded route's matmuls; the factors of the others are fitted to
    `benchmarks/routes.py` on two cores: bidirectional graphs, 4 heads, batch 1, forward passes and training alike
    (their geometric mean):

        dense   n_q n_k (120 + 0.4 (m + d))     a pair costs passes through memory more than matmuls
        fft     18 L log2(L) m (d + 1)          L, the length of the transforms, is about n_q + n_k
        banded  1.6e7 / heads + n (2 blocks C (m + d) + 4 sides terms m (d + 1))     C, blocks: `chunk_plan`

    Args:
        position_bias: a bias; one without `radius` and `tails` is served by dense and fft only.
        n_q, n_k: lengths, or None where they are not known at trace time. Then banded is chosen for a radius of up to
            256, and fft otherwise.
        m, d: widths of features and values.
        causal: whether keys after the query are hidden: dense skips most of them.
        packed: whether there are segments, which fft does not serve.
    """
    banded = hasattr(position_bias, "tails")
    if is_grid(position_bias):
        n_q = n_k = position_bias.num_positions
    if n_q is None or n_k is None:
        if packed:
            return "banded" if banded else "dense"
        return "banded" if banded and position_bias.radius <= 256 else "fft"
    seen = 5 / 8 if causal and n_q > BLOCK and not is_grid(position_bias) else 1
    cost = {"dense": seen * n_q * n_k * (120 + 0.4 * (m + d))}
    line = 2 * position_bias.height * (2 * position_bias.width - 1) if is_grid(position_bias) else n_q + n_k - 1
    length = fast_length(line)
    if not packed:
        cost["fft"] = 18 * length * math.log2(length + 1) * m * (d + 1)
    if banded:
        n = max(n_q, n_k)
        terms = position_bias.tails()[0].shape[-1]
        cost["banded"] = banded_cost(n, position_bias.radius, terms, m, d, causal)
        if isinstance(position_bias, NoBias) and not causal and not packed:
            cost["banded"] = n * 4 * m * (d + 1)
        # What a call costs at any length, shared by the heads.
        cost["banded"] += 1.6e7 / position_bias.num_heads
    return min(cost, key=cost.get)


def banded_cost(n: int, radius: int, terms: int, m: int, d: int, causal: bool) -> int:
    """Return the operations of the banded route's matmuls, for pairs that meet directly and for sums.

    Args:
        n: the length.
        radius, terms: of the bias.
        m, d: widths of features and values.
        causal: whether keys after the query are hidden.
    """
    chunk, blocks = chunk_plan(n, radius, m, causal)
    sides = 1 if causal else 2
    return n * (2 * blocks * chunk * (m + d) + 4 * sides * terms * m * (d + 1))
