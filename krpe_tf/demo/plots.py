"""The plots of the demo's report."""

from pathlib import Path

import numpy as np
from keras import ops

CAPTIONS = {
    "training.png": "Training of the model and of its softmax twin: the loss, and the words right after each epoch.",
    "biases.png": "The learned position bias of each head, against where every bias starts.",
    "scaling.png": "Milliseconds for one document against its length.",
}


def plot_training(path: Path, histories: dict) -> None:
    """Plot the losses of training, and validation accuracies.

    Args:
        path: The file to write.
        histories: Those of "fine_tuning" and "twin_fine_tuning", see `krpe_tf.training.fit`.
    """
    figure, (left, right) = _figure(2)
    for name, label in (("fine_tuning", "this model"), ("twin_fine_tuning", "softmax twin")):
        history = histories[name]
        left.plot(history["step"], history["loss"], marker="o", label=label)
        right.plot(history["val_step"], history["val_accuracy"], marker="o", label=label)
    left.set(title="training", xlabel="step", ylabel="loss, nats a word")
    right.set(title="validation", xlabel="step", ylabel="words right")
    left.legend()
    right.legend()
    figure.savefig(path, dpi=120)


def plot_biases(path: Path, position_bias) -> None:
    """Plot a trained bias layer against a new one.

    Args:
        path: The file to write.
        position_bias: The layer.
    """
    figure, axis = _figure()
    offsets = np.arange(-64, 65)
    start = type(position_bias).from_config(position_bias.get_config())
    learned, started = (ops.convert_to_numpy(bias.log_weights(offsets)) for bias in (position_bias, start))
    for head in range(position_bias.num_heads):
        (line,) = axis.plot(offsets, learned[head], label=f"head {head + 1}")
        axis.plot(offsets, started[head], color=line.get_color(), linestyle=":", linewidth=1)
    axis.set(title="position bias (dotted: start)", xlabel="key position - query position", ylabel="log weight b")
    axis.legend()
    figure.savefig(path, dpi=120)


def plot_scaling(path: Path, milliseconds: dict[str, dict[int, float]]) -> None:
    """Plot milliseconds against length, both on logarithmic axes.

    Args:
        path: The file to write.
        milliseconds: What `time_models` returns for "model" and "softmax_twin".
    """
    figure, axis = _figure()
    for name, label in (("model", "this model"), ("softmax_twin", "softmax twin")):
        axis.loglog(list(milliseconds[name]), list(milliseconds[name].values()), marker="o", base=2, label=label)
    axis.set(title="one document, on this machine", xlabel="tokens", ylabel="ms")
    axis.legend()
    figure.savefig(path, dpi=120)


def _figure(columns: int = 1):
    # The object interface, not pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * columns, 4), layout="constrained")
    axes = figure.subplots(1, columns)
    for axis in np.atleast_1d(axes):
        axis.grid(alpha=0.3)
    return figure, axes
