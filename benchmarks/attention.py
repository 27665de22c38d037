"""One attention layer against its peers, forward and forward with backward: JSON, a table and a plot.

    python benchmarks/attention.py --output build/bench

All layers have 4 heads of 64 and take turns in one process, warm, as plain TensorFlow graphs on this machine's CPU.
Peers: softmax attention with the same bias (the exact twin), `keras.layers.MultiHeadAttention` (no bias), the paper's
FFT route, and linear attention without positions, the floor for whoever needs none.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from krpe_tf import KernelizedRPEAttention

HEADS, WIDTH, FEATURES = 4, 64, 16
# The longest n each layer is timed at.
LIMITS = {"banded": 16_384, "linear, no positions": 16_384, "fft": 4096, "softmax": 8192, "MultiHeadAttention": 8192}


def make_layers() -> dict:
    """The layers by name."""
    sizes = {"num_heads": HEADS, "key_dim": WIDTH, "num_features": FEATURES, "seed": 0}
    return {
        "banded": KernelizedRPEAttention(**sizes, route="banded"),
        "linear, no positions": KernelizedRPEAttention(**sizes, position_bias=None, route="banded"),
        "fft": KernelizedRPEAttention(**sizes, route="fft"),
        "softmax": KernelizedRPEAttention(**sizes, feature_map="softmax"),
        "MultiHeadAttention": keras.layers.MultiHeadAttention(HEADS, WIDTH),
    }


def forward_and_training(layer, x):
    """The layer's forward pass, and forward with backward, as compiled graphs."""
    layer(x, x)
    variables = [variable.value for variable in layer.trainable_variables]

    @tf.function
    def forward():
        return layer(x, x)

    @tf.function
    def training():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(layer(x, x)))
        return tape.gradient(loss, [x, *variables])

    return {"forward": forward, "forward+backward": training}


def measure(lengths, rounds: int) -> list[dict]:
    """Rows of median milliseconds, with the spread over rounds."""
    rows = []
    for n in lengths:
        x = tf.random.stateless_normal((1, n, HEADS * WIDTH), seed=(0, n))
        calls = {
            (name, kind): call
            for name, layer in make_layers().items()
            if n <= LIMITS[name]
            for kind, call in forward_and_training(layer, x).items()
        }
        taken = {key: [] for key in calls}
        for _ in range(rounds + 1):
            for key, call in calls.items():
                start = time.perf_counter()
                tf.nest.map_structure(lambda y: y.numpy(), tf.nest.flatten(call())[:1])
                taken[key].append(1000 * (time.perf_counter() - start))
        for (name, kind), values in taken.items():
            values = np.array(values[1:])
            row = {"layer": name, "kind": kind, "n": n, "ms": float(np.median(values))}
            rows.append({**row, "ms_min": float(values.min()), "ms_max": float(values.max())})
            print(f"{n:6d} {kind:18s} {name:22s} {row['ms']:9.1f} ms", flush=True)
    return rows


def plot(rows, path: Path) -> None:
    """Milliseconds against length, a panel a kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    for axis, kind in zip(figure.subplots(1, 2), ("forward", "forward+backward"), strict=True):
        for name in LIMITS:
            mine = [row for row in rows if row["layer"] == name and row["kind"] == kind]
            axis.loglog([r["n"] for r in mine], [r["ms"] for r in mine], marker="o", base=2, label=name)
        axis.set(title=f"{kind}, 4 heads of 64, m = {FEATURES}", xlabel="n", ylabel="ms")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures, and writes attention.json and attention.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/bench"))
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192, 16_384])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = measure(options.lengths, options.rounds)
    about = {
        "machine": platform.processor() or platform.machine(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or "all",
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        "heads": HEADS,
        "key_dim": WIDTH,
        "num_features": FEATURES,
        "rounds": options.rounds,
    }
    (options.output / "attention.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    plot(rows, options.output / "attention.png")


if __name__ == "__main__":
    main()
