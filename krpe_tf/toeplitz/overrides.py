"""What an export changes while it traces a model."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_replacements = ContextVar("replacements", default=None)

_forced_route = ContextVar("forced_route", default=None)


@contextlib.contextmanager
def replaced_biases(replacements: dict) -> Iterator[None]:
    """While it is open, attention computes with other biases, on the banded route: for an export, which traces a model.

    Args:
        replacements: for a bias the one, with `radius` and `tails`, that takes its place.
    """
    token = _replacements.set(replacements)
    try:
        yield
    finally:
        _replacements.reset(token)


@contextlib.contextmanager
def forced_route(route: str) -> Iterator[None]:
    """While it is open, every linear attention takes this route: for an export, which says what another one costs."""
    token = _forced_route.set(route)
    try:
        yield
    finally:
        _forced_route.reset(token)
