"""Attention with a Toeplitz matrix of position weights: pure functions, one module a route.

`dispatch` is the one place where a route is chosen, by `cost_model`.
"""

from .banded import SMALLEST_CHUNK
from .cache import initial_cache, make_cache, read_cache, stream_cache
from .checks import check_segments
from .cost_model import banded_cost, choose_route
from .dispatch import ROUTES, exact_attention, toeplitz_attention
from .grid import is_grid
from .numerics import at_least_float32
from .overrides import active_overrides, override
from .streaming import initial_state, stream
from .sums import read_sums, sum_keys

__all__ = [
    "ROUTES",
    "SMALLEST_CHUNK",
    "active_overrides",
    "at_least_float32",
    "banded_cost",
    "check_segments",
    "choose_route",
    "exact_attention",
    "initial_cache",
    "initial_state",
    "is_grid",
    "make_cache",
    "override",
    "read_cache",
    "read_sums",
    "stream",
    "stream_cache",
    "sum_keys",
    "toeplitz_attention",
]
