"""The files of a finished run."""

import json
import logging
import os
import shutil
from pathlib import Path

import keras

from ..export.litert import COMPANIONS
from ..files import companion, staged, write_json
from ..models import MaskedLM, TextClassifier
from ..text import Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)


def save_run(
    output: Path,
    model: TextClassifier | MaskedLM,
    tokenizer: Tokenizer,
    labels: list[str] | None,
    max_length: int,
    histories: dict,
    settings: dict | None = None,
) -> dict:
    """Writes the files of a trained run and returns what training.json holds. Exports of an earlier model go."""
    if (output / "model.tflite").exists() or (output / "saved_model").exists():
        logger.info("%s: what an earlier run exported is of another model, and goes", output)
    for name in ("model.tflite", "model_float16.tflite", "model_int8.tflite"):
        for path in (output / name, *(companion(output / name, suffix) for suffix in COMPANIONS)):
            path.unlink(missing_ok=True)
    shutil.rmtree(output / "saved_model", ignore_errors=True)
    with staged(output / "model.keras", overwrite=True) as target:
        model.save(target)
    tokenizer.save(output / "tokenizer.json")
    if labels is None:
        (output / "labels.json").unlink(missing_ok=True)
    else:
        write_json(output / "labels.json", labels)
    summary = {"max_length": max_length, "parameters": model.count_params(), "histories": histories}
    if settings is not None:
        summary["settings"] = settings
    write_json(output / "training.json", summary)
    return summary


def load_run(run: str | os.PathLike) -> tuple[TextClassifier | MaskedLM, Tokenizer, list[str] | None]:
    """The model, the tokenizer and the labels of a run folder; None for the labels of a run with masked LM alone.

    Raises:
        ValueError: if a file of the run is missing or damaged.
    """
    run = Path(run)
    _check_run(run, "model.keras", "tokenizer.json", "training.json")
    model = keras.saving.load_model(run / "model.keras")
    if not isinstance(model, MaskedLM):
        _check_run(run, "labels.json")
    return model, load_tokenizer(run / "tokenizer.json"), None if isinstance(model, MaskedLM) else _labels(run)


def _labels(run: Path) -> list[str]:
    return json.loads((run / "labels.json").read_text(encoding="utf-8"))


def _check_run(run: Path, *names: str) -> None:
    missing = [name for name in names if not (run / name).is_file()]
    if missing:
        raise ValueError(
            f"run must be a folder that `train` wrote, it lacks {', '.join(missing)}. Received: run={str(run)!r}"
        )
