"""Keras' own tests of `MultiHeadAttention`, from the installed wheel, with our layer in its place.

Those that it does not pass are excused below by name, each with its reason; one that is excused and passes fails here.
"""

import importlib.util
import re
import types
import unittest
from pathlib import Path

import keras
import pytest

from krpe_tf import KernelizedRPEAttention

PATH = Path(keras.__file__).parent / "src" / "layers" / "attention" / "multi_head_attention_test.py"


@keras.saving.register_keras_serializable("krpe_tf_tests")
class MultiHeadAttention(KernelizedRPEAttention):
    """Our layer with the arguments that make it Keras' one, and the private names that Keras' tests ask for."""

    def __init__(self, num_heads, key_dim, **arguments):
        exact = {"feature_map": "softmax", "normalize": False, "position_bias": None, "num_features": 0}
        super().__init__(num_heads, key_dim, **{**exact, **arguments})

    _query_dense = property(lambda self: self.query_dense)
    _key_dense = property(lambda self: self.key_dense)
    _value_dense = property(lambda self: self.value_dense)
    _gate_dense = property(lambda self: self.gate_dense)
    _output_dense = property(lambda self: self.output_dense)
    _sliding_window = property(lambda self: self.sliding_window)


SEVERAL_AXES = "inputs have one axis between batch and width: there is no `attention_axes`"
PRIVATE = "overrides or calls the private `_compute_attention`"
WORDS = "refused as well, in other words"
FLASH = "there is no `flash_attention`: linear routes take its place"
EXCUSED = {
    "test_attention_axes_negative_indexing": SEVERAL_AXES,
    "test_causal_only_masks_non_4d_inputs": SEVERAL_AXES,
    "test_causal_only_skipped_for_subclass": PRIVATE,
    "test_compute_attention_combines_causal_and_explicit_mask_fused_fallback": PRIVATE,
    "test_compute_attention_combines_causal_and_explicit_mask_manual_path": PRIVATE,
    "test_compute_output_shape_different_qv_last_dims": SEVERAL_AXES,
    "test_compute_output_shape_high_dim_different_proj": SEVERAL_AXES,
    "test_compute_output_shape_high_dim_same_proj": SEVERAL_AXES,
    "test_flash_attention_with_errors": FLASH,
    "test_high_dim_attention_4d_inputs_1freebatch_mask2": SEVERAL_AXES,
    "test_high_dim_attention_4d_inputs_1freebatch_mask3": SEVERAL_AXES,
    "test_high_dim_attention_4d_inputs_1freebatch_mask4": SEVERAL_AXES,
    "test_high_dim_attention_4d_inputs_2d_attention": SEVERAL_AXES,
    "test_high_dim_attention_5d_inputs_2d_attention": SEVERAL_AXES,
    "test_high_dim_attention_5d_inputs_2d_attention_fullmask": SEVERAL_AXES,
    "test_invalid_scalar_args_rejected": WORDS,
    "test_masking_with_different_shapes": "a mask (n_q, n_k) needs an axis for the batch: (batch, n_k) looks like it",
}


def keras_tests():
    """Keras' test case, as its own module defines it, with our layer for its `layers.MultiHeadAttention`."""
    if not PATH.exists():
        return []
    spec = importlib.util.spec_from_file_location("multi_head_attention_test", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.layers = types.SimpleNamespace(**{**vars(keras.layers), "MultiHeadAttention": MultiHeadAttention})
    return [module.MultiHeadAttentionTest]


# In a list, as pytest would collect the class itself.
CASES = keras_tests()
NAMES = [name for case in CASES for name in unittest.defaultTestLoader.getTestCaseNames(case)]
NAMES = [name for name in NAMES if name != "test_session"]  # of TensorFlow's test case
pytestmark = [
    # What Keras' tests do.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning"),
    pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer:UserWarning"),
    pytest.mark.filterwarnings("ignore:Layer Dropout does not have a `quantize` method:UserWarning"),
]


has_tests = pytest.mark.skipif(not CASES, reason=f"the wheel of keras {keras.__version__} brings no tests")


@has_tests
@pytest.mark.parametrize("name", NAMES)
def test_keras_own(name):
    for mark in getattr(getattr(CASES[0], name), "pytestmark", ()):
        if mark.name == "skipif" and mark.args[0]:
            pytest.skip(mark.kwargs["reason"])
    result = unittest.TestResult()
    CASES[0](name).run(result)
    failures = [text for _, text in result.failures + result.errors]
    if failures and "Skipped: " in failures[0]:
        pytest.skip(failures[0].rpartition("Skipped: ")[2])
    if name in EXCUSED:
        assert failures, f"{name} passes: take it off the list of those that are excused"
    else:
        assert not failures, failures[0]


@pytest.mark.filterwarnings("ignore:Layer '.*' (.*|\n)*:UserWarning")  # Of KerasHub, while it builds its T5.
def test_the_page_for_those_who_come_from_keras():
    page = Path(__file__).parents[1] / "docs" / "coming_from_multi_head_attention.md"
    code = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(code) == 6
    exec("\n".join(code), {})


@has_tests
def test_most_pass():
    assert set(EXCUSED) <= set(NAMES)
    assert len(NAMES) - len(EXCUSED) >= 30
