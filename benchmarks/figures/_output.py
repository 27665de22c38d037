"""What the figures share: their command line, and how they are written."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules that all benchmarks share

from _pages import save_figure

from krpe_tf.files import write_json

matplotlib.use("Agg")


def command_line(description: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options of a figure, of the process's command line if `arguments` is None."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/figures"), help="the folder (default: docs/figures)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes that prove nothing: see it run")
    return parser.parse_args(arguments)


def write(folder: Path, name: str, numbers: dict, figure) -> None:
    """Write name.json and name.png, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", numbers)
    save_figure(figure, folder / f"{name}.png", bbox_inches="tight")
    print(f"{folder}/{name}.json and .png")
