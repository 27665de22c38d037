"""What the figures share: where they write, and how."""

import argparse
import json
import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")


def arguments(description: str) -> argparse.Namespace:
    """The command line of a figure."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", default="docs/figures", help="the folder to write (default: docs/figures)")
    parser.add_argument("--quick", action="store_true", help="the same path at sizes that prove nothing, to see it run")
    return parser.parse_args()


def write(folder: str, name: str, numbers: dict, figure) -> None:
    """name.json and name.png, each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.tmp"
    temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / f"{name}.json")
    figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
    os.replace(temporary, folder / f"{name}.png")
    print(f"{folder}/{name}.json and .png")
