"""Tasks: each one description from the columns of a source to what `predict` prints, in a file of its own."""

import keras

from .causal_lm import CAUSAL_LM
from .distill import DISTILL
from .documents import DocumentSettings, document_batches, epoch_budget
from .masked_lm import MASKED_LM
from .settings import Settings, argument_names, check_names, setting
from .task import Task
from .text_classification import TEXT_CLASSIFICATION
from .token_classification import TOKEN_CLASSIFICATION
from .translation import TRANSLATION
from .translator import score, translate

TASKS = {
    task.name: task for task in (MASKED_LM, TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION, CAUSAL_LM, DISTILL, TRANSLATION)
}


def layout_map(device_mesh: keras.distribution.DeviceMesh) -> keras.distribution.LayoutMap:
    """Return how the weights of every task's model lie on a mesh, for `make_distribution`.

    Args:
        device_mesh: Has an axis "model", see `Encoder.get_layout_map`.
    """
    maps = [task.model.get_layout_map(device_mesh) for task in TASKS.values()]
    layout = keras.distribution.LayoutMap(device_mesh)
    for path, axes in {path: each[path] for each in maps for path in each}.items():
        layout[path] = axes
    return layout


__all__ = [
    "CAUSAL_LM",
    "DISTILL",
    "MASKED_LM",
    "TASKS",
    "TEXT_CLASSIFICATION",
    "TOKEN_CLASSIFICATION",
    "TRANSLATION",
    "DocumentSettings",
    "Settings",
    "Task",
    "argument_names",
    "check_names",
    "document_batches",
    "epoch_budget",
    "layout_map",
    "score",
    "setting",
    "translate",
]
