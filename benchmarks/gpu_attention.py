"""Attention and a training step on a GPU under JAX, beside `jax.nn.dot_product_attention`.

    python benchmarks/gpu_attention.py --output build/bench
    python benchmarks/gpu_attention.py --output build/bench --quick

It needs a GPU for these sizes, with JAX's build for CUDA, and is no part of `make bench`; `--quick` has tiny sizes,
which run on a CPU and prove nothing. No number of it was published: there has been no GPU yet.

65,536 tokens at a time, in rows of 1,024 to 65,536, in bfloat16 and float32. "ours": `DecayBias(16, 2)`, 16 orthogonal
features, the banded route; "softmax with bias": the same bias as a matrix; "softmax": no positions; "softmax, cuDNN":
the same as cuDNN's kernel, which takes bfloat16 alone. 4 heads of 64; the training step is that of a bidirectional
encoder of 4 layers of 256 with AdamW, and differs by the attention alone. float32 matmuls have the precision that JAX
gives them by default. What does not fit into memory has a row that says so.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np
from _turns import time_in_turns
from keras import ops

from krpe_tf import DecayBias, toeplitz_attention
from krpe_tf.feature_maps import apply_feature_map, draw_projection
from krpe_tf.files import make_directory, write_json

LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)
SIZES = {"lengths": LENGTHS, "tokens": 65_536, "dtypes": ("bfloat16", "float32"), "layers": 4}
QUICK_SIZES = {"lengths": (64,), "tokens": 128, "dtypes": ("bfloat16",), "layers": 1}
HEADS, WIDTH, FEATURES, VOCABULARY = 4, 64, 16, 256
OURS, WITH_BIAS, PLAIN, CUDNN = "ours", "softmax with bias", "softmax", "softmax, cuDNN"


def bias_matrix(bias, n: int):
    """Return b between all pairs of n positions, (1, heads, n, n), without a gather: its gradient is a slow scatter."""
    # A period of 2n: rows of 2n - 1 each start one diagonal further left than the one above. The n-th is never seen.
    period = bias.log_weights(np.concatenate([np.arange(n), [0], np.arange(1 - n, 0)]).astype("int32"))
    flat = jnp.tile(period, (1, n))[:, : n * (2 * n - 1)]
    return flat.reshape(-1, n, 2 * n - 1)[None, :, :, :n]


def attend(name: str, bias, query, key, value):
    """Return a contestant's attention, of (batch, n, heads, width)."""
    if name == OURS:
        query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
        projection = draw_projection("orthogonal", WIDTH, FEATURES, seed=0)
        query, key = (apply_feature_map("orthogonal", x, projection, normalize=True) for x in (query, key))
        return ops.transpose(toeplitz_attention(query, key, value, bias, route="banded"), (0, 2, 1, 3))
    weights = bias_matrix(bias, query.shape[1]).astype(query.dtype) if name == WITH_BIAS else None
    implementation = "cudnn" if name == CUDNN else "xla"
    return jax.nn.dot_product_attention(query, key, value, bias=weights, implementation=implementation)


def attention_calls(names: Sequence[str], n: int, batch: int, dtype: str) -> dict:
    """Return calls by (contestant, kind): forward, and with the gradients of what came in and of the bias."""
    bias = DecayBias(HEADS, radius=16, num_terms=2)
    random = np.random.default_rng(0)
    inputs = [jnp.asarray(random.standard_normal((batch, n, HEADS, WIDTH), "float32"), dtype) for _ in range(3)]
    values, calls = [variable.value for variable in bias.trainable_variables], {}

    def call_of(function):
        return lambda: jax.block_until_ready(function(values, *inputs))

    for name in names:

        def forward(values, query, key, value, name=name):
            mapping = list(zip(bias.trainable_variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return attend(name, bias, query, key, value)

        def total(*arguments, forward=forward):
            return forward(*arguments).astype("float32").sum()

        calls[name, "forward"] = call_of(jax.jit(forward))
        calls[name, "forward+backward"] = call_of(jax.jit(jax.grad(total, argnums=(0, 1, 2, 3))))
    return calls


class Attention(keras.layers.Layer):
    """A contestant's attention between projections, over (batch, n, channels)."""

    def __init__(self, contestant: str):
        super().__init__()
        self.contestant = contestant
        self.position_bias = DecayBias(HEADS, radius=16, num_terms=2)
        self.projections = [keras.layers.EinsumDense("bnc,chd->bnhd", (None, HEADS, WIDTH)) for _ in range(3)]
        self.output_dense = keras.layers.EinsumDense("bnhd,hdc->bnc", (None, HEADS * WIDTH))

    def call(self, x):
        query, key, value = (each(x) for each in self.projections)
        y = attend(self.contestant, self.position_bias, query, key, value)
        return self.output_dense(ops.cast(y, self.compute_dtype))


def step_call(name: str, n: int, batch: int, dtype: str, layers: int):
    """Return a call of one training step: Keras' own, compiled, with nothing of the trainer around it."""
    keras.config.set_dtype_policy("mixed_bfloat16" if dtype == "bfloat16" else dtype)
    keras.utils.set_random_seed(0)
    channels = HEADS * WIDTH
    ids = keras.Input((n,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, channels)(ids)
    for _ in range(layers):
        x += Attention(name)(keras.layers.LayerNormalization()(x))
        y = keras.layers.Dense(4 * channels, activation="gelu")(keras.layers.LayerNormalization()(x))
        x += keras.layers.Dense(channels)(y)
    x = keras.layers.Dense(VOCABULARY, dtype="float32")(keras.layers.LayerNormalization()(x))
    model = keras.Model(ids, x)
    model.compile(keras.optimizers.AdamW(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (batch, n), "int32"))
    model._symbolic_build(data_batch=(tokens, tokens))  # What `fit` does before its first step.
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    step = jax.jit(model.train_step, donate_argnums=0)
    # A copy: the step takes its memory.
    state = [jax.tree.map(jnp.copy, tuple([variable.value for variable in group] for group in groups))]

    def call():
        _, state[0] = jax.block_until_ready(step(state[0], (tokens, tokens)))

    return call


def measure(calls: dict, rounds: int, seconds: float, **case) -> list[dict]:
    """Time calls in turn; return a row for each, one that says why for what does not run."""
    results = {}
    for name, call in list(calls.items()):
        try:
            call()
        except (RuntimeError, ValueError, NotImplementedError) as error:  # Out of memory, or no kernel for it.
            results[name] = {"error": str(error).splitlines()[0][:200]}
            del calls[name]
    # The CPU waits meanwhile: its time says nothing.
    wall = ("ms", "ms_min", "ms_max", "rounds")
    for name, result in time_in_turns({key: (call, 1) for key, call in calls.items()}, rounds, seconds).items():
        results[name] = {key: result[key] for key in wall}
    rows = [{"contestant": name, "kind": kind, **case, **result} for (name, kind), result in results.items()]
    for row in rows:
        print(*(f"{key}={value}" for key, value in row.items()), flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write gpu_attention.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="build/bench", help="the folder to write (default: build/bench)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes that prove nothing, on any device")
    parser.add_argument("--rounds", type=int, default=7, help="timings of each call (default: 7)")
    options = parser.parse_args(arguments)
    on_gpu = jax.default_backend() == "gpu"
    if not options.quick and not on_gpu:
        parser.error(f"a GPU is needed for these sizes, --quick has tiny ones. Received: {jax.devices()}")
    sizes = QUICK_SIZES if options.quick else SIZES
    turns, rows = {"rounds": options.rounds, "seconds": 0.01 if options.quick else 0.2}, []
    for n in sizes["lengths"]:
        for dtype in sizes["dtypes"]:
            names = [OURS, WITH_BIAS, PLAIN, *([CUDNN] if on_gpu and dtype == "bfloat16" else [])]
            case = {"n": n, "batch": sizes["tokens"] // n, "dtype": dtype}
            rows += measure(attention_calls(names, **case), **turns, **case)
            steps = {(name, "training step"): step_call(name, layers=sizes["layers"], **case) for name in names}
            rows += measure(steps, **turns, **case)
            keras.utils.clear_session()
    about = {"devices": [str(each.device_kind) for each in jax.devices()], "jax": jax.__version__}
    path = Path(make_directory(options.output)) / "gpu_attention.json"
    write_json(path, {"about": about, "quick": options.quick, "rounds": options.rounds, "rows": rows})
    print(path, flush=True)


if __name__ == "__main__":
    main()
