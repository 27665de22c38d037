"""The files of a finished run."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import keras

from ..export import COMPANIONS
from ..files import companion, staged, write_json
from ..tasks import MASKED_LM, TASKS, TEXT_CLASSIFICATION, Task
from ..text import Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)


def save_run(
    output: Path,
    model: keras.Model,
    tokenizer: Tokenizer,
    labels: list[str] | None,
    max_length: int,
    histories: dict,
    settings: dict | None = None,
    task: Task | None = None,
) -> dict:
    """Write the files of a trained run, and remove exports of an earlier model.

    Args:
        output: The run folder.
        model, tokenizer: What was trained, and what makes its token ids.
        labels: The classes in the order of their ids; None where the task has none.
        max_length: Tokens that were trained on at most.
        histories: A history for each phase.
        settings: What `RunSettings.to_json` returned.
        task: The task; None for text classification or, without labels, masked LM.

    Returns:
        What training.json holds.
    """
    output = Path(output)
    remove_caches(output)
    if any((output / name).exists() for name in ("model.tflite", "model.litertlm", "saved_model")):
        logger.info("%s: removing exports of an earlier model", output)
    for name in ("model.tflite", "model.litertlm", "model_float16.tflite", "model_int8.tflite"):
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
    if task is None:
        task = MASKED_LM if labels is None else TEXT_CLASSIFICATION
    write_json(output / "task.json", {"task": task.name})
    summary = {"max_length": max_length, "parameters": model.count_params(), "histories": histories}
    if settings is not None:
        summary["settings"] = settings
    write_json(output / "training.json", summary)
    return summary


def remove_caches(run: Path) -> None:
    """Remove what LiteRT-LM keeps of an earlier model.litertlm beside it."""
    for path in run.glob("model.litertlm_*.xnnpack_cache"):
        path.unlink(missing_ok=True)


def load_run(run: str | os.PathLike) -> tuple[keras.Model, Tokenizer, list[str] | None]:
    """Load the model, the tokenizer and the labels of a run folder; None for the labels of a task without any.

    Raises:
        ValueError: If a file of the run is missing or damaged.
    """
    run = Path(run)
    check_run(run, "model.keras", "tokenizer.json", "training.json")
    task = load_task(run)
    labels = load_labels(run, task)
    model = keras.saving.load_model(run / "model.keras")
    if not isinstance(model, task.model):
        raise ValueError(
            f"`run` must hold a {task.model.__name__} for the task {task.name!r}; task.json or labels.json may be "
            f"missing. Received: a {type(model).__name__} in {str(run)!r}"
        )
    return model, load_tokenizer(run / "tokenizer.json"), labels


def load_task(run: str | os.PathLike) -> Task:
    """Return the task of a run folder.

    Raises:
        ValueError: If the folder is of no task that this version knows.
    """
    path = Path(run) / "task.json"
    if not path.is_file():  # As krpe_tf 0.1 wrote it.
        return TEXT_CLASSIFICATION if (Path(run) / "labels.json").is_file() else MASKED_LM
    try:
        return TASKS[read_json(path)["task"]]
    except (TypeError, KeyError) as error:
        raise ValueError(f"`run` must be of a task among {', '.join(TASKS)}. Received: {path}") from error


def load_labels(run: Path, task: Task) -> list[str] | None:
    """Return the labels of a run folder, in the order of their ids; None for a task without labels.

    Raises:
        ValueError: If labels.json is missing or damaged.
    """
    if task.encoding.label is None:
        return None
    check_run(run, "labels.json")
    return read_json(run / "labels.json")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run folder.

    Raises:
        ValueError: If it cannot be read; names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"`run` must be a folder that `train` wrote, but {path.name} cannot be read ({error}). "
            f"Received: run={str(path.parent)!r}"
        ) from error


def check_run(run: Path, *names: str) -> None:
    """Raise a ValueError unless a folder holds all of these files."""
    if not run.is_dir():
        raise ValueError(f"`run` must be a folder that `train` wrote, it does not exist. Received: run={str(run)!r}")
    missing = [name for name in names if not (run / name).is_file()]
    if missing:
        raise ValueError(
            f"`run` must be a folder that `train` wrote, it lacks {', '.join(missing)}. Received: run={str(run)!r}"
        )
