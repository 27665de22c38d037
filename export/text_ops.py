"""tensorflow-text's ops for LiteRT. This one file imports nothing of krpe_tf: `_runner.py` reads it by its path."""

import ctypes
import importlib.util
import sys
from pathlib import Path

REGISTRAR = "tensorflow_text.core.pybinds.tflite_registrar"


def text_ops() -> list:
    """Return what `InterpreterWithCustomOps` takes as `custom_op_registerers`.

    The extension module that has them is loaded by itself where that works: importing tensorflow-text imports
    TensorFlow, which takes 6 seconds and 770 MiB that LiteRT does not need.

    Raises:
        ImportError: If tensorflow-text is not installed.
    """
    registrar = sys.modules.get(REGISTRAR)
    if registrar is None:
        try:
            registrar = _load_alone()
        except (ImportError, OSError, ValueError):  # Another version or system may keep its libraries elsewhere.
            from tensorflow_text.core.pybinds import tflite_registrar as registrar
    return [getattr(registrar, name) for name in dir(registrar) if name.startswith("Add")]


def _load_alone():
    libraries = sorted(_folder("tensorflow").glob("libtensorflow_framework.*"))
    if libraries:
        ctypes.CDLL(str(libraries[-1]))
    path = _folder("tensorflow_text").joinpath(*REGISTRAR.split(".")[1:]).with_suffix(".so")
    spec = importlib.util.spec_from_file_location(REGISTRAR, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ImportError(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])
