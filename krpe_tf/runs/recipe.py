"""The recipe of a run: its phases, each a task, over one encoder."""

from ..data import Corpus, LabelledTexts, Source
from ..tasks import MASKED_LM, TASKS, TEXT_CLASSIFICATION, Task
from .settings import RunSettings


def make_recipe(task: Task, settings: RunSettings) -> tuple[Task, ...]:
    """Return the phases of a run: pretraining, where `pretrain_steps` is not 0, and then the task.

    Raises:
        ValueError: If nothing is to be trained.
    """
    if task is MASKED_LM and not settings.pretrain_steps:
        raise ValueError(
            f"`pretrain_steps` must be at least 1 for the task {task.name!r}, which trains nothing else. "
            "Received: pretrain_steps=0"
        )
    pretrained = task.pretraining is not None and settings.pretrain_steps
    return (task.pretraining, task) if pretrained else (task,)


def choose_task(name: str | None, data: Corpus | LabelledTexts | Source | None = None) -> Task:
    """Return the task of a name; for None, the one that the columns of `data` are of.

    A corpus whose columns are of no task is for masked LM; without `data`, None is text classification.

    Raises:
        ValueError: For an unknown name, or data without the columns of the task.
    """
    if name is not None and name not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(map(repr, TASKS))}. Received: task={name!r}")
    if data is None:
        return TEXT_CLASSIFICATION if name is None else TASKS[name]
    if name is None:
        fitting = [each for each in TASKS.values() if set(each.encoding.columns) == set(data.columns)]
        task = fitting[0] if fitting else MASKED_LM
    else:
        task = TASKS[name]
    if not (task is MASKED_LM and isinstance(data, Corpus)):  # Every corpus has the token ids that masked LM takes.
        check_columns(task, data=data)
    return task


def check_columns(task: Task, **data: Corpus | LabelledTexts | Source) -> None:
    """Raise a ValueError unless each named argument has the columns that a task needs."""
    for name, part in data.items():
        if not set(task.encoding.columns) <= set(part.columns):
            raise ValueError(
                f"`{name}` must have columns {', '.join(task.encoding.columns)} for the task {task.name!r}. "
                f"Received: columns {', '.join(part.columns)}"
            )
