"""Samplers by their names, and what may be set of them."""

from collections.abc import Mapping

from .. import models
from ..checks import check_at_least, check_one_of

# By the sampler's name, what may be set of it.
SAMPLERS = {
    "greedy": (),
    "random": ("temperature",),
    "top_k": ("temperature", "top_k"),
    "top_p": ("temperature", "top_k", "top_p"),
}

BEAM = {"beam": ("num_beams", "length_penalty")}

TEMPERATURE = 0.8

WITHIN = {"temperature": lambda x: 1e-6 <= x <= 1e6, "top_p": lambda x: 0 < x <= 1, "length_penalty": lambda x: x >= 0}
RULES = {
    "temperature": "from 1e-6 to 1e6; sampler 'greedy' takes the likeliest token",
    "top_p": "above 0 and at most 1",
    "length_penalty": "of at least 0",
}


def sampler_options(sampler: str, options: Mapping, allowed: Mapping[str, tuple[str, ...]]) -> dict:
    """Check the options of a sampler, and return those that it takes.

    Args:
        sampler: Its name.
        options: Values by name, None for those that are not given.
        allowed: The samplers, and what may be set of each.

    Raises:
        ValueError: For another sampler, an option that it does not take, or one out of range.
    """
    check_one_of(tuple(allowed), sampler=sampler)
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name not in allowed[sampler]:
            raise ValueError(f"`{name}` must be left out with sampler={sampler!r}. Received: {name}={value!r}")
        if name not in WITHIN:
            check_at_least(1, **{name: value})
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not WITHIN[name](value):
            raise ValueError(f"`{name}` must be a number {RULES[name]}. Received: {name}={value!r}")
    return {"temperature": TEMPERATURE, **given} if "temperature" in allowed[sampler] else given


def make_sampler(name: str, options: Mapping) -> models.samplers.Sampler:
    """Make a sampler of options that `sampler_options` returned."""
    return models.samplers.SAMPLERS[name](**{name.removeprefix("top_"): value for name, value in options.items()})
