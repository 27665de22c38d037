"""Writing text: a token's time, a prompt's, and memory, beside a softmax twin that decodes from a cache of fixed size.

    python benchmarks/generation.py --output build/bench

2 layers of 256, float32. LiteRT: one thread, `LiteRTGenerator`, in a process without TensorFlow; the twin's cache is
written in place or, as ours, into a second buffer. TensorFlow, plain and XLA, and JAX, each in a process of its own:
`generate`, one compiled loop. The twin has LiteRT's convention: a cache as long as the context, into which each token
is written, and a mask over all of it; it has no position bias, which would add to its time. Each is compared with the
parallel form of its own model. All that is timed at one context takes turns.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from _measure import command_line, print_row, write_results
from _writers import OURS, QUICK_SIZES, SIZES, SOFTMAX, CachedWriter, make_model

from krpe_tf.export import export_generator
from krpe_tf.export.convert import convert
from krpe_tf.export.inspection import drop_names

LENGTHS = (128, 512, 2048, 8192, 32_768)
PREFILL = (64, 256)
CHECKED = 300
TOLERANCE = 1e-5
BACKENDS = {"TensorFlow": "tensorflow", "JAX": "jax"}
LONG_TEXT = (1000, 100_000)


def twin_functions(writer: CachedWriter, prefill: Sequence[int]) -> dict:
    """Trace the twin's signatures, with the names of `export_generator`."""
    encoder = writer.model.encoder
    names = [f"layer_{i}_{part}" for i in range(encoder.num_layers) for part in ("keys", "values")]
    names = {f"kv_cache_{name[8]}_{name[6]}": name for name in names}
    state = writer.initial_state(1)

    def trace(length):
        specs = {
            "tokens": tf.TensorSpec((1, length), tf.int32, name="tokens"),
            "input_pos": tf.TensorSpec((length,), tf.int32, name="input_pos"),
            **{name: tf.TensorSpec(state[each].shape, tf.float32, name=name) for name, each in names.items()},
        }

        def call(tokens, input_pos, **cache):
            cache = {"position": input_pos[:1], **{each: cache[name] for name, each in names.items()}}
            x, after = writer.step_vectors(tf.gather(encoder.token_embedding.embeddings, tokens), cache)
            logits = {"logits": encoder.token_embedding(x, reverse=True)} if length == 1 else {}
            return {**logits, **{name: after[each] for name, each in names.items()}}

        return tf.function(call, autograph=False).get_concrete_function(**specs)

    return {**{f"prefill_{length}": trace(length) for length in prefill}, "decode": trace(1)}


def ask(script: str, task: str, backend: str = "tensorflow", **request):
    """Return what a task of a script answers, in a process of its own."""
    command = [sys.executable, str(Path(__file__).parent / script), task, json.dumps(request)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if process.returncode:
        raise RuntimeError(f"{script} {task} failed ({process.returncode}): {process.stderr[-2000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def measure_litert(lengths: Sequence[int], sizes: dict, folder: Path, **turns) -> tuple[list, list, list]:
    """Return the rows of LiteRT: times, memory, and the memory of a long text."""
    models = {name: make_model(name, sizes) for name in (OURS, SOFTMAX)}
    ours, rows, memory = folder / "ours.tflite", [], []
    export_generator(models[OURS], ours, PREFILL, tolerance=TOLERANCE, measure=False)
    for n in lengths:
        writer, twin = CachedWriter(models[SOFTMAX], n), folder / f"softmax_{n}.tflite"
        prefill = [size for size in PREFILL if size <= n]
        twin.write_bytes(drop_names(convert(twin_functions(writer, prefill), folder)))
        files = [(OURS, "swapped", ours), (SOFTMAX, "in place", twin), (SOFTMAX, "swapped", twin)]
        files = [(name, mode, str(path)) for name, mode, path in files]
        ids = np.random.default_rng(0).integers(1, sizes["vocabulary_size"], (1, min(n, CHECKED)))
        inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
        expected = {name: np.asarray(model(inputs))[0] for name, model in models.items()}
        np.savez(folder / "check.npz", ids=ids[0], **expected)
        request = {"contestants": files, "n": n, "check": str(folder / "check.npz"), **turns}
        rows += report("LiteRT", ask("_litert_writers.py", "time", **request))
        for name, mode, path in files:
            found = ask("_litert_writers.py", "peak", path=path, mode=mode, n=n)
            memory.append({"runtime": "LiteRT", "contestant": name, "mode": mode, "n": n, **found})
        twin.unlink()
    lengths = LONG_TEXT if sizes is SIZES else (10, 20)
    return rows, memory, ask("_litert_writers.py", "long", path=str(ours), lengths=lengths)


def measure_backend(runtime: str, lengths: Sequence[int], sizes: dict, **turns) -> tuple[list, list]:
    """Return the rows of a backend of Keras: times, and memory in the faster mode."""
    script, backend, memory = "_keras_writers.py", BACKENDS[runtime], []
    rows = report(runtime, ask(script, "time", backend, lengths=lengths, sizes=sizes, **turns))
    for n in lengths:
        for name in (OURS, SOFTMAX):
            same = [row for row in rows if (row["contestant"], row["n"], row["kind"]) == (name, n, "decode")]
            mode = min(same, key=lambda row: row["ms_min"])["mode"]
            found = ask(script, "peak", backend, name=name, mode=mode, n=n, sizes=sizes)
            memory.append({"runtime": runtime, "contestant": name, "mode": mode, "n": n, **found})
    return rows, memory


def report(runtime: str, rows: list[dict]) -> list[dict]:
    """Print rows and return them with their runtime; raise if a model does not write what its parallel form does."""
    for row in rows:
        row["runtime"] = runtime
        print_row(row, "runtime", "n", "kind", "contestant", "mode", "piece", "ms_min", "cpu_ms", "max_error")
        if row["max_error"] > TOLERANCE:
            raise RuntimeError(f"{row['contestant']} must agree with its parallel form: {row['max_error']}")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write generation.json."""
    options = command_line(__doc__, arguments)
    sizes, lengths = (QUICK_SIZES, (128,)) if options.quick else (SIZES, LENGTHS)
    turns = {"rounds": options.rounds, "seconds": 0.01 if options.quick else 0.2}
    with tempfile.TemporaryDirectory(prefix="krpe_tf_bench_") as folder:
        rows, memory, long_text = measure_litert(lengths, sizes, Path(folder), **turns)
    for runtime in BACKENDS:
        more_rows, more_memory = measure_backend(runtime, lengths, sizes, **turns)
        rows, memory = rows + more_rows, memory + more_memory
    write_results(options, "generation", rows, memory=memory, long_text=long_text, sizes=sizes)


if __name__ == "__main__":
    main()
