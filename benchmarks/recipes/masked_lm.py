"""Train the small masked-LM recipe and the table of biases, and keep every finished run.

    python benchmarks/recipes/masked_lm.py --suite small
    python benchmarks/recipes/masked_lm.py --suite timing       # on an idle machine

Suites: "small", the recipe of small_masked_lm.json, each model with each seed; "more steps", its first three models for
1,600 steps; "slopes", the recipe of 900 steps and 3 layers as it was when biases started from slopes; "table", biases
and attentions under that one, one seed; "long", the same with windows of 2,048; "longer", two biases for 3,600 steps;
"timing", the seconds of 50 steps of the recipe's models. Without `--suite` all of them, in this order. A run that is
finished is a line of masked_lm.jsonl and is not run again, so an interruption costs one run.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import keras
from _masked_lm import ABSOLUTE, compiled, datasets, train
from _runs import append, parse, run_missing

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules that all benchmarks share

from _messages import load_bytes

NAME = "masked_lm.jsonl"
CONFIG = Path(__file__).with_name("small_masked_lm.json")
SLOPES = "radius 16 + 2 exponentials, from slopes"
# Bias, attention, number of features; the cells that answer most come first.
TABLE = [
    (SLOPES, "softmax", None),
    (SLOPES, "kernel", 16),
    ("buckets from zeros", "kernel", 16),
    (SLOPES, "kernel", 64),
    ("radius 4 + 2 exponentials, from slopes", "kernel", 16),
    ("full table from slopes", "kernel", 16),
    ("buckets from slopes", "kernel", 16),
    ("buckets from zeros", "softmax", None),
    (ABSOLUTE, "kernel", 16),
    ("full table from zeros", "kernel", 16),
    ("full table from slopes", "softmax", None),
    (ABSOLUTE, "softmax", None),
    ("buckets from zeros", "kernel", 64),
    ("buckets from zeros", "kernel, not normalized", 64),
    ("full table from zeros", "kernel", 64),
    (ABSOLUTE, "kernel, not normalized", 16),
    (SLOPES, "kernel, not normalized", 64),
    (SLOPES, "kernel, orthogonal, not normalized", 16),
]
LONG = [
    (SLOPES, "kernel", 16),
    ("buckets from zeros", "kernel", 16),
    (SLOPES, "softmax", None),
    ("radius 4 + 2 exponentials, from slopes", "kernel", 16),
    (ABSOLUTE, "kernel", 16),
    ("full table from slopes", "kernel", 16),
    ("buckets from zeros", "softmax", None),
]
LONGER = [("buckets from zeros", "kernel", 16), (SLOPES, "kernel", 16)]
# The recipe as it was before 0.2, when biases started from slopes.
BEFORE = {
    **{"num_layers": 3, "hidden_dim": 128, "intermediate_dim": 512, "batch_size": 4, "steps": 900},
    **{"validate_every": 150, "learning_rate": 0.002},
}
THREE = [(SLOPES, "kernel", 16), (SLOPES, "softmax", None), (SLOPES, "kernel, not normalized", 16)]
# By suite: what it changes in the recipe, its models, and how many seeds.
OTHERS = {
    "slopes": (BEFORE, THREE, 3),
    "table": (BEFORE, TABLE, 1),
    "long": ({**BEFORE, "length": 2048, "batch_size": 1, "steps": 300}, LONG, 1),
    "longer": ({**BEFORE, "steps": 3600, "validate_every": 300}, LONGER, 1),
}
SUITES = ("small", "more steps", *OTHERS, "timing")
MORE_STEPS = {"steps": 1600, "validate_every": 200}
QUICK = {
    **{"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 16, "length": 32, "batch_size": 4},
    **{"steps": 4, "validate_every": 2, "validation_tokens": 256, "xla": False},
}


def cell(bias: str, attention: str, num_features: int | None) -> dict:
    """Return the settings that name a model."""
    features = {} if num_features is None else {"num_features": num_features}
    return {"bias": bias, "attention": attention, **features}


def runs(suite: str, config: dict) -> list[dict]:
    """Return the settings of every run of a suite, in order."""
    base = {"suite": suite, **{name: value for name, value in config.items() if name not in ("seeds", "models")}}
    if suite in OTHERS:
        changes, cells, count = OTHERS[suite]
        return [
            {**base, **changes, **cell(*names), "seed": seed} for seed in config["seeds"][:count] for names in cells
        ]
    models, changes = (config["models"], {}) if suite == "small" else (config["models"][:3], MORE_STEPS)
    return [{**base, **model, **changes, "seed": seed} for seed in config["seeds"] for model in models]


def quick_runs(suite: str, config: dict) -> list[dict]:
    """Return one run of the suite, of the recipe one for each model, at sizes that prove nothing."""
    chosen = runs(suite, {**config, "seeds": config["seeds"][:1]})
    return [{**run, **QUICK} for run in chosen[: 3 if suite == "small" else 1]]


def measure_time(config: dict, data, steps: int, rounds: int) -> dict:
    """Measure seconds of `steps` warm training steps of the recipe's models, in turn; the least of the rounds."""
    calls, seconds, first = {}, {}, {}
    for run in runs("small", {**config, "seeds": config["seeds"][:1], "models": config["models"][:3]}):
        model, (training, _) = compiled(run), datasets({**run, "steps": steps}, data)
        calls[run["attention"]] = lambda model=model, training=training: model.fit(training, shuffle=False, verbose=0)
    for name, call in calls.items():
        start = time.perf_counter()
        call()
        first[name] = time.perf_counter() - start
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name] = min(seconds.get(name, float("inf")), time.perf_counter() - start)
    keras.utils.clear_session()
    return {"suite": "timing", "steps": steps, "seconds": seconds, "first_seconds": first, "xla": config["xla"]}


def describe(run: dict) -> str:
    """Return a line about a finished run."""
    return f"{run['bias']}  {run['attention']}  m={run.get('num_features')}  seed {run['seed']}: {run['final']} nats"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there yet."""
    options, data = parse(arguments, __doc__, NAME, SUITES), load_bytes()
    path = options.output / NAME
    config = {"xla": False, "validation_tokens": 2**17, **json.loads(CONFIG.read_text(encoding="utf-8"))}
    for suite in options.suite:
        if suite == "timing":
            quick = {**config, **QUICK} if options.quick else config
            append(path, measure_time(quick, data, steps=2 if options.quick else 50, rounds=1 if options.quick else 2))
            continue
        chosen = (quick_runs if options.quick else runs)(suite, config)
        run_missing(path, chosen, lambda settings: train(settings, data), describe)


if __name__ == "__main__":
    main()
