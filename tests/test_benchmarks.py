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

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TIMED = (
    "attention",
    "layers",
    "paper_figure",
    "training_step",
    "input_pipeline",
    "packing",
    "on_device",
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


def run_python(code, *arguments, folders=(BENCHMARKS,)):
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
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
