"""Train the small schedule of the Long Range Arena, and keep every finished run.

    python benchmarks/arena/arena.py
    python benchmarks/arena/arena.py --task listops --model ours

Each task of small.json with each model and seed: a seed is complete before the next one begins. A run that is finished
is a line of arena.jsonl and is not run again, so an interruption costs one run. Data are written on the way, a share of
the published number, see prepare_arena.py.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

# For the modules that all benchmarks share, and those of the recipes.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from _arena import SIMPLE, train
from _arena_tasks import TASKS, load_task, prepare_task
from _runs import run_missing

NAME = "arena.jsonl"
CONFIG = Path(__file__).with_name("small.json")
QUICK = {
    **{"num_layers": 1, "num_heads": 1, "hidden_dim": 8, "intermediate_dim": 8, "batch_tokens": 2048},
    **{"steps": 2, "log_every": 1, "training_documents": 8, "test_documents": 8, "suite": "quick"},
}


def runs(config: dict, tasks: Sequence[str]) -> list[dict]:
    """Return the settings of every run, in order."""
    return [
        {"suite": "small", "task": task, "model": model, **config["common"], **config["tasks"][task], "seed": seed}
        for seed in config["seeds"]
        for task in tasks
        for model in config["models"]
        if model not in SIMPLE or seed == config["seeds"][0]  # There is nothing random in them.
    ]


def describe(run: dict) -> str:
    """Return a line about a finished run."""
    return f"{run['task']}  {run['model']}  seed {run['seed']}: accuracy {run['accuracy']}, loss {run['loss']}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not there yet."""
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/arena"), help=f"the folder of {NAME} and the data")
    parser.add_argument("--task", choices=list(TASKS), action="append", help="again for more (default: all)")
    parser.add_argument("--model", choices=config["models"], action="append", help="again for more (default: all)")
    parser.add_argument("--seed", type=int, choices=config["seeds"], action="append", help="the same of seeds")
    parser.add_argument("--quick", action="store_true", help="some models of a task at sizes that prove nothing")
    options = parser.parse_args(arguments)
    models, seeds = options.model or config["models"], options.seed or config["seeds"]
    chosen = runs(config, options.task or list(config["tasks"]))
    chosen = [run for run in chosen if run["model"] in models and run["seed"] in seeds]
    if options.quick:
        chosen = [{**run, **QUICK} for run in chosen[: len(config["models"]) : 2]]
    data = options.output / ("quick" if options.quick else "data")

    def start(settings: dict) -> dict:
        prepare_task(settings["task"], data, settings["training_documents"], settings["test_documents"])
        return train(settings, load_task(settings["task"], data))

    options.output.mkdir(parents=True, exist_ok=True)
    run_missing(options.output / NAME, chosen, start, describe)


if __name__ == "__main__":
    main()
