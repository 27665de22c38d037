"""The trained encoder that others imitate."""

import functools
import os
from pathlib import Path

import keras

from ..models import Encoder, LayerVectors
from ..text import Tokenizer, load_tokenizer


def load_teacher(settings) -> tuple[LayerVectors, Tokenizer]:
    """Load what the setting `teacher` names: all vectors of its encoder, and its tokenizer; once for the same file.

    Raises:
        ValueError: For a path where none lies, or a model that is no encoder and has none.
    """
    path = Path(settings.teacher)
    path = path if path.suffix == ".keras" else path / "model.keras"
    if not path.is_file() or not path.with_name("tokenizer.json").is_file():
        raise ValueError(
            "`teacher` must be a run folder, or a .keras file that has its tokenizer.json beside it. "
            f"Received: teacher={settings.teacher!r}"
        )
    return _read(path, os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _read(path: Path, changed: int) -> tuple[LayerVectors, Tokenizer]:
    model = keras.saving.load_model(path)
    encoder = getattr(model, "encoder", model)
    if not isinstance(encoder, Encoder):
        raise ValueError(f"`teacher` must hold an Encoder, or a head on one. Received: a {type(model).__name__}")
    return LayerVectors(encoder), load_tokenizer(path.with_name("tokenizer.json"))
