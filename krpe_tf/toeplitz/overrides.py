"""The one scope that changes what attention computes: for an export that traces a model, or for rows of documents."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any


@dataclasses.dataclass(frozen=True)
class Overrides:
    """What attention computes with in place of its arguments.

    Args:
        replaced_biases: for a bias the one, with `radius` and `tails`, that takes its place, on the banded route.
        route: the route of every linear attention; None leaves the one that it asks for.
        forward_transforms: whether the fft route transforms forward only and by powers of two, as LiteRT's builtin ops
            do.
        segment_ids: for attention layers that are given none, see `toeplitz_attention`.
        evaluate: `evaluate(compute)` returns what `compute()` does, as constants: a step of decoding calls it for what
            depends on weights alone, and then holds no loop either.
    """

    replaced_biases: Mapping[Any, Any] = dataclasses.field(default_factory=dict)
    route: str | None = None
    forward_transforms: bool = False
    segment_ids: Any = None
    evaluate: Callable[[Callable[[], Any]], Any] | None = None

    def apply(self, position_bias, route: str) -> tuple[Any, str]:
        """Return the bias and the route to compute with in place of these."""
        if self.replaced_biases and position_bias in self.replaced_biases:
            return self.replaced_biases[position_bias], "banded"
        return position_bias, self.route or route


_active = ContextVar("overrides", default=Overrides())  # noqa: B039  Frozen.


def active_overrides() -> Overrides:
    """Return the overrides of the innermost open scope."""
    return _active.get()


@contextlib.contextmanager
def override(**changes) -> Iterator[None]:
    """Override what attention computes while this scope is open; an inner scope keeps what it does not name.

    Args:
        **changes: fields of `Overrides`.
    """
    token = _active.set(dataclasses.replace(_active.get(), **changes))
    try:
        yield
    finally:
        _active.reset(token)
