"""What docs/tpu.md says: the TPU compiler takes the training step, without a TPU."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT, KEPT = ROOT / "benchmarks" / "tpu_compile.py", ROOT / "docs" / "figures" / "tpu"
TENSORFLOW_SCRIPT = SCRIPT.with_name("tpu_compile_tensorflow.py")

# libtpu has wheels for these alone, and the extra "test" installs it there: on them nothing is skipped.
needs_libtpu = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="libtpu is for Linux on x86-64"
)


def run_script(*arguments, script=SCRIPT):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, str(script), *map(str, arguments)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


@pytest.mark.slow
@needs_libtpu
def test_the_training_step_compiles(tmp_path):
    run_script("--quick", "--output", tmp_path)
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


@pytest.mark.slow
@needs_libtpu
def test_the_training_step_of_tensorflow_compiles():
    rows = [json.loads(line) for line in run_script(script=TENSORFLOW_SCRIPT).splitlines()]
    assert [row["route"] for row in rows] == ["banded", "fft"]
    for row in rows:
        # 51,118 weights and AdamW's two moments at least, and far from what a chip has.
        assert 3 * 4 * 51_118 < row["state_bytes"] < row["bytes"] < 2**30
        assert not row["float64"]


def test_the_page_is_what_the_kept_results_give(tmp_path):
    page = tmp_path / "tpu.md"
    page.write_text((ROOT / "docs" / "tpu.md").read_text(encoding="utf-8"), encoding="utf-8")
    run_script("--output", KEPT, "--tables-only", "--publish", page)
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "tpu.md").read_text(encoding="utf-8")


KILLED = """
import os, pathlib, sys
import tpu_compile

def several_chips(cases, rows_of, write):
    write({"case": 1}, [])
    os.fsync = lambda descriptor: sys.exit()
    write({"case": 2}, [])

tpu_compile.several_chips = several_chips
tpu_compile.compile_all(pathlib.Path(sys.argv[1]), quick=True)
"""


def test_a_kill_while_writing_leaves_what_was_kept_before(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(SCRIPT.parent)!r})\n{KILLED}", encoding="utf-8")
    run_script(tmp_path / "kept.json", script=script)
    assert [row["case"] for row in json.loads((tmp_path / "kept.json").read_text())["rows"]] == [1]


def test_kept_results_fit_the_chip():
    rows = json.loads((KEPT / "tpu_compile.json").read_text())["rows"]
    memory = {"v5e": 16 * 2**30, "v6e": 32 * 2**30, "v5e:2x4": 16 * 2**30}
    assert rows
    for row in rows:
        assert "refused" in row or (not row["float64"] and row["bytes"] < memory[row["chip"]]), row
