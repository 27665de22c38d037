"""The benchmarks run, at sizes that prove nothing, and their summary holds what was measured."""

import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from calls import QUICK_TO_COMPILE, QUICK_XLA

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TIMED = (
    "attention",
    "layers",
    "paper_figure",
    "training_step",
    "input_pipeline",
    "packing",
    "on_device",
    "generation",
    "routes",
    "threads",
)
# By script, the number that each of its rows must hold.
NUMBERS = {**dict.fromkeys(TIMED, "ms"), "memory": "peak_mib", "compile_time": "nodes"}
# One process, as it is importing TensorFlow that takes long.
RUN_ALL = """
import importlib, json, sys, traceback

folder, *names = sys.argv[1:]
failures = {}
for name in names:
    try:
        importlib.import_module(name).main(["--quick", "--rounds", "1", "--output", folder])
    except BaseException:
        failures[name] = traceback.format_exc()
print(json.dumps(failures))
"""


# What a run on JAX has beside them.
RUN_ON_JAX = """
import json, sys
import gpu_attention
import _keras_writers, _writers

gpu_attention.main(["--quick", "--rounds", "1", "--output", sys.argv[1]])
print(json.dumps(_keras_writers.time_models(128, [64], _writers.QUICK_SIZES, 1, 0.01)))
"""


def run_python(code, *arguments, folders=(BENCHMARKS,), **environment):
    quick = {**QUICK_XLA, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment = {**os.environ, **quick, **environment}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def quick_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return folder, run_python(RUN_ALL, folder, *NUMBERS)


@pytest.fixture
def summary(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("summary")


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
def test_quick_run(quick_runs, name):
    folder, failures = quick_runs
    assert name not in failures, failures[name]
    number = NUMBERS[name]
    content = json.loads((folder / f"{name}.json").read_text())
    assert content["quick"]
    assert content["about"]["matmul_gflop_per_s"] > 0
    assert content["rows"]
    for row in content["rows"]:
        assert math.isfinite(row[number]), row
        assert row[number] > 0, row


@pytest.mark.slow
def test_summary_of_quick_runs(quick_runs, summary):
    folder, _ = quick_runs
    summary.main(["--output", str(folder)])
    text = (folder / "summary.md").read_text()
    assert "A quick run" in text
    assert "forward: softmax with bias / banded, DecayBias(16, 2), m = 16" in text
    for name in ("attention_speed.png", "litert_speed.png", "paper_figure_1a.png"):
        assert (folder / name).stat().st_size > 10_000


@pytest.mark.slow
def test_quick_run_on_jax(tmp_path):
    rows = run_python(RUN_ON_JAX, tmp_path, KERAS_BACKEND="jax", **QUICK_TO_COMPILE)
    rows += json.loads((tmp_path / "gpu_attention.json").read_text())["rows"]
    kinds = {"decode": 2, "prefill": 2, "forward": 3, "forward+backward": 3, "training step": 3}
    assert {kind: sum(row["kind"] == kind for row in rows) for kind in kinds} == kinds
    assert all(row["ms"] > 0 and row.get("max_error", 0) < 1e-5 for row in rows)


def attention_row(contestant, n, ms, mode="graph", **more):
    row = {"contestant": contestant, "kind": "forward", "mode": mode, "n": n, "m": 16, "bias": "DecayBias(16, 2)"}
    return {**row, "ms": ms, **more}


def write_attention(folder, rows):
    about = {"cpu": "a cpu", "threads": 2, "versions": {"python": "3"}, "matmul_gflop_per_s": 100.0}
    content = {"about": about, "quick": False, "rounds": 7, "rows": rows}
    (folder / "attention.json").write_text(json.dumps(content))


def test_summary_takes_the_better_mode_of_each_side(tmp_path, summary, capsys):
    write_attention(
        tmp_path,
        [
            attention_row("banded", 8192, 10.0),
            attention_row("banded", 8192, 40.0, "xla"),
            attention_row("banded", 16_384, 20.5),
            attention_row("softmax with bias", 8192, 900.0),
            attention_row("softmax with bias, in blocks", 8192, 650.0, "xla"),
            attention_row("linear, no positions", 8192, 5.0),
            attention_row("softmax with bias", 512, 3.0, bias="another"),
        ],
    )
    summary.main(["--output", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert (
        "| forward: softmax with bias / banded, DecayBias(16, 2), m = 16 | 8,192 | 65.0x | at least 60x | ok |" in lines
    )
    linear = "| forward: banded / linear without positions, DecayBias(16, 2), m = 16 | 8,192 | 2.00x | at most 1.5x |"
    assert f"{linear} **missed** |" in lines
    growth = "| forward: banded, n to 2n at worst, DecayBias(16, 2), m = 16 | 8,192 to 16,384 | 2.05x |"
    assert f"{growth} at most 2.1x | ok |" in lines


def test_summary_of_generation(tmp_path, summary):
    def row(contestant, n, ms, mode="swapped", kind="decode", runtime="LiteRT", piece=1, **more):
        row = {"contestant": contestant, "n": n, "kind": kind, "mode": mode, "runtime": runtime, "weights": "float32"}
        return {**row, "piece": piece, "ms": ms, "cpu_ms": ms, "tokens_per_s": 1000 / ms, "peak_mib": 40.0, **more}

    rows = [
        row("ours", 2048, 0.25),
        row("softmax cache", 2048, 2.5),
        row("softmax cache", 2048, 2.0, "in place"),
        row("softmax cache", 2048, 0.02, "in place", kind="prefill", piece=64),
        row("ours", 2048, 0.5, "jit", runtime="JAX"),
        row("softmax cache", 2048, 0.4, "jit", runtime="JAX"),
        *(row("ours", n, 0.25, kind="long text", written_ms=0.3, rss_mib=40.0) for n in (10, 1000)),
        row("ours", 1_000_000, 0.26, kind="long text", written_ms=0.3, rss_mib=42.5),
    ]
    write_attention(tmp_path, rows)
    (tmp_path / "attention.json").rename(tmp_path / "generation.json")
    summary.main(["--output", str(tmp_path)])
    lines = (tmp_path / "summary.md").read_text().splitlines()
    for line in (
        "| a token, LiteRT, float32 weights: softmax cache / ours | 2,048 | 8.00x | at least 7x | ok |",
        "| a token, JAX, float32 weights: softmax cache / ours | 2,048 | 0.80x | - | - |",
        "| LiteRT, ours: a token behind the last / behind token 10 | 1,000,000 | 1.04x | at most 1.1x | ok |",
        "| LiteRT, ours: memory that the process grows by, behind token 1,000 | 1,000,000 | 2.5 MiB | at most 1 MiB | "
        "**missed** |",
        "| n | ours | softmax cache | softmax cache, in place |",
        "| 2,048 | 0.25 | 2.5 | 2.0 |",
        "| n | softmax cache, in place, pieces of 64 |",
        "| 2,048 | 50,000 |",
        "| n | JAX, ours | JAX, softmax cache |",
        "| 1,000,000 | 0.260 | 0.260 | 0.300 | 42.5 |",
    ):
        assert line in lines, line


def test_summary_publishes_the_same_text_twice(tmp_path, summary):
    output, docs = tmp_path / "output", tmp_path / "docs"
    (docs / "figures").mkdir(parents=True)
    output.mkdir()
    write_attention(output, [attention_row("banded", 512, 1.0)])
    (docs / "speed.md").write_text("before\n<!-- speed: begin -->\nold\n<!-- speed: end -->\nafter\n")
    (tmp_path / "README.md").write_text("before\n<!-- speed: begin -->\nold\n<!-- speed: end -->\nafter\n")
    texts = []
    for source in (output, docs / "figures" / "speed"):
        summary.main(["--output", str(source), "--publish", str(docs)])
        texts.append((docs / "speed.md").read_text())
    assert texts[0] == texts[1]
    assert texts[0].startswith("before\n")
    assert texts[0].endswith("after\n")
    assert "old" not in texts[0]
    table = "| n | ours |.*\n| --- .*\n| 512 | 1.0 |  |  |  |  |  |\n".replace("|", r"\|")
    pattern = f"before\n<!-- speed: begin -->\n{table}<!-- speed: end -->\nafter\n"
    assert re.fullmatch(pattern, (tmp_path / "README.md").read_text())


def test_a_page_without_markers_leaves_the_others_as_they_were(tmp_path, summary):
    docs, page = tmp_path / "docs", "before\n<!-- speed: begin -->\nold\n<!-- speed: end -->\nafter\n"
    docs.mkdir()
    write_attention(docs, [attention_row("banded", 512, 1.0)])
    (docs / "speed.md").write_text(page)
    (tmp_path / "README.md").write_text(page.replace("end", "beginning"))
    with pytest.raises(SystemExit, match=r"README\.md must hold <!-- speed: begin --> and <!-- speed: end --> once"):
        summary.main(["--output", str(docs), "--publish", str(docs)])
    assert (docs / "speed.md").read_text() == page


def test_bad_options_fail_early(tmp_path, summary):
    with pytest.raises(SystemExit, match="--output must hold JSON"):
        summary.main(["--output", str(tmp_path)])


def test_pages_are_made_without_keras():
    code = "import json, sys, page, summary; print(json.dumps(sorted(sys.modules)))"
    imported = run_python(code, folders=(BENCHMARKS, BENCHMARKS / "recipes"))
    assert {"page", "summary"} <= set(imported)
    assert not {"jax", "keras", "krpe_tf", "tensorflow"} & set(imported)


def test_speed_page_is_what_the_kept_results_give(tmp_path, summary):
    kept, docs = BENCHMARKS.parent / "docs", tmp_path / "docs"
    shutil.copytree(kept / "figures" / "speed", docs / "figures" / "speed")
    for path in (kept / "speed.md", BENCHMARKS.parent / "README.md"):
        shutil.copy(path, docs if path.parent == kept else tmp_path)
    summary.main(["--output", str(docs / "figures" / "speed"), "--publish", str(docs)])
    assert (docs / "speed.md").read_text() == (kept / "speed.md").read_text()
    assert (tmp_path / "README.md").read_text() == (BENCHMARKS.parent / "README.md").read_text()


@pytest.fixture(scope="module")
def distillation():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("distillation")
    sys.path.remove(str(BENCHMARKS))


def test_distillation_page_is_what_the_kept_results_give(distillation):
    docs = BENCHMARKS.parent / "docs"
    page = (docs / "distillation.md").read_text(encoding="utf-8")
    table = distillation.tables(distillation.read_results(docs / "figures" / "distillation"))
    assert f"<!-- distillation: begin -->\n{table}<!-- distillation: end -->" in page


def test_agreement_counts_neighbours(distillation):
    random = np.random.default_rng(0)
    theirs, ours = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in random.normal(size=(2, 40, 6)))
    assert distillation.agreement(theirs, theirs) == {"cosine": 1, "nearest": 1, "nearest_ten": 1}
    assert distillation.agreement(theirs, -theirs)["cosine"] == -1
    found = distillation.agreement(theirs, ours)
    nearest = [np.argsort(-(x @ x.T - 3 * np.eye(40)), axis=1)[:, :10] for x in (theirs, ours)]
    assert found["nearest"] == pytest.approx(np.mean(nearest[0][:, 0] == nearest[1][:, 0]), abs=1e-4)
    assert found["nearest_ten"] == pytest.approx(
        np.mean([np.isin(a, b).mean() for a, b in zip(*nearest, strict=True)]), abs=1e-4
    )
    assert found["nearest_ten"] < 0.5
