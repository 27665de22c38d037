"""Attention with a Toeplitz matrix of position weights: pure functions, one module a route.

`dispatch` is the one place where a route is chosen.
"""

from .dispatch import ROUTES, choose_route, exact_attention, is_grid, toeplitz_attention
from .numerics import wide
from .streaming import initial_state, stream

__all__ = [
    "ROUTES",
    "choose_route",
    "exact_attention",
    "initial_state",
    "is_grid",
    "stream",
    "toeplitz_attention",
    "wide",
]
