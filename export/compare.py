"""How far an exported file is from its Keras model."""

from collections.abc import Sequence

import numpy as np

from .samples import Sample


def max_error(samples: Sequence[Sample], outputs: Sequence[np.ndarray]) -> float:
    """Return the largest difference over the largest output: the first of `relative_errors`."""
    return relative_errors(samples, outputs)[0]


def relative_errors(samples: Sequence[Sample], outputs: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the largest and the mean difference over the largest output, all over all samples' valid positions.

    Args:
        samples: The samples, with the Keras model's outputs.
        outputs: The exported file's output for each, as the sample's.

    Returns:
        Both relative errors; infinity where an output has another shape or is not finite.
    """
    differences, largest = [], float(np.finfo(np.float32).tiny)
    for sample, output in zip(samples, outputs, strict=True):
        if output.shape != sample.output.shape or not np.isfinite(output).all():
            return float("inf"), float("inf")
        reference, output = sample.output.astype(np.float64), output.astype(np.float64)
        if sample.valid is not None:
            reference, output = reference[sample.valid], output[sample.valid]
        differences.append(np.abs(reference - output).ravel())
        largest = max(largest, float(np.abs(reference).max()))
    differences = np.concatenate(differences)
    return float(differences.max()) / largest, float(differences.mean()) / largest


def check_errors(errors: dict[str, float], tolerance: float) -> None:
    """Refuse an export whose error exceeds the tolerance.

    Raises:
        ValueError: With every signature that fails and its error.
    """
    failed = {name: error for name, error in errors.items() if not error <= tolerance}
    if failed:
        listed = ", ".join(f"{name} {error:.3g}" for name, error in failed.items())
        raise ValueError(
            "the exported file must agree with the Keras model, and nothing was written because it does not: max error "
            f"over max|output|: {listed}. Received: tolerance={tolerance}"
        )
