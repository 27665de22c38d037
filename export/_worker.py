"""A .tflite file in a process of its own, for `measuring.py`: a script, never imported, that holds the runtime alone.

- `python _worker.py run PATH SIGNATURE THREADS [LENGTH]`: for every line it reads it runs the signature once and prints
  the milliseconds; at the end of its input it prints the peak memory in MiB, or null where the system does not tell.
  LENGTH stands for free axes.
- `python _worker.py xnnpack PATH...`: prints for each file a line with the ops of the first graph that the XNNPACK
  delegate leaves to the interpreter, {kind: count}.
- `python _worker.py gpu PATH`: prints whether LiteRT's GPU delegate takes every op of the first graph. What it refuses
  the delegate itself says on standard error.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np


def run(path: str, signature: str, threads: str, length: str = "1") -> None:
    """Run the file as often as it is asked to."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=int(threads))
    call = interpreter.get_signature_runner(signature)
    rng, inputs = np.random.default_rng(0), {}
    for name, details in call.get_input_details().items():
        signed, dtype = details["shape_signature"], details["dtype"]
        shape = [int(length) if n < 0 else int(n) for n in (signed if len(signed) else details["shape"])]
        # Ids and padding masks are integers, and a one is both.
        inputs[name] = rng.standard_normal(shape).astype(dtype) if dtype == np.float32 else np.ones(shape, dtype)
    for _ in sys.stdin:
        start = time.perf_counter()
        output = call(**inputs)
        print(1000 * (time.perf_counter() - start), flush=True)
    if not all(np.isfinite(value).all() for value in output.values()):
        raise ValueError(f"the output of {Path(path).name} must be finite")
    print(json.dumps(peak_mib()), flush=True)


def peak_mib() -> float | None:
    """Return the peak memory of this process. Not ru_maxrss: on Linux a child starts with its parent's."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")), None)


def xnnpack(*paths: str) -> None:
    """Print what XNNPACK leaves: unfused, the delegate makes one node for each op that it takes."""
    from ai_edge_litert.interpreter import Interpreter

    for path in paths:
        interpreter = Interpreter(model_path=path, experimental_disable_delegate_node_fusion=True)
        interpreter.allocate_tensors()
        nodes = interpreter._get_ops_details()
        custom = {node["op_name"] for node in nodes if not node["op_name"].isupper()}
        if custom:  # Behind an input of any size LiteRT finds them missing when it runs, not before.
            raise ValueError(f"the file must hold builtin ops alone. Received: {', '.join(sorted(custom))}")
        taken = {int(i) for node in nodes if node["op_name"] == "DELEGATE" for i in node["outputs"]}
        left = [node for node in nodes if node["op_name"] != "DELEGATE" and not taken.issuperset(node["outputs"])]
        print(json.dumps(Counter(node["op_name"] for node in left)))


def gpu(path: str) -> None:
    """Print whether the GPU delegate takes all."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    model = CompiledModel.from_file(path, hardware_accel=HardwareAccelerator.GPU | HardwareAccelerator.CPU)
    print(json.dumps(model.is_fully_accelerated()))


if __name__ == "__main__":
    {"run": run, "xnnpack": xnnpack, "gpu": gpu}[sys.argv[1]](*sys.argv[2:])
