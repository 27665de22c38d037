"""TensorFlow's training step of masked LM, lowered by TensorFlow and compiled by libtpu for a v5e, without one.

    python benchmarks/tpu_compile_tensorflow.py

What one replica of `tf.distribute.TPUStrategy` would run, but for the sums over replicas: preset tiny, mixed_bfloat16,
2 rows of 256, by both routes. Prints a line of JSON a route. Nothing runs, and TensorFlow's own TPU runtime has no part
in it. `benchmarks/tpu_compile.py` does the same for JAX, which is what to train with on a TPU.
"""

import json
import os
import re

os.environ.update(KERAS_BACKEND="tensorflow", JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1")
os.environ.update(TPU_WORKER_HOSTNAMES="localhost", ALLOW_MULTIPLE_LIBTPU_LOAD="1")

import tensorflow as tf

# Not public: JAX compiles from StableHLO on its own way only. Seen with JAX 0.10.
from jax._src import compiler
from jax._src.interpreters.mlir import make_ir_context
from jax._src.lib import xla_client
from jax.experimental import topologies
from jaxlib import _jax
from jaxlib.mlir import ir

from krpe_tf.models import Encoder, MaskedLM
from krpe_tf.training import compile_masked_lm, make_optimizer

ROWS, LENGTH, MASKED = 2, 256, 38


def lower_step(route: str) -> bytes:
    """The XLA program of the step that `fit` compiles under TensorFlow, as a serialized HLO module."""
    encoder = Encoder.from_preset("tiny", route=route, length=LENGTH, dtype="mixed_bfloat16", seed=0)
    model = MaskedLM(encoder, at_positions=True)
    compile_masked_lm(model, make_optimizer(1e-3, steps=1000))
    inputs = {name: tf.zeros((ROWS, LENGTH), "int32") for name in ("token_ids", "padding_mask")}
    inputs["mask_positions"] = tf.zeros((ROWS, MASKED), "int32")
    batch = inputs, tf.zeros((ROWS, MASKED), "int32"), tf.zeros((ROWS, MASKED))
    model._symbolic_build(data_batch=batch)
    step = tf.function(lambda *batch: model.train_step(batch), jit_compile=True)
    return step.experimental_get_compiler_ir(*batch)(stage="hlo_serialized")


def compile_for_tpu(program: bytes, topology: str) -> dict:
    """Compiles a serialized HLO module for one chip; raises what the compiler raises."""
    text = _jax.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(program))
    # StableHLO has no copy: the barrier is another op that changes nothing.
    text, copies = re.subn(r"(%\S+) = mhlo\.copy (%\S+)", r"\1 = stablehlo.optimization_barrier \2", text)
    context = make_ir_context()
    with context:
        module = ir.Module.parse(text)
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[:1]
    effort = {"exec_time_optimization_effort": -1.0}
    options = compiler.get_compile_options(num_replicas=1, num_partitions=1, env_options_overrides=effort)
    compiled = devices[0].client.compile(module, _jax.DeviceList(tuple(devices)), options)
    memory = compiled.get_compiled_memory_stats()
    return {
        "chip": topology,
        "state_bytes": memory.argument_size_in_bytes,
        "bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        "copies": copies,
        "float64": "f64[" in compiled.hlo_modules()[0].to_string(),
    }


if __name__ == "__main__":
    for route in ("banded", "fft"):
        print(json.dumps({"route": route, **compile_for_tpu(lower_step(route), "v5e:2x2")}), flush=True)
