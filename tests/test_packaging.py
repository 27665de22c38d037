"""The installed package: what a user gets from the wheel, and that the core stands without TensorFlow."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BLOCK_TENSORFLOW = """
import sys
for name in ("tensorflow", "tensorflow_text", "ai_edge_litert"):
    sys.modules[name] = None
"""
BUILD_ENCODER = """
import krpe_tf, keras, numpy
encoder = krpe_tf.models.Encoder.from_preset("tiny")
ids = numpy.arange(24, dtype="int32").reshape(2, 12)
output = encoder({"token_ids": ids, "padding_mask": numpy.ones_like(ids)})
assert output.shape == (2, 12, 32), output.shape
assert not any(name.startswith("tensorflow") for name, module in sys.modules.items() if module is not None)
print(keras.backend.backend())
"""
IMPORTS = """
import importlib.metadata, pathlib
import krpe_tf, krpe_tf.models, krpe_tf.export, krpe_tf.toeplitz
from krpe_tf.export import LiteRTModel, export_saved_model, export_tflite
from krpe_tf.models import Encoder, MaskedLM, TextClassifier
for module in (krpe_tf, krpe_tf.models, krpe_tf.export, krpe_tf.toeplitz):
    print(pathlib.Path(module.__file__).resolve())
assert krpe_tf.__version__ == importlib.metadata.version("krpe_tf")
"""


def run_python(code, folder, backend="jax", **environment):
    """Runs code with `folder` as working directory, and so nothing of the checkout on the path."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2", **environment}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: a build leaves folders behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("krpe_tf", "models", "export"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", target, source]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (path,) = target.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_every_module(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("krpe_tf", "models", "export"):
        for path in [found for each in ("*.py", "py.typed", "web/*") for found in sorted((ROOT / folder).rglob(each))]:
            name = path.relative_to(ROOT).as_posix()
            assert (name if folder == "krpe_tf" else f"krpe_tf/{name}") in names
    assert not any(name.startswith(("models/", "export/", "tests/")) for name in names)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", target, wheel]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return target


@pytest.mark.slow
def test_the_wheel_imports_outside_of_the_checkout(installed, tmp_path):
    files = run_python(IMPORTS, tmp_path, PYTHONPATH=str(installed))
    assert len(files) == 4
    for file in files:
        assert Path(file).is_relative_to(installed)
    assert (installed / "krpe_tf" / "py.typed").exists()


@pytest.mark.slow
def test_the_command_is_python_m_krpe_tf(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed), "KERAS_BACKEND": "jax"}
    script, module = (
        subprocess.run([*command, "predict", "nowhere", "text"], cwd=tmp_path, env=environment, capture_output=True)
        for command in ([installed / "bin" / "krpe-tf"], [sys.executable, "-m", "krpe_tf"])
    )
    assert (script.returncode, script.stdout, script.stderr) == (module.returncode, module.stdout, module.stderr)
    assert script.returncode == 2
    assert b"nowhere" in script.stderr


@pytest.mark.slow
def test_the_core_and_the_models_work_without_tensorflow(tmp_path):
    assert run_python(BLOCK_TENSORFLOW + BUILD_ENCODER, tmp_path) == ["jax"]


@pytest.mark.slow
def test_importing_does_not_load_tensorflow(tmp_path):
    code = "import sys, krpe_tf, krpe_tf.export; print(any(name.startswith('tensorflow') for name in sys.modules))"
    assert run_python(code, tmp_path) == ["False"]


def test_a_checkout_that_is_not_installed_says_so(tmp_path):
    shutil.copytree(ROOT / "krpe_tf", tmp_path / "krpe_tf")
    # -S -I: without what is installed, but with Keras from where it lies.
    code = f"""
import sys
sys.path = [{str(tmp_path)!r}] + [p for p in sys.path if p] + {[p for p in sys.path if "site-packages" in p]!r}
import krpe_tf
"""
    run = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode
    assert "ImportError: krpe_tf is not installed" in run.stderr
    assert "pip install --editable" in run.stderr
