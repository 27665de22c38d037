"""Seconds of tracing and of XLA, and sizes of graphs: neither may grow with the length.

    python benchmarks/compile_time.py --output build/bench

Preset "small" on the banded route: the encoder's forward pass and a masked-LM training step. For every route, the nodes
of one attention's graph. Each is built once, so there is no spread; everything before the first build, such as what
TensorFlow loads when it is first used, is warmed up by a build that is not counted.
"""

import time
from collections.abc import Sequence

import tensorflow as tf
from _contestants import BIASES, HEADS, inputs, kernelized
from _measure import command_line, graph_and_xla, seconds_of, take_turns, write_results
from training_step import make_batch, make_model

# From 4,096 on: where one group of chunks or features is all, the graph is smaller.
LENGTHS = (4096, 16_384)
ROUTE_LENGTHS = (4096, 16_384)


def count_nodes(traced) -> int:
    """Count the nodes of a traced function, those of the functions in it included."""
    graph = traced.graph.as_graph_def()
    return len(graph.node) + sum(len(function.node_def) for function in graph.library.function)


def forward_step(model):
    """Return the encoder's forward pass as a function of a batch."""
    return lambda inputs, labels, weights: model.encoder(
        {name: inputs[name] for name in ("token_ids", "padding_mask")}, training=False
    )


def training_step(model):
    """Return one optimizer step as a function of a batch."""
    model.optimizer.build(model.trainable_variables)

    def step(inputs, labels, weights):
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            loss = model.compute_loss(inputs, labels, logits, weights, training=True)
        variables = model.trainable_variables
        model.optimizer.apply_gradients(
            zip(tape.gradient(loss, [variable.value for variable in variables]), variables, strict=True)
        )
        return loss

    return step


def measure(kind: str, n: int, preset: str) -> dict:
    """Measure seconds to trace, to compile by XLA and to run once compiled, and count the nodes of the graph."""
    model = make_model("banded", jit_compile=True, preset=preset)
    batch = tf.nest.map_structure(tf.constant, make_batch(n, model.encoder.vocabulary_size))
    step = {"forward": forward_step, "training step": training_step}[kind](model)
    function = tf.function(step, jit_compile=True, autograph=False)
    start = time.perf_counter()
    traced = function.get_concrete_function(*batch)
    tracing = time.perf_counter() - start
    first, again = (seconds_of(lambda: function(*batch)) for _ in range(2))
    row = {"kind": kind, "n": n, "trace_s": round(tracing, 2), "xla_s": round(max(0.0, first - again), 2)}
    row |= {"run_s": round(again, 3), "nodes": count_nodes(traced)}
    print("{kind:16s} {n:6d}  trace {trace_s:6.2f} s  XLA {xla_s:6.2f} s  {nodes} nodes".format(**row), flush=True)
    return row


def route_nodes(lengths) -> list[dict]:
    """Count the nodes of one attention's graph, forward and forward with backward, by route and length."""
    rows = []
    for route in ("dense", "fft", "banded"):
        bias = BIASES["DecayBias(16, 2)"](HEADS)
        for n in lengths:
            arguments = inputs(n)
            function = tf.function(kernelized(bias, 16, route), autograph=False)

            def training(*arguments, function=function, bias=bias):
                with tf.GradientTape() as tape:
                    tape.watch(arguments)
                    loss = tf.reduce_sum(function(*arguments))
                return tape.gradient(loss, [*arguments, *(variable.value for variable in bias.trainable_variables)])

            for kind, traced in (("forward", function), ("forward+backward", tf.function(training, autograph=False))):
                nodes = count_nodes(traced.get_concrete_function(*arguments))
                rows.append({"kind": kind, "n": n, "route": route, "nodes": nodes})
                print(f"{route:8s} {kind:18s} {n:6d}  {nodes} nodes", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write compile_time.json."""
    options = command_line(__doc__, arguments)
    take_turns(graph_and_xla(tf.add, inputs(16)[:2]), 1)
    preset, lengths = ("tiny", (64,)) if options.quick else ("small", LENGTHS)
    rows = [measure(kind, n, preset) for kind in ("forward", "training step") for n in lengths]
    rows += route_nodes((128, 256) if options.quick else ROUTE_LENGTHS)
    write_results(options, "compile_time", rows, preset=preset)


if __name__ == "__main__":
    main()
