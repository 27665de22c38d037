"""LiteRT files, ours against their peers: one attention, and an encoder of 4 layers.

    python benchmarks/on_device.py --output build/bench

Every file holds builtin operations alone and runs on LiteRT's interpreter in a process of its own, once with one thread
and once with two; the processes of one length take turns. "attention": from projected query, key and value, 4 heads of
64; "encoder": token ids in, 4 layers of 256, with the signatures of `krpe_tf.export`.
"""

# Not named after LiteRT: a module of that name here would stand before the one that TensorFlow 2.21 imports.
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf
from _contestants import BIASES, HEADS, WIDTH, kernelized, softmax
from _measure import SLOW_ROUNDS, SLOW_SECONDS, command_line, print_row, spread, write_results

from krpe_tf.export.inspection import drop_names, inspect
from krpe_tf.export.measuring import Worker
from krpe_tf.export.trace import litert_functions, save_functions
from krpe_tf.models import Encoder

FEATURES = 16
LENGTHS = (512, 1024, 2048, 4096, 8192, 16_384)
ENCODER = {"vocabulary_size": 8192, "num_layers": 4, "num_heads": HEADS, "hidden_dim": 256, "intermediate_dim": 1024}
# The longest n of those that hold all scores at once: at 16,384 they would be 4 GiB.
LONGEST = {"softmax": 8192, "MultiHeadAttention": 8192}


def attention_files(n: int, folder: Path) -> dict[str, Path]:
    """Write a file for each contestant of one attention that is measured at this length."""
    bias = BIASES["DecayBias(16, 2)"](HEADS)
    functions = {
        "banded": kernelized(bias, FEATURES, "banded"),
        "linear, no positions": kernelized(None, FEATURES, "banded"),
        "softmax": softmax(),
    }
    specs = [tf.TensorSpec((1, HEADS, n, WIDTH), name=name) for name in ("query", "key", "value")]
    files = {}
    for name, function in functions.items():
        if n <= LONGEST.get(name, n):
            traced = tf.function(_with_named_output(function), autograph=False).get_concrete_function(*specs)
            files[name] = write_file({"call": traced}, folder / f"{name}_{n}.tflite")
    return files


def _with_named_output(function):
    return lambda query, key, value: {"output": function(query, key, value)}


def encoder_files(n: int, folder: Path) -> dict[str, Path]:
    """Write a file for each encoder that is measured at this length."""
    makers = {
        "banded": lambda: Encoder(**ENCODER, num_features=FEATURES, route="banded", seed=0),
        "softmax twin": lambda: Encoder(**ENCODER, num_features=FEATURES, feature_map="softmax", seed=0),
        "MultiHeadAttention": multi_head_encoder,
    }
    files = {}
    for name, make in makers.items():
        if n > LONGEST.get(name, n):
            continue
        encoder = make()
        files[name] = write_file(litert_functions(encoder, (n,), None), folder / f"{name}_{n}.tflite")
    return files


def multi_head_encoder() -> keras.Model:
    """Return the encoder with `keras.layers.MultiHeadAttention`, and so without positions."""
    ids, mask = (keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask"))
    width = ENCODER["hidden_dim"]
    x = keras.layers.Embedding(ENCODER["vocabulary_size"], width)(ids)
    for _ in range(ENCODER["num_layers"]):
        y = keras.layers.LayerNormalization()(x)
        x += keras.layers.MultiHeadAttention(HEADS, width // HEADS)(y, y, attention_mask=mask[:, None, :])
        y = keras.layers.LayerNormalization()(x)
        y = keras.layers.Dense(ENCODER["intermediate_dim"], activation="gelu")(y)
        x += keras.layers.Dense(width)(y)
    return keras.Model({"token_ids": ids, "padding_mask": mask}, keras.layers.LayerNormalization()(x))


def write_file(functions: dict, path: Path) -> Path:
    """Convert signatures to a file that holds builtin operations alone; the converter refuses what needs others.

    Not by `export_tflite`, which refuses the twin's tensors of rank 5 and compares each file with Keras.
    """
    save_functions(functions, path.with_suffix(""))
    converter = tf.lite.TFLiteConverter.from_saved_model(str(path.with_suffix("")), signature_keys=list(functions))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    path.write_bytes(drop_names(converter.convert()))
    return path


def measure(model: str, n: int, threads, rounds: int) -> list[dict]:
    """Measure one model and length: a row for each contestant and number of threads."""
    make, signature = {"attention": (attention_files, "call"), "encoder": (encoder_files, f"ids_{n}")}[model]
    rows = []
    with tempfile.TemporaryDirectory(prefix="krpe_tf_bench_") as folder:
        files = make(n, Path(folder))
        workers = {(name, t): Worker(path, signature, t) for name, path in files.items() for t in threads}
        taken = {key: [] for key in workers}
        # Loading and the first run are not counted; the second says how many rounds there is time for.
        warm = {key: worker.ask() and worker.ask() for key, worker in workers.items()}
        for turn in range(rounds):
            for key, worker in workers.items():
                slow = (warm[key] or 0) > 1000 * SLOW_SECONDS
                if warm[key] is not None and not (slow and turn >= SLOW_ROUNDS):
                    taken[key].append(worker.ask())
        for (name, t), worker in workers.items():
            row = {"model": model, "contestant": name, "n": n, "threads": t}
            try:
                peak = worker.finish()
                row |= {**spread(taken[name, t]), "peak_mib": None if peak is None else round(peak, 1)}
            except RuntimeError:
                row["error"] = f"exit status {worker.process.returncode}"
            contents = inspect(files[name].read_bytes())
            row |= {"bytes": files[name].stat().st_size, "recomputed": sum(contents.recomputed.values())}
            rows.append(row)
            print_row(row, "model", "n", "contestant", "threads")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write on_device.json."""
    options = command_line(__doc__, arguments)
    rows = []
    for model in ("attention", "encoder"):
        for n in (128,) if options.quick else LENGTHS:
            rows += measure(model, n, (1,) if options.quick else (1, 2), options.rounds)
    write_results(options, "on_device", rows, features=FEATURES, encoder=ENCODER)


if __name__ == "__main__":
    main()
