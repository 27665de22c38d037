"""Whole attention layers, projections included, against the layers that a user could pick instead.

    python benchmarks/layers.py --output build/bench

Self-attention on (1, n, 256), 4 heads of 64, forward, and forward with backward to the input and all weights, each as a
plain graph and compiled by XLA, in turn. Peers: `keras.layers.MultiHeadAttention` (no positions), the softmax twin with
T5's bias, and Model Garden's `KernelAttention` with as many features (positive ones, "exp"; no positions), which needs
the extra `garden` and is left out without it.
"""

from collections.abc import Sequence

import keras
from _measure import KINDS, command_line, graph_and_xla, normal, print_row, take_turns, write_results

from krpe_tf import KernelizedRPEAttention

HEADS, WIDTH, FEATURES = 4, 64, 16
LENGTHS = (512, 1024, 2048, 4096, 8192, 16_384)
# The longest n of each: forward, and forward with backward.
LONGEST = {
    "KernelizedRPEAttention": (16_384, 16_384),
    "MultiHeadAttention": (8192, 4096),
    "softmax twin, T5 bias": (8192, 4096),
    "KernelAttention": (16_384, 16_384),
}


def make_layers() -> dict:
    """Return the layers by name."""
    sizes = {"num_heads": HEADS, "key_dim": WIDTH}
    layers = {
        "KernelizedRPEAttention": KernelizedRPEAttention(**sizes, num_features=FEATURES, route="banded", seed=0),
        "MultiHeadAttention": keras.layers.MultiHeadAttention(**sizes),
        "softmax twin, T5 bias": KernelizedRPEAttention(**sizes, feature_map="softmax", position_bias="bucketed"),
    }
    peer = garden_layer()
    return layers if peer is None else {**layers, "KernelAttention": peer}


def garden_layer():
    """Return Model Garden's layer, or None without the extra `garden`."""
    try:
        from official.nlp.modeling.layers.kernel_attention import KernelAttention
    except ImportError:
        return None
    return KernelAttention(num_heads=HEADS, key_dim=WIDTH, feature_transform="exp", num_random_features=FEATURES)


def self_attention(layer):
    """Return the layer as a function of its input."""
    return lambda x: layer(x, x)


def measure(n: int, rounds: int) -> list[dict]:
    """Measure one length: a row for each layer, kind and mode."""
    x, calls = normal((1, n, HEADS * WIDTH), seed=0), {}
    for name, layer in make_layers().items():
        layer(x[:, :8], x[:, :8])
        for kind, limit in zip(KINDS, LONGEST[name], strict=True):
            if n <= limit:
                made = graph_and_xla(self_attention(layer), [x], layer.trainable_variables, kinds=(kind,))
                calls |= {(name, *key): call for key, call in made.items()}
    rows = []
    for (name, kind, mode), result in take_turns(calls, rounds).items():
        rows.append({"contestant": name, "kind": kind, "mode": mode, "n": n, **result})
        print_row(rows[-1], "n", "contestant", "kind", "mode")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write layers.json."""
    options = command_line(__doc__, arguments)
    note = "" if garden_layer() else 'Model Garden is not installed (pip install ".[garden]"): its layer is left out'
    if note:
        print(note)
    rows = []
    for n in (128,) if options.quick else LENGTHS:
        rows += measure(n, options.rounds)
    write_results(options, "layers", rows, heads=HEADS, width=WIDTH, features=FEATURES, note=note)


if __name__ == "__main__":
    main()
