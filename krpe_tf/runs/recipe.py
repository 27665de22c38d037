"""The recipe of a run: its phases, each a task, over one encoder."""

import dataclasses
import os
from collections.abc import Iterable

from ..data import Corpus, LabelledTexts, Source
from ..tasks import MASKED_LM, TASKS, TEXT_CLASSIFICATION, Task, check_names
from ..text import Tokenizer
from .settings import RunSettings

PATH = (str, os.PathLike)

Data = Corpus | LabelledTexts | Source


def make_recipe(task: Task, settings: RunSettings, tokenizer: Tokenizer | None = None) -> tuple[Task, ...]:
    """Return the phases of a run: pretraining, where `pretrain_steps` is not 0, and then the task.

    Args:
        task: The task.
        settings: The settings of the run.
        tokenizer: The one that is there already; None for one to learn.

    Raises:
        ValueError: If nothing is to be trained, if `encoder` names an argument that the model does not take, or turns
            `causal` off for a task that writes, or if a phase cannot take the tokenizer.
    """
    check_names(task.backbone.arguments, encoder=settings.encoder)
    if task.causal and settings.encoder.get("causal", True) is not True:
        raise ValueError(
            f"`encoder` must leave `causal` on for the task {task.name!r}, or each token sees those that it is to "
            f"predict. Received: encoder={settings.encoder!r}"
        )
    if task is MASKED_LM and not settings.pretrain_steps:
        raise ValueError(
            f"`pretrain_steps` must be at least 1 for the task {task.name!r}, which trains nothing else. "
            "Received: pretrain_steps=0"
        )
    pretrained = task.pretraining is not None and settings.pretrain_steps
    recipe = (task.pretraining, task) if pretrained else (task,)
    for phase in recipe:
        hint = ", or `pretrain_steps` be 0" if phase is not task else ""
        if tokenizer is None and task.learns(settings) not in phase.tokenizers:
            raise ValueError(
                f"`tokenizer` must be {' or '.join(phase.tokenizers)} for the task {phase.name!r}{hint}. "
                f"Received: tokenizer={settings.tokenizer!r}"
            )
        if tokenizer is not None and phase is MASKED_LM and tokenizer.mask_id is None:
            raise ValueError(
                f"`tokenizer` must have a mask token for the task {phase.name!r}{hint}. "
                f"Received: a {type(tokenizer).__name__}"
            )
    return recipe


def choose_task(name: str | None, data: Data | str | os.PathLike | None = None) -> Task:
    """Return the task of a name; for None, the one that the columns of `data` are of.

    A corpus whose tokenizer gives the text back is for causal LM if its columns are; one whose columns are of no task
    is for masked LM; for a path, and without `data`, None is text classification.

    Raises:
        ValueError: For an unknown name, data of another kind, or data without the columns of the task, or without its
            kind of tokenizer.
    """
    if name is not None and name not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(map(repr, TASKS))}. Received: task={name!r}")
    if data is None or isinstance(data, (*PATH, tuple, list)):
        return TEXT_CLASSIFICATION if name is None else TASKS[name]
    if not isinstance(data, Data):
        raise ValueError(f"`data` must be a path, LabelledTexts, a Source or a Corpus. Received: {type(data).__name__}")
    if name is None:
        fitting = [each for each in TASKS.values() if set(each.encoding.columns) == set(data.columns)]
        reversible = isinstance(data, Corpus) and getattr(data.tokenizer, "reversible", False)
        task = next((each for each in fitting if each.writes == reversible), fitting[0] if fitting else MASKED_LM)
    else:
        task = TASKS[name]
    if not (task is MASKED_LM and isinstance(data, Corpus)):  # Every corpus has the token ids that masked LM takes.
        check_columns(task, data=data)
    if isinstance(data, Corpus):
        check_tokenizer(task, data.tokenizer)
    return task


def check_tokenizer(task: Task, tokenizer: Tokenizer | None) -> None:
    """Raise a ValueError for a tokenizer that does not give the text back, if the model of the task is to write."""
    if task.writes and tokenizer is not None and not tokenizer.reversible:
        raise ValueError(
            f"the task {task.name!r} needs a tokenizer that gives the text back: a PieceTokenizer or a ByteTokenizer, "
            f"or a corpus of `prepare --task {task.name}`. Received: a {type(tokenizer).__name__}"
        )


def unused_settings(task: Task, names: Iterable[str]) -> list[str]:
    """Return those of some settings that neither the task nor its pretraining has, but another task."""
    phases = [phase for phase in (task.pretraining, task) if phase is not None]
    of_tasks, used = (
        {field.name for each in tasks for field in dataclasses.fields(each.settings)}
        for tasks in (TASKS.values(), phases)
    )
    return sorted(set(names) & (of_tasks - used))


def check_columns(task: Task, **data: Data) -> None:
    """Raise a ValueError unless each named argument has the columns that a task needs."""
    for name, part in data.items():
        if not set(task.encoding.columns) <= set(part.columns):
            raise ValueError(
                f"`{name}` must have columns {', '.join(task.encoding.columns)} for the task {task.name!r}. "
                f"Received: columns {', '.join(part.columns)}"
            )
