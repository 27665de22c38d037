"""Train the small causal-LM recipe, and keep every finished run.

    python benchmarks/recipes/causal_lm.py --suite small

Suites: "small", the recipe of small_causal_lm.json, each model with each seed; "sweep", other learning rates of
baselines; "short", fewer steps of more bytes at a lower rate; "more steps", more of those. Without `--suite` all of
them, in this order. A run that is finished is a line of causal_lm.jsonl and is not run again, so an interruption costs
one run.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from _causal_lm import encode, train
from _runs import parse, run_missing

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules that all benchmarks share

from _messages import load_texts

NAME = "causal_lm.jsonl"
CONFIG = Path(__file__).with_name("small_causal_lm.json")
SUITES = ("small", "sweep", "short", "more steps")
# Model, learning rate, and how many seeds: the rates that a baseline was tried with before the recipe took its best.
SWEEP = [
    ("softmax, rotary positions", 0.01, 3),
    ("softmax, rotary positions", 0.0025, 1),
    ("softmax, rotary positions", 0.02, 1),
    ("linear transformer", 0.003, 1),
    ("trigonometric, m = 32", 0.003, 1),
]
# The first seven models of the recipe.
SHORT = {"batch_size": 8, "steps": 300, "validate_every": 50, "learning_rate": 0.004}
# The first three.
MORE_STEPS = {"batch_size": 8, "steps": 1600, "validate_every": 200, "learning_rate": 0.004}
QUICK = {
    **{"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 16, "length": 32, "batch_size": 4},
    **{"steps": 4, "validate_every": 2, "held_out_windows": 4},
}


def runs(suite: str, config: dict) -> list[dict]:
    """Return the settings of every run of a suite, in order: all seeds of a model, then the next model."""
    base = {"suite": suite, **{name: value for name, value in config.items() if name not in ("seeds", "models")}}
    seeds, models = config["seeds"], config["models"]
    if suite == "sweep":
        cells = [({"model": model, "learning_rate": rate}, seeds[:count]) for model, rate, count in SWEEP]
    elif suite == "short":
        cells = [({**model, **SHORT}, seeds) for model in models[:7]]
    elif suite == "more steps":
        cells = [({**model, **MORE_STEPS}, seeds) for model in models[:3]]
    else:
        cells = [(model, seeds) for model in models]
    return [{**base, **model, "seed": seed} for model, chosen in cells for seed in chosen]


def quick_runs(suite: str, config: dict) -> list[dict]:
    """Return one run of each model of the suite, at sizes that prove nothing."""
    return [{**run, **QUICK} for run in runs(suite, {**config, "seeds": config["seeds"][:1]})]


def describe(run: dict) -> str:
    """Return a line about a finished run."""
    bits = ", ".join(f"{value} at {length}" for length, value in run["final"].items())
    return f"{run['model']}  rate {run['learning_rate']}  seed {run['seed']}: bits per byte {bits}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there yet."""
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    documents = {}

    def start(settings: dict) -> dict:
        sizes = settings["length"] * max(settings["multiples"]), settings["held_out_windows"]
        if sizes not in documents:
            documents[sizes] = encode(load_texts(), *sizes)
        return train(settings, documents[sizes])

    options = parse(arguments, __doc__, NAME, SUITES)
    for suite in options.suite:
        run_missing(options.output / NAME, (quick_runs if options.quick else runs)(suite, config), start, describe)


if __name__ == "__main__":
    main()
