"""Measure how many values each number of features finds by content, and keep every finished run.

    python benchmarks/recipes/lookup.py --suite attention

Suites: "attention", one cross-attention that finds the values of keys among pairs; "recall", a causal language model
that reads pairs and is then asked for them. Their sizes are in small_lookup.json. Without `--suite` both. A run that is
finished is a line of lookup.jsonl and is not run again, so an interruption costs one run.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from _lookup import NAMED, train
from _runs import parse, run_missing

NAME = "lookup.jsonl"
CONFIG = Path(__file__).with_name("small_lookup.json")
SUITES = ("attention", "recall")
QUICK = {"width": 8, "key_dim": 4, "num_keys": 8, "num_values": 4, "asked": 2, "batch_size": 4, "steps": 2}


def runs(suite: str, config: dict) -> list[dict]:
    """Return the settings of every run of a suite, in order: all models with a seed, then with the next."""
    base = {name: value for name, value in config[suite].items() if name not in ("seeds", "pairs", "features")}
    models = [{"model": name} for name in NAMED]
    models += [{"model": f"m = {count}", "num_features": count} for count in config[suite]["features"]]
    return [
        {"suite": suite, **base, **model, "pairs": pairs, "seed": seed}
        for seed in config[suite]["seeds"]
        for pairs in config[suite]["pairs"]
        for model in models
    ]


def quick_runs(suite: str, config: dict) -> list[dict]:
    """Return a run of the exact kernel and one of features, at sizes that prove nothing."""
    every = runs(suite, config)
    chosen = [every[1], every[len(NAMED)]]
    return [{**run, **QUICK, "pairs": 4, "held_out_rows": 8} for run in chosen]


def describe(run: dict) -> str:
    """Return a line about a finished run."""
    return f"{run['model']}  {run['pairs']} pairs  seed {run['seed']}: {run['final']} of the values found"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there yet."""
    options = parse(arguments, __doc__, NAME, SUITES)
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    for suite in options.suite:
        run_missing(options.output / NAME, (quick_runs if options.quick else runs)(suite, config), train, describe)


if __name__ == "__main__":
    main()
