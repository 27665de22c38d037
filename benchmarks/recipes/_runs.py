"""The file of finished runs, a line of JSON for each, and what runs those that are missing."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean


def read_lines(path: Path) -> list[dict]:
    """Return the finished runs."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def append(path: Path, run: dict) -> None:
    """Add a run: the file is replaced whole, so an interruption leaves the one before."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in [*read_lines(path), run]), encoding="utf-8")
    temporary.replace(path)


def is_done(settings: dict, finished: list[dict]) -> bool:
    """Return whether a run with all these settings is among the finished ones, of whatever suite."""
    wanted = {name: value for name, value in settings.items() if name != "suite"}
    return any(all(run.get(name) == value for name, value in wanted.items()) for run in finished)


def finite(loss: float) -> float | None:
    """Round a loss; None if it is not finite."""
    return round(float(loss), 5) if math.isfinite(loss) else None


def difference(pairs: Sequence[tuple[float | None, float | None]]) -> str:
    """Describe how much larger the first ones are: mean, and the least and the most; of pairs that are finite."""
    gaps = [mine - other for mine, other in pairs if mine is not None and other is not None]
    return f"{fmean(gaps):+.3f} ({min(gaps):+.3f} to {max(gaps):+.3f})" if gaps else ""


def parse(arguments: Sequence[str] | None, description: str, name: str, suites: Sequence[str]) -> argparse.Namespace:
    """Read the command line of a script whose finished runs are lines of the file `name`; make its folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/recipes"), help=f"the folder of {name}")
    parser.add_argument("--suite", choices=suites, action="append", help="what to run, again for more (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes that prove nothing: see it run")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    options.suite = options.suite or list(suites)
    return options


def run_missing(path: Path, runs: list[dict], train: Callable[[dict], dict], describe: Callable[[dict], str]) -> None:
    """Train what is not finished; each run becomes a line of the file, and of standard error."""
    for settings in runs:
        if is_done(settings, read_lines(path)):
            continue
        run = {**train(settings), "versions": versions()}
        append(path, run)
        print(f"{settings['suite']}  {describe(run)}, {run['seconds']:.0f} s", file=sys.stderr, flush=True)


def versions() -> dict:
    """Return the versions that train."""
    return {name: version(name) for name in ("tensorflow", "keras")}
