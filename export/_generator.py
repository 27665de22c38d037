"""Runs an exported language model in a process of its own: `python _generator.py PATH REQUEST ANSWER`.

A script, never imported: it must see nothing of krpe_tf, Keras or the exporting process. REQUEST is JSON: "readings",
as `make_readings` gives them, and "measure". ANSWER, the .npz to write, holds for each reading the logits of what it
decodes. It prints the name of each reading before it runs it, and at last the costs as JSON, or null.
"""

import json
import runpy
import sys
import time
from pathlib import Path

import numpy as np

# Tokens that are decoded to take the time of one, and seconds that each prefill is repeated for.
DECODED, SECONDS = 500, 0.5
GARBAGE = 7.0


def main(path, request, answer):
    """Run every reading on the interpreter, and time the file on LiteRT's CompiledModel, as `LiteRTGenerator` does."""
    request = json.loads(Path(request).read_text(encoding="utf-8"))
    # First: what is compared takes memory of its own.
    costs = measure(path) if request["measure"] else None
    np.savez(answer, **dict(read_all(path, request["readings"])))
    print(json.dumps(costs), flush=True)


def read_all(path, readings):
    """Yield the name of every reading, and the logits behind each token that it decodes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=2)
    runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
    details = runners["decode"].get_input_details()
    shapes = {name: details[name]["shape"] for name in details if name.startswith("kv_cache_")}
    state = None
    for name, reading in readings.items():
        print(name, flush=True)
        if reading["begin"] != "before" or state is None:
            value = GARBAGE if reading["begin"] == "garbage" else 0
            state = {name: np.full(shape, value, np.float32) for name, shape in shapes.items()}
        text, position = np.array(reading["text"], np.int32), 0
        for signature, count in reading["pieces"]:
            size = int(signature.split("_")[1])
            tokens, positions = np.zeros((1, size), np.int32), np.zeros(size, np.int32)
            tokens[0, :count] = text[position : position + count]
            positions[:count] = np.arange(position, position + count)
            state = runners[signature](tokens=tokens, input_pos=positions, **state)
            position += count
        if reading["nothing"]:
            nothing = np.zeros(1, np.int32)
            state = runners["decode"](tokens=nothing[None], input_pos=nothing, **state)
            state.pop("logits")
        rows = []
        for place in range(position, len(text)):
            where = np.array([place], np.int32)
            state = runners["decode"](tokens=text[None, place : place + 1], input_pos=where, **state)
            rows.append(state.pop("logits")[0, 0])
        yield name, np.stack(rows)


def measure(path):
    """Return milliseconds a token, tokens a second and the peak memory."""
    folder = Path(__file__).parent
    generator = runpy.run_path(str(folder / "litert_generator.py"))["LiteRTGenerator"](path)
    ids = np.random.default_rng(0).integers(1, generator.vocabulary_size, DECODED).tolist()
    session, taken = generator.session(), []
    session.read(ids[:1])
    for token in ids:
        start = time.perf_counter()
        session.decode(token)
        taken.append(1000 * (time.perf_counter() - start))
    rates = {}
    for size in generator.prefill:
        session, piece = generator.session(), (ids * (size // DECODED + 1))[:size]
        times, end = [], time.perf_counter() + SECONDS
        while len(times) < 5 or time.perf_counter() < end:
            start = time.perf_counter()
            session.read(piece)
            times.append(time.perf_counter() - start)
        rates[f"prefill_{size}"] = round(size / float(np.median(times[1:])), 1)
    return {
        "decode_milliseconds": round(float(np.median(taken)), 3),
        "decode_fastest": round(min(taken), 3),
        "prefill_tokens": rates,
        "peak_mib": runpy.run_path(str(folder / "_worker.py"))["peak_mib"](),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
