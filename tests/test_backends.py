"""TensorFlow, JAX and PyTorch give the same numbers: layer outputs and gradients, in float32 and in mixed precision.

This file is also the script that computes them: `KERAS_BACKEND=jax python test_backends.py results.npz`.
"""

import importlib.util
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from calls import QUICK_TO_COMPILE, call
from definition import error, forward_backward, to_numpy
from layer_checks import ROUNDING

from krpe_tf import KernelizedRPEAttention
from krpe_tf.models import Encoder, EncoderDecoder

BACKENDS = ("tensorflow", "jax", "torch")
POLICIES = ("float32", *ROUNDING)
BIAS_WEIGHTS = ("near", "log_amplitude", "log_rate", "table")
LAYERS = {
    **{f"orthogonal {route}": {"route": route} for route in ("dense", "fft", "banded")},
    "causal banded": {"route": "banded", "causal": True},
    "positive": {"feature_map": "positive", "normalize": False},
    "taylor": {"feature_map": "taylor"},
    "elu": {"feature_map": "elu", "position_bias": "bucketed"},
    "softmax": {"feature_map": "softmax", "causal": True},
}


def fill(layer):
    """The same weights on every backend. Random features are drawn with numpy, so those must agree by themselves."""
    rng = np.random.default_rng(0)
    for weight in layer.trainable_weights:
        start = to_numpy(weight) if weight.name in BIAS_WEIGHTS else 0  # the others start at random
        weight.assign(start + 0.3 * rng.standard_normal(weight.shape).astype("float32"))


def compute():
    """Arrays by "policy | layer | name"."""
    rng = np.random.default_rng(1)
    n = 200  # several chunks of the banded route
    x, cotangent = (rng.standard_normal((2, n, 6)).astype("float32") for _ in range(2))
    mask = np.arange(n)[None] < np.array([[n], [150]])
    results = {}
    for policy in POLICIES:
        for name, arguments in LAYERS.items():
            layer = KernelizedRPEAttention(2, 4, num_features=6, seed=1, dtype=policy, **arguments)
            layer.build(x.shape, x.shape)
            fill(layer)
            output, (gradient,), gradients = forward_backward(
                lambda x, layer=layer: layer(x, x, attention_mask=mask), [x], cotangent, layer.trainable_weights
            )
            results[f"{policy} | {name} | output"] = output
            results[f"{policy} | {name} | gradient 0"] = gradient
            results |= {f"{policy} | {name} | gradient {i}": g for i, g in enumerate(gradients, 1)}
    encoder = Encoder(30, 2, 2, 8, 12, num_features=4, seed=1)
    fill(encoder)
    inputs = {"token_ids": rng.integers(0, 30, (2, n)), "padding_mask": mask.astype("int32")}
    results["float32 | encoder | output"] = to_numpy(call(encoder, inputs))
    translator = EncoderDecoder(30, 1, 1, 2, 8, 12, num_features=4, cross_feature_map="softmax", seed=1)
    fill(translator)
    targets = {"token_ids": rng.integers(0, 30, (2, 9)), "padding_mask": np.ones((2, 9), "int32")}
    sources = {"source_ids": inputs["token_ids"], "source_mask": inputs["padding_mask"]}
    results["float32 | encoder and decoder | output"] = to_numpy(call(translator, {**sources, **targets}))
    return results


@pytest.fixture(scope="module")
def ours():
    """Results of this process's backend."""
    return compute()


@pytest.fixture(scope="module", params=[name for name in BACKENDS if name != keras.backend.backend()])
def both(request, tmp_path_factory, ours):
    """Results of this process's backend and of another one's."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    path = tmp_path_factory.mktemp("backends") / "results.npz"
    environment = {**os.environ, **QUICK_TO_COMPILE, "KERAS_BACKEND": request.param, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        [sys.executable, __file__, path], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return ours, dict(np.load(path))


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", LAYERS)
def test_backends_agree(both, name, policy):
    ours, theirs = (
        {key: x for key, x in results.items() if key.startswith(f"{policy} | {name} |")} for results in both
    )
    assert ours.keys() == theirs.keys()
    tolerance = 20 * ROUNDING[policy] if policy in ROUNDING else 1e-5
    largest = max(np.abs(x).max() for key, x in theirs.items() if "gradient" in key)
    for key, x in theirs.items():
        assert np.isfinite(x).all()
        assert error(ours[key], x, largest if "gradient" in key else None) < tolerance, key


@pytest.mark.slow
@pytest.mark.parametrize("model", ["encoder", "encoder and decoder"])
def test_models_agree(both, model):
    ours, theirs = (results[f"float32 | {model} | output"] for results in both)
    assert error(ours, theirs) < 1e-5


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    np.savez(sys.argv[1], **compute())
