"""Documents, and a run that the command line trained on them and exported: what several test modules share."""

import contextlib
import io
from pathlib import Path

import numpy as np

from krpe_tf.cli import main

WORDS = {"sea": ["wave", "ship", "salt", "tide", "sail"], "hill": ["rock", "path", "goat", "snow", "peak"]}

EXPORT_LENGTHS = (16, 64)


def documents(count):
    """Texts and labels, "sea" and "hill" in turn."""
    random = np.random.default_rng(0)
    for index in range(count):
        label = ["sea", "hill"][index % 2]
        yield " ".join(random.choice([*WORDS[label], "the", "and", "old"], size=random.integers(20, 60))), label


def write_csv(path: Path, count: int, columns=("text", "label")) -> Path:
    """Write `documents` to a .csv file."""
    lines = [",".join(columns), *(f"{text},{label}" for text, label in documents(count))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def train_and_export(folder: Path) -> Path:
    """Train and export a run of preset tiny; what export printed is beside it in export.txt."""
    data, run = write_csv(folder / "documents.csv", 60, ("body", "kind")), folder / "run"
    sizes = ["--preset", "tiny", "--vocabulary-size", "200", "--max-length", "64", "--pretrain-steps", "2"]
    columns = ["--text-column", "body", "--label-column", "kind"]
    assert main(["train", str(data), "--output", str(run), "--epochs", "8", *columns, *sizes]) == 0
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["export", str(run), "--lengths", *map(str, EXPORT_LENGTHS)]) == 0
    (folder / "export.txt").write_text(printed.getvalue(), encoding="utf-8")
    return run
