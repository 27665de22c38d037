"""Compile training steps for TPUs, without one: whether they compile, and what they take.

    python benchmarks/tpu_compile.py --output build/tpu
    python benchmarks/tpu_compile.py --output build/tpu --publish docs/tpu.md
    python benchmarks/tpu_compile.py --output docs/figures/tpu --tables-only --publish docs/tpu.md

The step is the one that `model.fit` compiles on JAX (forward, backward, AdamW, metrics), in mixed_bfloat16: of masked
LM with logits at the masked positions, of causal LM in the paper's setting, recipes/paper_causal_lm.json, and of the
Long Range Arena in its published sizes, arena/published_*.json. libtpu compiles it for a described v5e or v6e, and
refuses a program that has an op without an implementation there, or needs more memory than the chip has. Writes
tpu_compile.json into the folder; `--publish` writes its tables between the markers of a page. Nothing runs, so nothing
here is a time on a TPU.
"""

import argparse
import itertools
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

# Before JAX and Keras load: models live on the CPU, and libtpu is not to look for a TPU host on the network.
os.environ.update(KERAS_BACKEND="jax", JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost")
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # Nothing is loaded onto a chip, so there is nothing to lock.

import jax
import keras
import numpy as np
from _pages import replace_marked
from _tables import markdown_table
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from krpe_tf.files import write_json
from krpe_tf.models import CausalLM, Encoder, MaskedLM, TextClassifier
from krpe_tf.runs import load_config
from krpe_tf.text import ByteTokenizer
from krpe_tf.training import compile_masked_lm, compile_model, make_optimizer

GIB = 2**30
# The smallest slice that libtpu describes holds four chips; one chip is one device of it.
CHIPS = {"v5e": ("v5e:2x2", 16), "v6e": ("v6e:2x2", 32)}
PRESETS, ROUTES, LENGTHS = ("small", "base"), ("banded", "fft"), (512, 4096, 16_384)
SELECTED = 0.15
# The least effort to make a program fast: six times less to compile than by default, for a little more memory.
OPTIONS = {"exec_time_optimization_effort": -1.0}
# Tokens of a batch to try first.
PAPER = "paper, causal LM"
START = {"small": 65_536, "base": 8192, PAPER: 16_384}
PAPER_CONFIG = Path(__file__).parent / "recipes" / "paper_causal_lm.json"
# By name: settings, and the number of classes.
ARENA = {
    f"arena, {task}": (Path(__file__).parent / "arena" / f"published_{task}.json", classes)
    for task, classes in (("listops", 10), ("text", 2), ("image", 10), ("pathfinder", 2))
}
# (preset, route, n, topology, rows a device): a batch sharded over several chips, as DataParallel does.
SEVERAL_CHIPS = (
    ("small", "banded", 4096, "v5e:2x4", 4),
    ("base", "banded", 4096, "v5e:2x4", 1),
    (PAPER, "banded", 512, "v5e:2x4", 8),
    # An eighth of the published batch.
    ("arena, listops", "banded", 2002, "v5e:2x4", 4),
    ("arena, text", "banded", 4096, "v5e:2x4", 4),
    ("arena, image", "banded", 1026, "v5e:2x4", 32),
    ("arena, pathfinder", "banded", 1026, "v5e:2x4", 64),
)
# (chip, n, route, preset)
ONE_CHIP = (*itertools.product(CHIPS, LENGTHS, ROUTES, PRESETS), ("v5e", 512, "banded", PAPER))


def make_model(preset: str, route: str, n: int) -> MaskedLM | CausalLM | TextClassifier:
    """Return a compiled model in mixed precision for batches of n tokens, its optimizer and metrics built."""
    options = {"route": route, "length": n, "dtype": "mixed_bfloat16", "seed": 0}
    if preset == PAPER:
        config = json.loads(PAPER_CONFIG.read_text(encoding="utf-8"))
        options.update(config["encoder"], vocabulary_size=config["vocabulary_size"], causal=True)
        model = CausalLM(Encoder.from_preset(config["preset"], **options))
        compile_model(model, make_optimizer(steps=config["steps"], **config["optimizer"]))
    elif preset in ARENA:
        path, classes = ARENA[preset]
        config = load_config(path)
        options.update(config["encoder"], vocabulary_size=ByteTokenizer().vocabulary_size)
        model = TextClassifier(Encoder.from_preset("small", **options), classes, pooling=config["pooling"])
        compile_model(model, make_optimizer(steps=10_000, **config["fine_tune_optimizer"]))
    else:
        model = MaskedLM(Encoder.from_preset(preset, **options), at_positions=True)
        compile_masked_lm(model, make_optimizer(1e-3, steps=1000))
    model._symbolic_build(data_batch=make_batch(model, n, 1))  # What `fit` does before its first step.
    return model


def make_batch(model: MaskedLM | CausalLM | TextClassifier, n: int, rows: int) -> tuple:
    """Return a batch of the model, of zeros: only shapes count."""
    inputs = {name: np.zeros((rows, n), "int32") for name in ("token_ids", "padding_mask")}
    asked = (rows,) if isinstance(model, TextClassifier) else (rows, n)
    if isinstance(model, MaskedLM):
        asked = (rows, math.ceil(SELECTED * n))
        inputs["mask_positions"] = np.zeros(asked, "int32")
    return inputs, np.zeros(asked, "int32"), np.zeros(asked, "float32")


def lower(model: keras.Model, batch: tuple, devices) -> jax.stages.Lowered:
    """Lower the step that Keras' trainer compiles: weights on each device, the rows of the batch split over them."""
    mesh = Mesh(np.array(devices), ("batch",))

    def placed(arrays, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arrays)

    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = placed(tuple([variable.value for variable in group] for group in variables), PartitionSpec())
    shardings = (None, jax.tree.map(lambda x: x.sharding, state))
    step = jax.jit(model.train_step, donate_argnums=0, out_shardings=shardings)
    return step.lower(state, placed(batch, PartitionSpec("batch")))


def compile_step(model: keras.Model, n: int, rows: int, devices) -> dict:
    """Compile one program.

    Returns:
        What it takes, bytes and operations a device; {"refused": why} where it needs more memory than there is.

    Raises:
        jax.errors.JaxRuntimeError: For any other error of the compiler.
    """
    start = time.process_time()
    try:
        compiled = lower(model, make_batch(model, n, rows), devices).compile(OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"refused": str(error).splitlines()[0][:300], "cpu_seconds": round(time.process_time() - start, 1)}
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    text = compiled.as_text()
    return {
        "bytes": held + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        "state_bytes": held,
        "flops": cost["flops"],
        "all_reduces": text.count(" all-reduce(") + text.count(" all-reduce-start("),
        "float64": "f64[" in text,
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def largest_batch(model: keras.Model, n: int, devices, gib: int, rows: int) -> tuple[int, dict, list[dict]]:
    """Search the largest power of two of rows that compiles.

    Twice as many were refused, or would need more than there is if the part that is not weights doubles.

    Args:
        model: A model of `make_model`.
        n: Tokens of a row.
        devices: The devices.
        gib: The memory of each.
        rows: The power of two to start from.

    Returns:
        The rows, what they take, and what every compiled program took. 0 rows, with the refusal, where one row is too
        much.
    """
    results = {}
    while True:
        result = results[rows] = compile_step(model, n, rows, devices)
        print(f"    {rows:5d} rows  {_describe(result)}", flush=True)
        if "refused" not in result:
            twice = 2 * result["bytes"] - result["state_bytes"]
            if 2 * rows in results or twice > gib * GIB:
                return rows, result, list(results.values())
            rows *= 2
        elif rows == 1:
            return 0, result, list(results.values())
        elif rows // 2 in results:
            return rows // 2, results[rows // 2], list(results.values())
        else:
            rows //= 2


def _describe(result: dict) -> str:
    what = result.get("refused") or f"{result['bytes'] / GIB:6.2f} GiB  {result['flops'] / 1e9:10.1f} GFLOP"
    return f"{what}  {result['cpu_seconds']:.0f} s of CPU"


def devices_of(topology: str) -> list:
    """Return the devices of a described slice."""
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def about() -> dict:
    """Describe what compiled."""
    from importlib.metadata import version

    names = ("jax", "jaxlib", "libtpu", "keras", "numpy")
    versions = {"python": platform.python_version(), **{name: version(name) for name in names}}
    return {"versions": versions, "options": OPTIONS}


def one_chip(cases, rows_of, write) -> None:
    """Fill the table of single chips; `rows_of` has the rows of the cases that are done already."""
    started = dict(rows_of)
    for chip, n, route, preset in cases:
        case = {"preset": preset, "route": route, "n": n, "chip": chip}
        if tuple(case.values()) in rows_of:
            continue
        print(*case.values(), flush=True)
        topology, gib = CHIPS[chip]
        # The chip before, with half the memory, tells where to start.
        before = max(started.get((preset, route, n, other), 0) for other in CHIPS)
        start = 2 * before or max(1, START[preset] // n)
        model, devices = make_model(preset, route, n), devices_of(topology)[:1]
        rows, result, programs = largest_batch(model, n, devices, gib, start)
        started[tuple(case.values())] = rows
        write({**case, "rows": rows, **result}, programs)
        keras.utils.clear_session()


def several_chips(cases, rows_of, write) -> None:
    """Fill the table of several chips."""
    for preset, route, n, topology, rows in cases:
        case = {"preset": preset, "route": route, "n": n, "chip": topology}
        if tuple(case.values()) in rows_of:
            continue
        model, devices = make_model(preset, route, n), devices_of(topology)
        print(*case.values(), f"{len(devices)} chips", flush=True)
        result = compile_step(model, n, rows * len(devices), devices)
        print(f"    {rows:5d} rows a chip  {_describe(result)}", flush=True)
        write({**case, "chips": len(devices), "rows": rows, **result}, [result])
        keras.utils.clear_session()


def tables(content: dict) -> str:
    """Return the tables of a page, in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in content["about"]["versions"].items())
    programs = sum(row["programs"] for row in content["rows"])
    seconds = sum(row["cpu_seconds_of_all"] for row in content["rows"])
    text = f"{programs} programs, {seconds / 60:.0f} minutes of CPU to compile; {versions}.\n"
    if content["quick"]:
        text += "\n**A quick run: these numbers prove nothing.**\n"
    order = ["tiny", *PRESETS, PAPER, *ARENA]
    rows = sorted(
        content["rows"],
        key=lambda row: [order.index(row["preset"]), row["route"], row["n"], row["chip"]],
    )
    single = [[*_case(row), row["chip"], *_largest(row)] for row in rows if "chips" not in row]
    several = [[*_case(row), *_shared(row)] for row in rows if "chips" in row]
    case = ["preset", "route", "n"]
    parts = [
        text,
        markdown_table([*case, "chip", "largest batch", "tokens", "GiB", "GFLOP", "GFLOP a row"], single),
        markdown_table([*case, "chips", "rows a chip", "GiB a chip", "GFLOP a chip", "all-reduces"], several),
    ]
    return "\n".join(parts)


def _case(row: dict) -> list[str]:
    return [row["preset"], row["route"], f"{row['n']:,}"]


def _largest(row: dict) -> list[str]:
    """Return the cells of the largest batch that fits a chip."""
    if not row["rows"]:
        return ["none", "", "", "", ""]
    rows, gflop = row["rows"], row["flops"] / 1e9
    return [f"{rows:,}", f"{rows * row['n']:,}", f"{row['bytes'] / GIB:.1f}", f"{gflop:,.0f}", f"{gflop / rows:,.1f}"]


def _shared(row: dict) -> list[str]:
    """Return the cells of a batch that several chips share."""
    size, gflop = f"{row['bytes'] / GIB:.1f}", f"{row['flops'] / 1e9:,.0f}"
    return [f"{row['chip']}, {row['chips']}", str(row["rows"]), size, gflop, str(row["all_reduces"])]


def compile_all(path: Path, quick: bool) -> None:
    """Compile what the file lacks and write it case by case: a full run takes hours, and resumes where it stopped.

    Rows that other versions compiled are dropped.
    """
    content = {"about": about(), "quick": quick, "rows": []}
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if {**found, "rows": []} == content:
            content = found
    rows_of = {tuple(row[name] for name in ("preset", "route", "n", "chip")): row["rows"] for row in content["rows"]}

    def write(row: dict, programs: list[dict]) -> None:
        seconds = round(sum(program["cpu_seconds"] for program in programs), 1)
        content["rows"].append({**row, "programs": len(programs), "cpu_seconds_of_all": seconds})
        write_json(path, content)

    if quick:
        several_chips([("tiny", route, 256, "v5e:2x2", 2) for route in ROUTES], rows_of, write)
        return
    several_chips(SEVERAL_CHIPS, rows_of, write)
    one_chip(ONE_CHIP, rows_of, write)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile, write tpu_compile.json, and publish where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/tpu"), help="the folder (default: build/tpu)")
    parser.add_argument("--quick", action="store_true", help="preset tiny on four v5e, to see that it compiles")
    parser.add_argument("--publish", type=Path, help="a page whose tables are written anew")
    parser.add_argument("--tables-only", action="store_true", help="compile nothing, read what is in the folder")
    options = parser.parse_args(arguments)
    path = options.output / "tpu_compile.json"
    if not options.tables_only:
        options.output.mkdir(parents=True, exist_ok=True)
        compile_all(path, options.quick)
    content = json.loads(path.read_text(encoding="utf-8"))
    print(tables(content))
    if options.publish:
        replace_marked("tpu", {options.publish: tables(content)})


if __name__ == "__main__":
    main()
