"""Writing text: a token's time, a prompt's, and memory, beside a softmax twin that decodes from a cache of fixed size.

    python benchmarks/generation.py --output build/bench

2 layers of 256, a vocabulary of 4,096. LiteRT: one thread, `LiteRTGenerator`, in a process without TensorFlow, weights
in float32 and int8; the twin's cache is written in place or, as our state, into a second buffer. TensorFlow with XLA,
and JAX, which is left out where it is not installed and from a quick run, each in a process of its own on all cores:
`generate`, one compiled loop. The twin has LiteRT's convention: a cache as long as the context, into which each token
is written, and a mask over all of it; it has no position bias, which would add to its time. Each is compared with the
parallel form of its own model. All that is timed at one context in one runtime takes turns.

The long text: ours writes 1,000,000 tokens in LiteRT, and what comes behind token 10, 1,000, 100,000 and 1,000,000 is
timed in turn.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from _keras_writers import TASKS
from _measure import command_line, print_row, write_results
from _writers import OURS, QUICK_SIZES, SIZES, SOFTMAX, CachedWriter, make_model

from krpe_tf.export.convert import convert
from krpe_tf.export.generator_trace import generator_functions
from krpe_tf.export.inspection import drop_names
from krpe_tf.export.quantization import quantize

LENGTHS = (128, 512, 2048, 8192, 32_768)
PIECES = {"LiteRT": (64, 256), "TensorFlow": (256, 1024), "JAX": (256, 1024)}
LONG_TEXT = (10, 1000, 100_000, 1_000_000)
# Tokens of the text that files and the parallel form are compared on.
CHECKED = 300
TOLERANCES = {"float32": 1e-5, "int8": 1e-1}
CASE = ("contestant", "mode", "weights", "n")
LITERT, BACKEND = "_litert_writers.py", "_keras_writers.py"


def twin_functions(writer: CachedWriter, prefill: Sequence[int]) -> dict:
    """Trace the twin's signatures, with the names of `export_generator`."""
    encoder = writer.encoder
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


def write_files(name: str, model, functions: dict, modes: Sequence[str], folder: Path) -> list[dict]:
    """Convert signatures as `export_generator` does; return contestants, for each kind of weights and each mode."""
    content, files = convert(functions, folder), []
    for weights in TOLERANCES:
        path = folder / f"{name}_{weights}.tflite"
        quantized = content if weights == "float32" else quantize(content, weights, model, "decode", [])
        path.write_bytes(drop_names(quantized))
        files += [{"contestant": name, "mode": mode, "weights": weights, "path": str(path)} for mode in modes]
    return files


def ask(script: str, requests: Sequence[tuple[str, dict]], backend: str, quick: bool) -> list:
    """Return what a script answers to requests, (task, arguments) of each, every one in a process of its own.

    All together have one for a quick run: memory then proves nothing.
    """
    if not quick and len(requests) > 1:
        return [answer for request in requests for answer in ask(script, [request], backend, quick)]
    command = [sys.executable, str(Path(__file__).parent / script), json.dumps(requests)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if process.returncode:
        raise RuntimeError(f"{script} failed ({process.returncode}): {process.stderr[-2000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def measure_litert(lengths: Sequence[int], quick: bool, **turns) -> list[dict]:
    """Return the rows of LiteRT."""
    sizes, marks = (QUICK_SIZES, (5, 10)) if quick else (SIZES, LONG_TEXT)
    pieces = PIECES["LiteRT"][: 1 if quick else None]
    models, rows = {name: make_model(name, sizes) for name in (OURS, SOFTMAX)}, []
    with tempfile.TemporaryDirectory(prefix="krpe_tf_bench_") as folder:
        folder = Path(folder)
        ours = write_files(OURS, models[OURS], generator_functions(models[OURS], pieces), ["swapped"], folder)
        for n in lengths:
            functions = twin_functions(CachedWriter(models[SOFTMAX], n), [size for size in pieces if size < n])
            twins = write_files(SOFTMAX, models[SOFTMAX], functions, ["in place", "swapped"], folder)
            # An app takes the smaller file for its memory, and the cache in place: one int8 twin is enough.
            files = [*ours, *(each for each in twins if (each["weights"], each["mode"]) != ("int8", "swapped"))]
            ids = np.random.default_rng(0).integers(1, sizes["vocabulary_size"], (1, min(n, CHECKED)))
            inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
            expected = {name: np.asarray(model(inputs))[0] for name, model in models.items()}
            np.savez(folder / "check.npz", ids=ids[0], **expected)
            request = {"contestants": files, "n": n, "check": str(folder / "check.npz"), **turns}
            requests = [("time", request), *(("peak", {"path": x["path"], "mode": x["mode"], "n": n}) for x in files)]
            times, *peaks = ask(LITERT, requests, "", quick)
            rows += report("LiteRT", times, [{**_case(x), "n": n, **y} for x, y in zip(files, peaks, strict=True)])
        (long_text,) = ask(LITERT, [("long", {"path": ours[0]["path"], "marks": marks, **turns})], "", quick)
    for row in long_text:
        rows.append({"runtime": "LiteRT", **_case(ours[0]), "kind": "long text", "piece": 1, **row})
        print_row(rows[-1], "runtime", "n", "kind", "rss_mib")
    return rows


def _case(contestant: dict) -> dict:
    return {name: contestant[name] for name in CASE[:3]}


def measure_backend(runtime: str, lengths: Sequence[int], quick: bool, **turns) -> list[dict]:
    """Return the rows of a backend of Keras; a quick run measures in this process, on TensorFlow."""
    rows, sizes, pieces = [], QUICK_SIZES if quick else SIZES, PIECES[runtime]
    for n in lengths:
        request = {"n": n, "pieces": sorted({min(size, n // 2) for size in pieces}), **turns}
        requests = [("time", {**request, "sizes": sizes})]
        requests += [("peak", {"name": name, "n": n, "sizes": sizes}) for name in (OURS, SOFTMAX)]
        if quick:
            times, *peaks = [TASKS[task](**arguments) for task, arguments in requests]
        else:
            times, *peaks = ask(BACKEND, requests, runtime.lower(), quick)
        rows += report(runtime, times, [{"contestant": x, **y} for x, y in zip((OURS, SOFTMAX), peaks, strict=True)])
    return rows


def report(runtime: str, rows: list[dict], peaks: list[dict]) -> list[dict]:
    """Print rows and return them with their runtime, their rates, and the memory that decoding takes.

    Raises:
        RuntimeError: If a model does not write what its parallel form does.
    """
    for row in rows:
        row |= {"runtime": runtime, "tokens_per_s": 1000 / row["ms"]}
        for peak in peaks if row["kind"] == "decode" else ():
            if all(row[name] == peak[name] for name in CASE if name in peak):
                row |= peak
        print_row(row, "runtime", "n", "kind", "contestant", "mode", "weights", "piece", "cpu_ms", "max_error")
        if row["max_error"] > TOLERANCES[row["weights"]]:
            raise RuntimeError(f"{row['contestant']} must agree with its parallel form. Received: {row}")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write generation.json."""
    options = command_line(__doc__, arguments)
    lengths, seconds = ((128,), 0.01) if options.quick else (LENGTHS, 0.2)
    turns = {"rounds": options.rounds, "seconds": seconds}
    rows = measure_litert(lengths, options.quick, **turns)
    for runtime in ("TensorFlow",) if options.quick else ("TensorFlow", "JAX"):
        if importlib.util.find_spec(runtime.lower()) is None:
            print(f'{runtime} is not installed (pip install ".[jax]"): it is left out', flush=True)
        else:
            rows += measure_backend(runtime, lengths, options.quick, **turns)
    sizes = QUICK_SIZES if options.quick else SIZES
    write_results(options, "generation", rows, sizes=sizes)


if __name__ == "__main__":
    main()
