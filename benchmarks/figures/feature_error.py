"""Figure 1(b) of the paper: how far random features are from softmax, against their number, for growing norms.

One query and 1,024 keys, uniform on the sphere of radius R in 64 dimensions; the error is the l1 distance between the
attention scores of softmax and of the features. The paper's R = 1 is what normalising queries and keys guarantees.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from _output import command_line, write
from keras import ops

from krpe_tf.feature_maps import apply_feature_map, draw_projection

DIM, KEYS, RADII, MAPS = 64, 1024, (1, 2, 4, 8), ("positive", "orthogonal", "spherical", "trigonometric")


def error(feature_map, radius, m, draws):
    """Return the mean over draws, and the standard error of that mean."""
    distances = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        points = rng.standard_normal((1 + KEYS, DIM))
        points = (radius * points / np.linalg.norm(points, axis=-1, keepdims=True)).astype("float32")
        projection = draw_projection(feature_map, DIM, m, seed)
        features = ops.convert_to_numpy(apply_feature_map(feature_map, points, projection)).astype("float64")
        exact, estimate = np.exp(points[1:].astype("float64") @ points[0]), features[1:] @ features[0]
        # Trigonometric estimates can be negative and sum to nearly nothing: at most 2, as between distributions.
        distance = np.abs(exact / exact.sum() - estimate / estimate.sum()).sum()
        distances.append(min(distance, 2.0))
    return float(np.mean(distances)), float(np.std(distances, ddof=1) / np.sqrt(draws))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, plot and write."""
    options = command_line(__doc__, arguments)
    counts, draws = ((4, 16), 3) if options.quick else ([2**power for power in range(2, 11)], 50)
    errors = {
        feature_map: {radius: {m: error(feature_map, radius, m, draws) for m in counts} for radius in RADII}
        for feature_map in MAPS
    }
    figure, axes = plt.subplots(1, len(MAPS), figsize=(14, 3.5), sharey=True)
    for axis, feature_map in zip(axes, MAPS, strict=True):
        for radius, values in errors[feature_map].items():
            mean, spread = np.array(list(values.values())).T
            axis.errorbar(list(values), mean, 2 * spread, label=f"R = {radius}", capsize=2)
        axis.set(title=feature_map, xlabel="features m", xscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("l1 error of the scores")
    axes[0].legend()
    write(options.output, "feature_error", {"draws": draws, "errors": errors}, figure)


if __name__ == "__main__":
    main()
