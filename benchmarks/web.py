"""The exported files in a browser, beside LiteRT in Python; and the pictures of docs/web.md.

    python benchmarks/web.py --output build/bench
    python benchmarks/web.py --pictures RUN [RUN]        # runs that were exported

Two classifiers, documents of exactly n tokens, and a language model, all untrained; one thread. Browser and Python take
turns, a document each, so that they meet the same noise of the machine; "ms_min" tells most on one that others use.
Needs chromium and npm.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from _measure import command_line, print_row, spread, write_results

from krpe_tf.demo import split_messages
from krpe_tf.export import (
    LiteRTGenerator,
    LiteRTIdsModel,
    classifier_files,
    export_generator,
    export_tflite,
    generator_files,
    litertjs_files,
)
from krpe_tf.models import CausalLM, Encoder, TextClassifier
from krpe_tf.runs import web_run
from krpe_tf.text import ByteTokenizer, WordPieceTokenizer, train_wordpiece

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))
from browser import opened  # noqa: E402 Where it is.

LENGTHS = (512, 2048, 8192)
CLASSIFIERS = {
    "2 layers of 32": {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 128},
    "4 layers of 128": {"num_layers": 4, "num_heads": 4, "hidden_dim": 128, "intermediate_dim": 512},
}
GENERATOR = {"num_layers": 2, "num_heads": 4, "hidden_dim": 256, "intermediate_dim": 1024, "vocabulary_size": 4096}
PROMPT, WRITTEN = 1024, 200
RUN = """async (ids) => {
    const started = performance.now();
    const { output } = await classifier.model.run(ids);
    return [performance.now() - started, Array.from(output)];
}"""
TOKENIZE = """(texts) => {
    const started = performance.now();
    const tokens = texts.reduce((sum, text) => sum + classifier.tokenizer.encode(text).length, 0);
    return [performance.now() - started, tokens];
}"""
SHOWN = (
    "I have ordered the railroads to carry the mails, and the Congress will soon consider a tariff on wool, gold and "
    "silver coin, and the pensions of the soldiers of the late war."
)
WRITE = """async ([prompt, count]) => {
    generator.tokenizer = { encode: () => prompt, decoder: () => ({ push: () => "", finish: () => "" }), end: -1 };
    for await (const part of generator.write("", { maxTokens: count })) if (part.ms) return part;
}"""


def write_page(folder: Path, files: dict[str, bytes]) -> dict[str, int]:
    """Write a page with LiteRT.js; return the bytes of each file."""
    files |= {f"litertjs/{name}": content for name, content in litertjs_files().items()}
    for name, content in files.items():
        place = folder / "page" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return {name: len(content) for name, content in files.items()}


def measure(name: str, tokenizer: WordPieceTokenizer, texts: list[str], lengths: Sequence[int], rounds: int) -> list:
    """Return a row for each length and place, and one for loading the page and tokenizing in it."""
    encoder = Encoder(**CLASSIFIERS[name], vocabulary_size=tokenizer.vocabulary_size, num_features=16, seed=0)
    rows = []
    with tempfile.TemporaryDirectory(prefix="krpe_tf_bench_") as folder:
        folder = Path(folder)
        path = folder / "model.tflite"
        export_tflite(TextClassifier(encoder, 2), path, lengths, tokenizer=tokenizer, measure=False)
        sizes = write_page(folder, classifier_files(path.read_bytes(), tokenizer, ["a", "b"]))
        python = LiteRTIdsModel(path, num_threads=1)
        with opened(folder / "page") as page:
            row = {"model": name, "contestant": "load", "ms": page.evaluate("loadMs"), "bytes": sizes}
            times = [page.evaluate(TOKENIZE, texts) for _ in range(3)]
            row |= {"characters": sum(map(len, texts)), "tokens": times[0][1], "tokenizer_ms": min(times)[0]}
            rows.append(row)
            print_row(row, "model", "contestant", "characters", "tokenizer_ms")
            for n in lengths:
                ids = np.random.default_rng(0).integers(5, tokenizer.vocabulary_size, (1, n)).astype("int32")
                inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
                expected = python(inputs)[0]
                found = np.array(page.evaluate(RUN, ids[0].tolist())[1])
                difference = float(np.abs(found - expected).max() / np.abs(expected).max())
                taken = {"Python": [], "browser": []}
                for _ in range(rounds):
                    started = time.perf_counter()
                    python(inputs)
                    taken["Python"].append(1000 * (time.perf_counter() - started))
                    taken["browser"].append(page.evaluate(RUN, ids[0].tolist())[0])
                for place, each in taken.items():
                    row = {"model": name, "n": n, "contestant": place, "difference": difference, **spread(each)}
                    row["ratio"] = round(row["ms_min"] / min(taken["Python"]), 2)
                    rows.append(row)
                    print_row(row, "model", "n", "contestant", "ms_min", "ratio", "difference")
    return rows


def measure_generator(rounds: int) -> list:
    """Return rows of what a token takes, and a token of a prompt."""
    keras.utils.set_random_seed(0)
    model = CausalLM(Encoder(**GENERATOR, num_features=32, causal=True, seed=0))
    prompt = np.random.default_rng(0).integers(4, GENERATOR["vocabulary_size"], PROMPT).tolist()
    taken = {(place, what): [] for what in ("a token", "a token of a prompt") for place in ("Python", "browser")}
    with tempfile.TemporaryDirectory(prefix="krpe_tf_bench_") as folder:
        folder = Path(folder)
        path = folder / "model.tflite"
        export_generator(model, path, prefill=(64,), measure=False)
        write_page(folder, generator_files(path.read_bytes(), ByteTokenizer()))
        python = LiteRTGenerator(path)
        with opened(folder / "page") as page:
            for _ in range(rounds):
                started = time.perf_counter()
                stream = python.stream(prompt, WRITTEN)
                next(stream)
                read = time.perf_counter()
                for _ in stream:
                    pass
                taken["Python", "a token"].append(1000 * (time.perf_counter() - read) / (WRITTEN - 1))
                taken["Python", "a token of a prompt"].append(1000 * (read - started) / PROMPT)
                part = page.evaluate(WRITE, [prompt, WRITTEN])
                taken["browser", "a token"].append((part["ms"] - part["promptMs"]) / (WRITTEN - 1))
                taken["browser", "a token of a prompt"].append(part["promptMs"] / PROMPT)
    rows = []
    for (place, what), each in taken.items():
        row = {"model": "2 layers of 256", "n": what, "contestant": place, **spread(each)}
        row["ratio"] = round(row["ms_min"] / min(taken["Python", what]), 2)
        rows.append(row)
        print_row(row, "model", "n", "contestant", "ms_min", "ratio")
    return rows


def take_picture(run: Path, pictures: Path) -> None:
    """Write the picture of a run's page, with a text in it."""
    from PIL import Image

    task = json.loads((run / "task.json").read_text(encoding="utf-8"))["task"]
    with tempfile.TemporaryDirectory() as folder:
        web_run(run, Path(folder, "page"))
        with opened(Path(folder, "page")) as page:
            if task == "causal_lm":
                path = pictures / "web_generator.png"
                page.fill("#prompt", "The people of the United States")
                page.fill("#tokens", "160")
                page.get_by_role("button", name="Write").click()
                page.wait_for_selector("#text[aria-busy=false]")
            else:
                path = pictures / "web_classifier.png"
                page.fill("#text", SHOWN)
                page.wait_for_selector("#labels li")
            page.evaluate("document.activeElement.blur()")
            page.wait_for_timeout(500)  # Until the bars have grown.
            page.set_viewport_size({"width": 860, "height": page.evaluate("document.documentElement.scrollHeight")})
            page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write web.json, or take pictures."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["--pictures"]:
        for run in arguments[1:]:
            take_picture(Path(run), ROOT / "docs" / "figures")
        return
    options = command_line(__doc__, arguments)
    texts = split_messages(300 if options.quick else None, 0).train.texts
    tokenizer = WordPieceTokenizer(train_wordpiece(texts, 8192))
    rows = []
    for name in list(CLASSIFIERS)[: 1 if options.quick else None]:
        rows += measure(name, tokenizer, texts, LENGTHS[:1] if options.quick else LENGTHS, options.rounds)
    rows += measure_generator(2 if options.quick else options.rounds)
    write_results(options, "web", rows, classifiers=CLASSIFIERS, generator=GENERATOR)


if __name__ == "__main__":
    main()
