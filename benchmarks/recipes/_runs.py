"""The file of finished runs, a line of JSON for each."""

import json
from pathlib import Path


def read_lines(path: Path) -> list[dict]:
    """Return the finished runs."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def append(path: Path, run: dict) -> None:
    """Add a run: the file is replaced whole, so an interruption leaves the one before."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in [*read_lines(path), run]), encoding="utf-8")
    temporary.replace(path)
