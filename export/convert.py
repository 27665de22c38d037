"""From traced functions to the bytes of a .tflite file."""

import os
import tempfile
from pathlib import Path
from typing import Any

from .trace import save_functions


def working_folder(target: Path) -> Path:
    """Return the folder of `staged`: what a killed export leaves there goes with the next one."""
    return target.parent.parent


def convert(functions: dict[str, Any], working_folder: os.PathLike) -> bytes:
    """Convert concrete functions, by signature name, to one .tflite file.

    Args:
        functions: What `litert_functions` or `generator_functions` returned.
        working_folder: Holds what is needed in between.

    Returns:
        The file's bytes.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory(dir=working_folder) as folder:
        save_functions(functions, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(functions))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        # Every op without a builtin becomes a custom op of its name; `check_contents` then says which are wrong.
        converter.allow_custom_ops = True
        return converter.convert()
