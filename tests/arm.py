"""Runs exported files on an emulated 64-bit ARM beside this machine and the Keras model: `make test-arm`.

Needs Debian on x86-64 (`apt-get`, `dpkg-deb`, `tar`), its mirror and PyPI; not root, and nothing outside build/arm
changes. The first run unpacks there, 190 MB: QEMU, Debian's arm64 Python, and the aarch64 wheels of numpy and of the
ai-edge-litert that this environment has.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from export_models import make_classifier, make_encoder, make_ids

from krpe_tf.export import export_tflite

FOLDER = Path(__file__).parent.parent / "build" / "arm"
ROOT, WHEELS, QEMU = FOLDER / "root", FOLDER / "wheels", FOLDER / "qemu"
PACKAGES = ["python3:arm64", "libstdc++6:arm64", "qemu-user-static:amd64"]
# Part number and features in /proc/cpuinfo, by which LiteRT picks its kernels: a Raspberry Pi 4; a Pi 5, which has dot
# products and half precision; matrix products of int8 and SVE. None has SME: QEMU 7.2 gives wrong int8 results with it,
# QEMU 10 right ones.
BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
DOT = f"{BASE} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
PROCESSORS = {
    "cortex-a72": ("0xd08", BASE),
    "cortex-a76": ("0xd0b", DOT),
    "max,sme=off": ("0xd47", f"{DOT} sve sve2 svei8mm i8mm bf16"),
}
CPUINFO = "processor\t: {}\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {}\n\n"
LENGTHS = (64, 600)
# Differences are over the largest output. float16 weights are widened before they meet anything. int8 layers round
# their activations at run time: where all fall alike an output is as near as in float32, where one falls otherwise it
# moved by up to 2e-2 (400 documents, two sets of kernels, both on x86-64). So one document is near, all are within:
NEAR = 1e-5
FARTHEST = {None: NEAR, "float16": NEAR, "int8": 5e-2}
RUN = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter

answer, inputs, *files = sys.argv[1:]
outputs = {}
for file in files:
    interpreter = Interpreter(model_path=file, num_threads=1)
    for length, calls in json.load(open(inputs)).items():
        run = interpreter.get_signature_runner(f"ids_{length}")
        for index, call in enumerate(calls):
            output = run(**{name: np.array(value, np.int32) for name, value in call.items()})["output"]
            outputs[f"{file}/{length}/{index}"] = output
np.savez(answer, **outputs)
"""


def set_up() -> None:
    """Unpacks into build/arm what runs LiteRT on the emulated ARM; what a run before left there is used again."""
    wanted = f"ai-edge-litert {version('ai-edge-litert')}"
    installed = FOLDER / "installed"
    if installed.exists() and installed.read_text() == wanted:
        return
    missing = [name for name in ("apt-get", "dpkg-deb", "tar") if shutil.which(name) is None]
    if platform.system() != "Linux" or platform.machine() != "x86_64" or missing:
        raise SystemExit(
            "make test-arm needs Debian on x86-64: its apt-get finds QEMU and an arm64 Python. Here: "
            f"{platform.system()} on {platform.machine()}, without {', '.join(missing) or 'nothing it needs'}."
        )
    shutil.rmtree(FOLDER, ignore_errors=True)
    archives = FOLDER / "apt" / "cache" / "archives"
    for folder in (ROOT, QEMU, archives / "partial", FOLDER / "apt" / "lists" / "partial"):
        folder.mkdir(parents=True)
    # apt with lists and a state of its own: it knows both architectures and that nothing is installed.
    (FOLDER / "apt" / "status").touch()
    options = {
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64,arm64",
        "APT::Sandbox::User": "root",
        "Dir::State": FOLDER / "apt",
        "Dir::State::Lists": FOLDER / "apt" / "lists",
        "Dir::State::status": FOLDER / "apt" / "status",
        "Dir::Cache": FOLDER / "apt" / "cache",
    }
    apt = ["apt-get", "--quiet", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    command([*apt, "update"], "apt-get must reach a Debian mirror")
    command(
        [*apt, "install", "--download-only", "--no-install-recommends", "--yes", *PACKAGES],
        "apt's sources must offer arm64 beside amd64, as Debian's mirrors do (Ubuntu keeps arm64 elsewhere)",
    )
    for package in archives.glob("*_arm64.deb"):
        command(["dpkg-deb", "--extract", package, ROOT])
    if not (ROOT / "lib").exists():  # from Debian 13 on all of it lies under usr
        (ROOT / "lib").symlink_to("usr/lib")
    for package in archives.glob("qemu-user*_amd64.deb"):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as content:
            pattern = "./usr/bin/qemu-aarch64*"
            subprocess.run(["tar", "-x", "-C", QEMU, "--wildcards", pattern], stdin=content.stdout, check=False)
    shutil.rmtree(FOLDER / "apt")
    found = command([*emulated("cortex-a72"), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    # manylinux_2_36: the wheels' C library is at most Debian 12's.
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 37)]
    command(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", f"--target={WHEELS}"),
            *("--only-binary=:all:", "--implementation=cp", f"--python-version={found.strip()}", *platforms),
            *(wanted.replace(" ", "=="), "numpy"),
        ],
        "pip must reach PyPI, and it must have the wheels",
    )
    installed.write_text(wanted)


def command(arguments: list, rule: str | None = None) -> str:
    """What a command prints; ends the script with its errors, and with what it needs, if it fails."""
    done = subprocess.run([str(part) for part in arguments], capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"{done.stderr[-2000:]}\n{arguments[0]} failed{f': {rule}' if rule else ''}.")
    return done.stdout


def emulated(processor: str) -> list:
    """The command of the arm64 Python on this processor, whose /proc/cpuinfo it writes."""
    part, features = PROCESSORS[processor]
    # QEMU looks a path up under its prefix first, so LiteRT reads this one.
    (ROOT / "proc").mkdir(exist_ok=True)
    (ROOT / "proc" / "cpuinfo").write_text("".join(CPUINFO.format(i, features, part) for i in range(os.cpu_count())))
    qemu = next((QEMU / "usr" / "bin").glob("qemu-aarch64-static"), QEMU / "usr" / "bin" / "qemu-aarch64")
    return [qemu, "-cpu", processor, "-L", ROOT, "-E", f"PYTHONPATH={WHEELS}", ROOT / "usr" / "bin" / "python3"]


def export_files(folder: str, models: dict) -> dict:
    """The file of every model with every kind of weights."""
    files = {
        (name, weights): os.path.join(folder, f"{name}_{weights}.tflite") for name in models for weights in FARTHEST
    }
    for (name, weights), file in files.items():
        export_tflite(models[name], file, lengths=LENGTHS, quantization=weights, measure=False)
    return files


def run(folder: str, files: list, samples: dict, processor: str | None) -> dict:
    """Every file's outputs for every length, on this processor; None: on this machine."""
    inputs, answer = Path(folder) / "inputs.json", Path(folder) / f"{processor}.npz"
    inputs.write_text(
        json.dumps({n: [{k: v.tolist() for k, v in call.items()} for call in samples[n]] for n in samples})
    )
    python = emulated(processor) if processor else [sys.executable, "-P"]
    command([*python, "-c", RUN, answer, inputs, *files], f"LiteRT on {processor or 'this machine'}")
    with np.load(answer) as outputs:
        return {
            (file, n): [outputs[f"{file}/{n}/{i}"] for i in range(len(samples[n]))] for file in files for n in samples
        }


def main() -> int:
    """Exports, runs here and on each processor, prints the differences; returns how many are too large."""
    start = time.monotonic()
    set_up()
    print(f"ai-edge-litert {version('ai-edge-litert')}, set up in {time.monotonic() - start:.0f} s")
    samples = {n: [make_ids(1, n, [count], seed=count) for count in (1, 2, 3, n // 2, n)] for n in LENGTHS}
    models = {"classifier": make_classifier(route="banded"), "encoder": make_encoder(route="banded")}
    with tempfile.TemporaryDirectory(prefix="krpe_tf_arm_") as folder:
        files = export_files(folder, models)
        here, *there = (run(folder, list(files.values()), samples, each) for each in (None, *PROCESSORS))
    failed = 0
    print(f"{'':39}{'to Keras':>10}{'to x86-64':>20}")
    print(f"{'model':11}{'weights':8}{'length':>7}  {'processor':11}{'farthest':>10}{'nearest':>10}{'farthest':>10}")
    for (name, weights), file in files.items():
        for n, calls in samples.items():
            # Padded positions of an encoder hold nothing.
            valid = [call["padding_mask"][0] > 0 if name == "encoder" else slice(None) for call in calls]
            keras = [np.asarray(models[name](call)) for call in calls]
            for processor, outputs in zip(PROCESSORS, there, strict=True):
                to_keras = max(differences(outputs[file, n], keras, valid))
                to_here = differences(outputs[file, n], here[file, n], valid)
                nearest, farthest = min(to_here), max(to_here)
                same = nearest <= NEAR and farthest <= FARTHEST[weights] and (weights is not None or to_keras <= NEAR)
                failed += not same
                row = f"{name:11}{weights or 'float32':8}{n:7}  {processor:11}"
                row += f"{to_keras:10.1e}{nearest:10.1e}{farthest:10.1e}"
                print(row if same else f"{row}  DIFFERS")
    print(f"{failed} differ, {time.monotonic() - start:.0f} s")
    return failed


def differences(results: list, expected: list, valid: list) -> list[float]:
    """Each document's largest difference over its largest output; infinite where anything is not finite."""
    pairs = [(a[:, at], b[:, at]) for a, b, at in zip(results, expected, valid, strict=True)]
    errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in pairs]
    return [float(error) if np.isfinite(error) else float("inf") for error in errors]


if __name__ == "__main__":
    sys.exit(main() > 0)
