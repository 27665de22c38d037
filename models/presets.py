"""Sizes with a name. Parameter counts are pinned by a test."""

from ..checks import check_one_of

PRESETS = {
    # Runs in tests.
    "tiny": {
        "vocabulary_size": 1024,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 32,
        "intermediate_dim": 64,
        "num_features": 8,
    },
    # About 10 M parameters.
    "small": {
        "vocabulary_size": 16_384,
        "num_layers": 8,
        "num_heads": 4,
        "hidden_dim": 256,
        "intermediate_dim": 1024,
        "num_features": 16,
    },
    # BERT-base, the paper's section 4.1.
    "base": {
        "vocabulary_size": 30_522,
        "num_layers": 12,
        "num_heads": 12,
        "hidden_dim": 768,
        "intermediate_dim": 3072,
        "num_features": 64,
    },
}


def preset_arguments(preset: str) -> dict:
    """Return the arguments of `Encoder` for a preset.

    Raises:
        ValueError: For an unknown preset.
    """
    check_one_of(tuple(PRESETS), preset=preset)
    return dict(PRESETS[preset])
