"""The attention layer: its weights, masks, checks and decoding. The numerics live in `feature_maps` and `toeplitz`."""

from .checks import check_attention_mask, check_inputs, check_kernel, check_mask_values, check_masks
from .kernel import attend, to_features
from .layer import KernelizedRPEAttention
from .masks import is_mask_of_pairs, visible_keys_and_pairs, zero_masked

__all__ = [
    "KernelizedRPEAttention",
    "attend",
    "check_attention_mask",
    "check_inputs",
    "check_kernel",
    "check_mask_values",
    "check_masks",
    "is_mask_of_pairs",
    "to_features",
    "visible_keys_and_pairs",
    "zero_masked",
]
