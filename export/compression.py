"""A trained bias becomes a near band and few exponentials, under a bound on what that changes."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..attention import KernelizedRPEAttention
from ..checks import check_at_least
from ..position_bias import DecayBias, PositionBias
from ..toeplitz import SMALLEST_CHUNK, banded_cost
from .layers import all_layers

if TYPE_CHECKING:
    import keras

# Widths that the cost of a radius and of a term are weighed at, and the most terms that are tried.
NUM_FEATURES, HEAD_DIM, MAX_TERMS = 32, 64, 8
# Feature maps whose products are never negative, on a linear route: what a certificate needs.
CERTIFIED_MAPS = ("orthogonal", "positive", "spherical", "taylor", "elu")
# Rates of the non-negative least squares, offsets that one fit looks at, and rounds of weights that level its peaks.
NUM_RATES, MAX_PLACES, ROUNDS = 64, 512, 4


@dataclass(frozen=True)
class Certificate:
    """How far apart two biases can bring the output of one attention, for all sequences of at most `length` positions.

    Attributes: `eps`, for each head half the oscillation of the difference of the log-weights; `bound`, 2 tanh(eps / 2)
    of the largest: the difference over max |v|; `length`; `radius` and `num_terms` of the new bias.
    """

    eps: tuple[float, ...]
    bound: float
    length: int
    radius: int
    num_terms: int


def compress_bias(bias: PositionBias, length: int, tolerance: float) -> tuple[DecayBias, Certificate]:
    """Replace a bias by the cheapest near band and sum of exponentials that the tolerance allows.

    With the same queries, keys and values, the outputs z and z' of one head of an attention whose features have no
    negative products (any map but "trigonometric") differ, before the output projection, by

        |z_i - z'_i| <= 2 tanh(eps / 2) max_j |v_j|.

    Proof. Less a constant, which cancels, log c' = log c + delta with |delta| <= eps, so row i's weights p_j become
    p_j exp(delta_j) / sum. What they can move, sum |p - p'| / 2, is largest where delta is eps on a set of weight P and
    -eps elsewhere, and over P it is tanh(eps / 2); the output moves by sum (p_j - p'_j) v_j. So the bound is attained.

    It holds for whatever mask, causal or not, and says nothing about what later layers make of the difference.

    Args:
        bias: Over one axis, of any radius; above all a trained `LearnedBias`. It is left as it is.
        length: The longest sequence: offsets from -(length - 1) to length - 1 are fitted.
        tolerance: The largest bound accepted, between 0 and 2.

    Returns:
        The new bias, of the same name, and its certificate: computed in float64 from the float32 log-weights of both.

    Raises:
        ValueError: For wrong arguments, or a bias that is too rough: one that no sum of decaying exponentials follows
            past a near band of a quarter of the length. The message says how rough.
    """
    if not isinstance(bias, PositionBias):
        raise ValueError(f"`bias` must be a position bias over one axis. Received: bias={bias!r}")
    check_at_least(1, length=length)
    check_bound(tolerance=tolerance)
    table = _log_weights(bias, length)
    best, refused = None, None
    for radius in _radii(length):
        if best is None and bias.radius <= radius:
            own = _own_form(bias, length, table)
            best = own if own[1].bound <= tolerance else None
        cheaper = [
            terms
            for terms in range(1, MAX_TERMS + 1)
            if best is None or _cost(length, radius, terms) < _cost(length, best[1].radius, best[1].num_terms)
        ]
        if not cheaper:
            break
        found = _fit(bias, length, table, radius, max(cheaper), limit=2 * math.atanh(tolerance / 2))
        if found[1].bound <= tolerance:
            best = found
        elif refused is None or found[1].bound < refused.bound:
            refused = found[1]
    if best:
        return best
    head = int(np.argmax(refused.eps))
    accepted = f"tolerance={1.01 * refused.bound:.3g} would take it" if refused.bound < 1.9 else "no tolerance takes it"
    raise ValueError(
        "`bias` must be smooth: past a near band, its weights must nearly be a sum of decaying exponentials. The best "
        f"found, radius={refused.radius} and num_terms={refused.num_terms}, is off by eps={refused.eps[head]:.3g} in "
        f"log-weights, at head {head}: {accepted}. Without compression, route='dense' and route='fft' serve the bias "
        f"as it is. Received: bias={bias!r}, length={length}, tolerance={tolerance}"
    )


def compress_biases(
    model: "keras.Model", lengths: Sequence[int | None], tolerance: float | None
) -> dict[PositionBias, tuple[DecayBias, Certificate]]:
    """Compress every bias over one axis that an attention of the model has.

    Args:
        model: A Keras model; it is left as it is.
        lengths: Those of the signatures. The longest is certified.
        tolerance: As for `compress_bias`; None to compress nothing.

    Returns:
        The new bias and its certificate for every bias.

    Raises:
        ValueError: As `compress_bias`; for a None among the lengths; where there is no such bias; for a feature map
            that the certificate is not for.
    """
    if tolerance is None:
        return {}
    if None in lengths:
        raise ValueError(
            "`bias_tolerance` needs lengths that are known: a certificate is for a longest one. "
            f"Received: lengths={lengths}, bias_tolerance={tolerance}"
        )
    compressed = {}
    for layer in all_layers(model):
        bias = getattr(layer, "position_bias", None)
        if not isinstance(layer, KernelizedRPEAttention) or not isinstance(bias, PositionBias):
            continue
        if layer.feature_map not in CERTIFIED_MAPS:
            raise ValueError(
                "`bias_tolerance` goes with features that are not negative, in linear attention: feature_map must be "
                f"one of {', '.join(map(repr, CERTIFIED_MAPS))}. Received: {layer.name} with "
                f"feature_map={layer.feature_map!r}"
            )
        if bias not in compressed:
            compressed[bias] = compress_bias(bias, max(lengths), tolerance)
    if not compressed:
        raise ValueError(
            "`bias_tolerance` needs a model with a KernelizedRPEAttention and a position bias over one axis. "
            f"Received: model={model}, bias_tolerance={tolerance}"
        )
    return compressed


def certificates_by_name(compressed: dict[PositionBias, tuple[DecayBias, Certificate]]) -> dict[str, Certificate]:
    """Return the certificates by the names of their biases; of the same name, the second one gets "#2" after it."""
    named, count = {}, Counter()
    for bias, (_, certificate) in compressed.items():
        count[bias.name] += 1
        named[bias.name if count[bias.name] == 1 else f"{bias.name}#{count[bias.name]}"] = certificate
    return named


def check_bound(**arguments: float) -> None:
    """Raise a ValueError unless every named argument is a number between 0 and 2, where the bound lies."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < 2:
            raise ValueError(f"`{name}` must be a number between 0 and 2. Received: {name}={value!r}")


def _radii(length: int) -> Iterator[int]:
    """Yield radii from what a chunk takes anyway, each about twice the last, to a quarter of the length."""
    radius = SMALLEST_CHUNK // 2 + 1
    while radius <= max(length // 4, 2 * SMALLEST_CHUNK + 1):
        yield min(radius, length)
        radius = 2 * radius - 1


def _cost(length: int, radius: int, num_terms: int) -> float:
    return banded_cost(length, radius, num_terms, NUM_FEATURES, HEAD_DIM, causal=False)


def _log_weights(bias: PositionBias, length: int) -> np.ndarray:
    """Return b at -(length - 1) .. length - 1, float64 (heads, 2 * length - 1)."""
    table = np.asarray(bias.log_weights(np.arange(1 - length, length)), "float64")
    if not np.isfinite(table).all():
        raise ValueError(f"`bias` must have finite log-weights. Received: bias={bias!r} with some that are not")
    return table


def _certify(bias: DecayBias, length: int, table: np.ndarray) -> Certificate:
    difference = _log_weights(bias, length) - table
    eps = (difference.max(axis=1) - difference.min(axis=1)) / 2
    bound = 2 * math.tanh(eps.max() / 2)
    return Certificate(tuple(eps.tolist()), bound, length, bias.radius, bias.num_terms)


def _own_form(bias: PositionBias, length: int, table: np.ndarray) -> tuple[DecayBias, Certificate]:
    """Return the bias as it is: T5's buckets, for one, are a near band and a constant."""
    log_amplitudes, rates = (np.asarray(part, "float64") for part in bias.tails())
    return _make(bias, length, table, bias.radius, np.asarray(bias.near_table()), log_amplitudes, rates)


def _fit(bias, length, table, radius, max_terms, limit) -> tuple[DecayBias, Certificate]:
    """Fit the near band as it is, and on each side of each head the fewest terms that are within `limit`."""
    before, after = table[:, : length - radius][:, ::-1], table[:, length - 1 + radius :]
    tails = [[_fit_tail(row, max_terms, limit) for row in side] for side in (before, after)]
    num_terms = max(len(rates) for side in tails for _, rates in side)
    filled = np.array([[_fill(*tail, num_terms) for tail in side] for side in tails])
    near = table[:, length - radius : length + radius - 1]
    return _make(bias, length, table, radius, near, filled[:, :, 0], filled[:, :, 1])


def _make(bias, length, table, radius, near, log_amplitudes, rates) -> tuple[DecayBias, Certificate]:
    new = DecayBias(bias.num_heads, radius, rates.shape[-1], name=bias.name)
    new.near.assign(near)
    new.log_amplitude.assign(log_amplitudes)
    new.log_rate.assign(np.log(np.maximum(rates, _no_rate(length))))
    return new, _certify(new, length, table)


def _no_rate(length: int) -> float:
    """Return what stands for a rate of zero, which has no logarithm."""
    return 1e-9 / length


def _fill(log_amplitudes: np.ndarray, rates: np.ndarray, num_terms: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the same sum of `num_terms` terms: the spare ones share what the first one weighs."""
    spare = num_terms - len(rates)
    first = np.full(spare + 1, log_amplitudes[0] - math.log(spare + 1))
    return np.append(first, log_amplitudes[1:]), np.append(np.full(spare, rates[0]), rates)


def _fit_tail(b: np.ndarray, max_terms: int, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return log amplitudes and rates of the fewest terms within `limit` of b at 0 .. len(b) - 1, or of the best."""
    count = len(b)
    if count < 2:
        return np.resize(b, 1), np.zeros(1)
    everywhere = np.arange(count)
    places = everywhere
    if count > MAX_PLACES:
        places = np.unique(np.r_[: MAX_PLACES // 2, np.linspace(0, count - 1, MAX_PLACES // 2).astype(int)])
    # No rate is needed much below the slope at the far end.
    lowest = max(0, (b[count // 2] - b[-1]) / (count - 1 - count // 2) - 4 / count)
    start = _non_negative_fit(b[places], places, lowest)
    best, least = None, math.inf
    for num_terms in range(1, min(max_terms, len(start[0])) + 1):
        for tail in _refined(*_merged(*start, num_terms), b[places], places, lowest):
            error = np.abs(_log_sum(*tail, everywhere) - b).max()
            if error < least:
                best, least = tail, error
            if least <= 0.98 * limit:  # The rest is for what float32 weights lose.
                return best
    return best


def _log_sum(log_amplitudes: np.ndarray, rates: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(log_amplitudes - np.outer(places, rates), axis=1)


def _non_negative_fit(b: np.ndarray, places: np.ndarray, lowest: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit amplitudes over a grid of rates by non-negative least squares, in the relative error: weights 1 / c.

    Returns:
        The log amplitudes that are not zero, and the logs of by how much their rates are above the lowest.
    """
    from scipy.optimize import nnls

    above = np.geomspace(0.01 / places[-1], 4, NUM_RATES)
    columns = -np.outer(places, lowest + above) - b[:, None]
    scale = columns.max(axis=0)
    amplitudes, _ = nnls(np.exp(columns - scale), np.ones(len(b)), maxiter=100 * NUM_RATES)
    kept = amplitudes > 0
    return np.log(amplitudes[kept]) - scale[kept], np.log(above[kept])


def _merged(log_amplitudes: np.ndarray, log_above: np.ndarray, num_terms: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge terms of neighbouring rates, the closest first, until `num_terms` are left."""
    log_amplitudes, log_above = list(log_amplitudes), list(log_above)
    while len(log_above) > num_terms:
        i = int(np.argmin(np.diff(log_above)))
        log_above[i : i + 2] = [np.mean(log_above[i : i + 2])]
        log_amplitudes[i : i + 2] = [np.logaddexp(*log_amplitudes[i : i + 2])]
    return np.array(log_amplitudes), np.array(log_above)


def _refined(log_amplitudes, log_above, b, places, lowest):
    """Yield better and better tails of as many terms: least squares in log c, then with weights that level its peaks.

    The weights are Lawson's: multiplied by the error again and again, they lead to the least largest error.
    """
    from scipy.optimize import least_squares

    weights = np.ones(len(b))
    # A term that does not count may go anywhere, within bounds.
    low = np.r_[log_amplitudes - 50, np.full(len(log_above), -50.0)]
    high = np.r_[log_amplitudes + 50, np.full(len(log_above), 2.0)]
    point = np.r_[log_amplitudes, log_above]

    def terms(point):
        log_amplitudes, log_above = np.split(point, 2)
        return log_amplitudes, lowest + np.exp(log_above)

    def residual(point):
        return weights * (_log_sum(*terms(point), places) - b)

    def jacobian(point):
        log_amplitudes, rates = terms(point)
        logs = log_amplitudes - np.outer(places, rates)
        share = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)) * weights[:, None]
        return np.hstack([share, -share * np.outer(places, rates - lowest)])

    for _ in range(ROUNDS):
        point = least_squares(residual, point, jacobian, bounds=(low, high), max_nfev=50).x
        yield terms(point)
        error = np.abs(residual(point)) / weights
        weights = weights * np.sqrt(error / max(error.max(), 1e-300) + 1e-3)
        weights /= weights.max()
