"""Peak memory of decoding with an exported translator, each case in a process of its own, without TensorFlow.

    python benchmarks/translation_memory.py run/model.tflite --sources 64 8192 --targets 16 8192 --beams 1 5

For every length of a source, number of beams and length of a target: MiB once the file is loaded, the peak while the
source is read, what is held then, and the peak of decoding. A process holds Python, numpy and LiteRT too.
"""

import argparse
import json
import runpy
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from _turns import forget_peak, memory_mib

TRANSLATOR = Path(__file__).parent.parent / "export" / "litert_translator.py"


def run_case(path: str, source: int, beams: int, target: int) -> dict:
    """Read a source and decode a target; for a process of its own."""
    translator = runpy.run_path(str(TRANSLATOR))["LiteRTTranslator"](path)
    found = {"loaded": memory_mib("VmRSS")}
    session = translator.session([5] * source, beams)
    found |= {"reading": memory_mib(), "read": memory_mib("VmRSS")}
    forget_peak()
    start = time.perf_counter()
    for token in range(target):
        session.decode([token % translator.vocabulary_size] * beams)
        session.follow([*range(1, beams), 0])  # As a search does whose beams change places.
    return {**found, "decoding": memory_mib(), "ms": 1000 * (time.perf_counter() - start) / target}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="a file that export_translator wrote")
    for name, default in (("--sources", [64, 8192]), ("--targets", [16, 8192]), ("--beams", [1, 5])):
        parser.add_argument(name, type=int, nargs="+", default=default)
    parser.add_argument("--one-case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one_case is not None:
        print(json.dumps(run_case(options.path, *options.one_case)))
        return
    print("source  beams  target   loaded  reading     read  decoding  ms a token")
    for case in ((s, b, t) for s in options.sources for b in options.beams for t in options.targets):
        command = [sys.executable, __file__, options.path, "--one-case", json.dumps(case)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        sizes = "".join(f"{row[name]:9.1f}" for name in ("loaded", "reading", "read", "decoding"))
        print("{:6d} {:6d} {:7d}".format(*case) + f"{sizes} {row['ms']:11.2f}", flush=True)


if __name__ == "__main__":
    main()
