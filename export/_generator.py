"""Runs an exported generator or translator in a process of its own: `python _generator.py PATH REQUEST ANSWER`.

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
    read = read_sources if "source" in next(iter(request["readings"].values())) else read_all
    np.savez(answer, **dict(read(load(path), request["readings"])))
    print(json.dumps(costs), flush=True)


def load(path):
    """Return the signatures of a file by name."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=2)
    return {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}


def fresh_state(runner, value=0):
    """Return the state of what has read nothing, filled with a value."""
    details = runner.get_input_details()
    names = [name for name in details if name.startswith("kv_cache_")]
    return {name: np.full(details[name]["shape"], value, np.float32) for name in names}


def read_all(runners, readings):
    """Yield the name of every reading, and the logits behind each token that it decodes."""
    state = None
    for name, reading in readings.items():
        print(name, flush=True)
        if reading["begin"] != "before" or state is None:
            state = fresh_state(runners["decode"], GARBAGE if reading["begin"] == "garbage" else 0)
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
            rows.append(state.pop("logits"))
        yield name, np.concatenate(rows, axis=1)


def read_sources(runners, readings):
    """Yield the same of a translator: every reading has a source and its targets, and begins anew."""
    for name, reading in readings.items():
        print(name, flush=True)
        source = {key: np.array(reading[key], np.int32) for key in ("source_ids", "source_mask")}
        cross = runners[reading["source"]](**source)
        decode, targets, rows = runners[reading["decode"]], np.array(reading["targets"], np.int32), []
        state = fresh_state(decode)
        for place in range(targets.shape[1]):
            state = decode(tokens=targets[:, place : place + 1], **cross, **state)
            rows.append(state.pop("logits"))
        yield name, np.concatenate(rows, axis=1)


def measure(path):
    """Return milliseconds a token, tokens a second and the peak memory."""
    folder = Path(__file__).parent
    peak_mib = runpy.run_path(str(folder / "_worker.py"))["peak_mib"]
    try:
        generator = runpy.run_path(str(folder / "litert_generator.py"))["LiteRTGenerator"](path)
    except ValueError:  # A file of the other kind.
        return {**measure_translator(path, folder), "peak_mib": peak_mib()}
    ids = np.random.default_rng(0).integers(1, generator.vocabulary_size, DECODED).tolist()
    session = generator.session()
    session.read(ids[:1])
    taken = [milliseconds(session.decode, token) for token in ids]
    rates = {}
    for size in generator.prefill:
        session, piece = generator.session(), (ids * (size // DECODED + 1))[:size]
        rates[f"prefill_{size}"] = tokens_a_second(size, session.read, piece)
    return {**of_a_token(taken), "prefill_tokens": rates, "peak_mib": peak_mib()}


def measure_translator(path, folder):
    """Return the same of a translator, without the memory: of one translation, and of the sources of all lengths."""
    translator = runpy.run_path(str(folder / "litert_translator.py"))["LiteRTTranslator"](path)
    random = np.random.default_rng(0)
    session = translator.session([1])
    taken = [milliseconds(session.decode, [token]) for token in random.integers(0, translator.vocabulary_size, DECODED)]
    rates = {f"encode_{n}": tokens_a_second(n, translator.session, [1] * n) for n in translator.lengths}
    return {**of_a_token(taken), "prefill_tokens": rates}


def of_a_token(taken):
    """Return the median and the smallest of milliseconds, by their names in a report."""
    return {"decode_milliseconds": round(float(np.median(taken)), 3), "decode_fastest": round(min(taken), 3)}


def tokens_a_second(size, function, *arguments):
    """Return how many tokens a second are read by a function that reads `size`."""
    times, end = [], time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < end:
        times.append(milliseconds(function, *arguments))
    return round(1000 * size / float(np.median(times[1:])), 1)


def milliseconds(function, *arguments):
    """Return how long a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
