"""A .tflite file in a process of its own, for `on_device.py`: `python _litert_worker.py PATH SIGNATURE THREADS`.

A script, never imported: it must hold nothing but the interpreter. For every line it reads it runs the file once and
prints the milliseconds; at the end of its input it prints the peak memory in MiB.
"""

import sys
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main(path: str, signature: str, threads: str) -> None:
    """Runs the file as often as it is asked to."""
    interpreter = Interpreter(model_path=path, num_threads=int(threads))
    run = interpreter.get_signature_runner(signature)
    rng, inputs = np.random.default_rng(0), {}
    for name, details in run.get_input_details().items():
        shape, dtype = details["shape"], details["dtype"]
        # Ids and padding masks are integers, and a one is both.
        inputs[name] = rng.standard_normal(shape).astype(dtype) if dtype == np.float32 else np.ones(shape, dtype)
    for _ in sys.stdin:
        start = time.perf_counter()
        output = run(**inputs)
        print(1000 * (time.perf_counter() - start), flush=True)
    if not all(np.isfinite(value).all() for value in output.values()):
        raise ValueError(f"the output of {Path(path).name} must be finite")
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    print(next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
