"""What docs/tpu.md says: the TPU compiler takes the training step, without a TPU."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT, KEPT = ROOT / "benchmarks" / "tpu_compile.py", ROOT / "docs" / "figures" / "tpu"

# libtpu has wheels for these alone, and the extra "test" installs it there: on them nothing is skipped.
needs_libtpu = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="libtpu is for Linux on x86-64"
)


def run_python(*arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(SCRIPT.parent)}
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr[-3000:]


@pytest.mark.slow
@needs_libtpu
def test_the_training_step_compiles(tmp_path):
    run_python(SCRIPT, "--quick", "--output", tmp_path)
    content = json.loads((tmp_path / "tpu_compile.json").read_text())
    assert content["quick"]
    assert {row["route"] for row in content["rows"]} == {"banded", "fft"}
    for row in content["rows"]:
        # Weights, AdamW's two moments and a batch at least, and far from what a chip has.
        assert 1e6 < row["bytes"] < 2**30
        assert row["state_bytes"] < row["bytes"]
        assert row["flops"] > 1e8
        # Four chips share a batch: gradients are summed over them.
        assert row["chips"] == 4
        assert row["all_reduces"] > 0
        # A TPU has no float64 but by emulation.
        assert not row["float64"]


# What needs no compiler, in one process: the kept results are published, and a run is killed while it writes.
PUBLISH_AND_KILL = """
import os, pathlib, sys
import tpu_compile

kept, page, killed = sys.argv[1:]
tpu_compile.main(["--output", kept, "--tables-only", "--publish", page])

def several_chips(cases, rows_of, write):
    write({"case": 1}, [])
    os.fsync = lambda descriptor: os._exit(0)
    write({"case": 2}, [])

tpu_compile.several_chips = several_chips
tpu_compile.compile_all(pathlib.Path(killed), quick=True)
sys.exit("not killed")
"""


@pytest.fixture(scope="module")
def published_and_killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tpu")
    page, killed = folder / "tpu.md", folder / "killed.json"
    shutil.copy(ROOT / "docs" / "tpu.md", page)
    run_python("-c", PUBLISH_AND_KILL, KEPT, page, killed)
    return page, killed


def test_the_page_is_what_the_kept_results_give(published_and_killed):
    page, _ = published_and_killed
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "tpu.md").read_text(encoding="utf-8")


def test_a_kill_while_writing_leaves_what_was_kept_before(published_and_killed):
    _, killed = published_and_killed
    assert [row["case"] for row in json.loads(killed.read_text(encoding="utf-8"))["rows"]] == [1]


def test_kept_results_fit_the_chip():
    rows = json.loads((KEPT / "tpu_compile.json").read_text())["rows"]
    memory = {"v5e": 16 * 2**30, "v6e": 32 * 2**30, "v5e:2x4": 16 * 2**30}
    assert rows
    for row in rows:
        assert "refused" in row or (not row["float64"] and row["bytes"] < memory[row["chip"]]), row


@pytest.mark.parametrize("task", ["listops", "text", "image", "pathfinder"])
def test_the_published_batches_of_the_arena_were_compiled(task):
    config = json.loads((SCRIPT.parent / "arena" / f"published_{task}.json").read_text())
    rows = json.loads((KEPT / "tpu_compile.json").read_text())["rows"]
    (row,) = [row for row in rows if row["preset"] == f"arena, {task}"]
    assert row["chips"] * row["rows"] * row["n"] == config["batch_tokens"]
    assert row["all_reduces"] > 0
    assert "refused" not in row
