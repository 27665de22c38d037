"""Breaks the numerics on purpose, one line at a time, and shows that the tests notice each: `make mutations`.

Every mutation is one replacement in a copy of the checkout; the tests that must fail on it run against the copy.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOEPLITZ = "krpe_tf/toeplitz/"
# file, what stands there, what breaks it, the test file that notices
MUTATIONS = [
    (TOEPLITZ + "cache.py", "<= length + ops.arange(n)", "< length + ops.arange(n)", "test_cross_attention.py"),
    (TOEPLITZ + "cache.py", "- (length + n - 1)", "- (length + n)", "test_cross_attention.py"),
    (
        TOEPLITZ + "sums.py",
        "at_least_float32(value), key_mask)",
        "at_least_float32(value), None)",
        "test_cross_attention.py",
    ),
    ("models/samplers.py", "ends >= least", "ends > least", "test_translation_search.py"),
    (TOEPLITZ + "dense.py", "key_position <= position", "key_position < position", "test_toeplitz.py"),
    (TOEPLITZ + "dense.py", "start = (blocks - 1) * rows - first", "start = (blocks - 1) * rows", "test_toeplitz.py"),
    (
        TOEPLITZ + "dense.py",
        "visible, ops.exp(logits - maximum), 0",
        "visible, ops.exp(logits), 0",
        "test_toeplitz_range.py",
    ),
    (TOEPLITZ + "dense.py", "place=first, rows=BLOCK", "place=0, rows=BLOCK", "test_toeplitz.py"),
    (TOEPLITZ + "dense.py", "max(first + size, prefix_length or 0)", "first + size", "test_toeplitz.py"),
    (TOEPLITZ + "numerics.py", "ops.where(visible, key_features, zero)", "key_features", "test_toeplitz.py"),
    (TOEPLITZ + "numerics.py", "diagonals, (0, rows - 1)", "diagonals, (0, rows - 2)", "test_toeplitz.py"),
    (TOEPLITZ + "fft.py", "shift > -n_k", "shift > -n_k + 1", "test_toeplitz.py"),
    (TOEPLITZ + "fft.py", "x * imaginary + y * real", "x * imaginary - y * real", "test_toeplitz.py"),
    (TOEPLITZ + "fft.py", "fast_length(n_q + n_k - 1)", "fast_length(n_q + n_k - 3)", "test_toeplitz.py"),
    (
        TOEPLITZ + "fft.py",
        "kept = log_weights <= -LEVEL_HEIGHT * this_level",
        "kept = log_weights <= 0",
        "test_toeplitz_range.py",
    ),
    (TOEPLITZ + "fft.py", "[..., :n_q] > 0.5", "[..., :n_q] > 1.5", "test_toeplitz_range.py"),
    (TOEPLITZ + "fft.py", 'ops.cast(index, "int32") * group', 'ops.cast(index, "int32")', "test_toeplitz.py"),
    (TOEPLITZ + "fft.py", "lower, lower + LEVELS", "lower, lower", "test_toeplitz_range.py"),
    (TOEPLITZ + "banded.py", "2 * (radius - 1) <= chunk", "radius - 1 <= chunk", "test_toeplitz.py"),
    (TOEPLITZ + "banded.py", "direction > 0, group, -1", "direction > 0, group + 1, -1", "test_toeplitz.py"),
    (TOEPLITZ + "banded.py", "between >= 0", "between >= 1", "test_toeplitz.py"),
    (
        TOEPLITZ + "banded.py",
        "[:sides] + 1 - position_bias.radius",
        "[:sides] - position_bias.radius",
        "test_toeplitz.py",
    ),
    (TOEPLITZ + "banded.py", "[chunk - 1 - place, place]", "[chunk - place, place]", "test_toeplitz.py"),
    (
        TOEPLITZ + "banded.py",
        "(log_amplitudes - largest)[:, None]",
        "(log_amplitudes + 0 * largest)[:, None]",
        "test_toeplitz.py",
    ),
    (TOEPLITZ + "banded.py", "side * (blocks - 1), 0)", "0, 0)", "test_toeplitz.py"),
    (TOEPLITZ + "banded.py", "direction > 0, -1, group", "direction > 0, -2, group", "test_toeplitz.py"),
    (TOEPLITZ + "banded.py", "matrices(decays * group", "matrices(decays", "test_toeplitz.py"),
    (TOEPLITZ + "banded.py", "chunks * chunk <= chunk + lead", "n <= chunk + lead", "test_toeplitz.py"),
    (TOEPLITZ + "banded.py", "ops.where(same, here, 0)", "here", "test_segments.py"),
    (TOEPLITZ + "banded.py", "of_keys == border, key, 0", "of_keys == of_keys, key, 0", "test_segments.py"),
    (TOEPLITZ + "banded.py", "of_queries == border, query", "of_queries == of_queries, query", "test_segments.py"),
    (TOEPLITZ + "banded.py", "to[..., None] == come[..., None, :]", "to[..., None] >= 0", "test_segments.py"),
    (TOEPLITZ + "banded.py", "(0, blocks + 1), strict", "(0, blocks), strict", "test_segments.py"),
    (TOEPLITZ + "banded.py", "(size, 1, count)) for", "(size, 1, count)) * 0 for", "test_segments.py"),
    (TOEPLITZ + "banded.py", "(group - 1, 0), strict", "(0, group - 1), strict", "test_segments.py"),
    (TOEPLITZ + "numerics.py", "segment_ids[:, 1:] !=", "segment_ids[:, 1:] >", "test_segments.py"),
    (
        TOEPLITZ + "dense.py",
        "ops.pad(segments, [[0, 0], [0, rows]]), (0, first)",
        "ops.pad(segments, [[0, 0], [0, rows]]), (0, 0)",
        "test_segments.py",
    ),
    (TOEPLITZ + "streaming.py", "ops.where(own == 0, query, 0)", "query", "test_segments.py"),
    (TOEPLITZ + "streaming.py", "ops.where(met == end, keys, 0)", "keys", "test_segments.py"),
    (TOEPLITZ + "streaming.py", "ops.where(end == 0, last_sums, 0)", "last_sums", "test_segments.py"),
    (TOEPLITZ + "streaming.py", "(place + 1))", "place)", "test_streaming.py"),
    (TOEPLITZ + "streaming.py", "(n - 1 - place)", "(n - place)", "test_streaming.py"),
    (TOEPLITZ + "streaming.py", "age = count - 1", "age = count", "test_streaming.py"),
    (TOEPLITZ + "streaming.py", "ops.exp(-rates * n)", "ops.exp(-rates * (n - 1))", "test_streaming.py"),
    (TOEPLITZ + "streaming.py", "x[:, :, start:]", "x[:, :, :radius]", "test_streaming.py"),
    (TOEPLITZ + "grid.py", "before = (blocks * grid_rows - height) * line", "before = height * line", "test_grid.py"),
    (TOEPLITZ + "grid.py", "special[None, :, 2:, None]", "special[None, :, 1:2, None]", "test_grid.py"),
    (TOEPLITZ + "dispatch.py", "causal=False, key_mask=mask", "causal=True, key_mask=mask", "test_toeplitz.py"),
    (
        "krpe_tf/position_bias/base.py",
        "distance - self.radius, 0",
        "distance - self.radius + 1, 0",
        "test_position_bias.py",
    ),
    (
        "krpe_tf/position_bias/bucketed.py",
        "np.where(offsets > 0, self.num",
        "np.where(offsets >= 0, self.num",
        "test_position_bias.py",
    ),
    (
        "krpe_tf/feature_maps.py",
        "math.log(projection.shape[-1]) / 2",
        "math.log(projection.shape[-1])",
        "test_feature_maps.py",
    ),
    ("krpe_tf/feature_maps.py", "np.sqrt(dim) / np.linalg", "1 / np.linalg", "test_feature_maps.py"),
    (TOEPLITZ + "dense.py", "(0, 0, first, 0), (batch", "(0, 0, 0, 0), (batch", "test_masks.py"),
    (
        "krpe_tf/attention/masks.py",
        "of_keys = ops.any(pairs, axis=(1, 2))",
        "of_keys = pairs[:, 0, 0]",
        "test_masks.py",
    ),
    (
        "krpe_tf/attention/layer.py",
        "self.key_dense(zero_masked(key, visible))",
        "self.key_dense(key)",
        "test_attention_inputs.py",
    ),
    ("models/samplers.py", "self.p * ops.sum(ops.exp(logits)", "self.p * ops.sum(mass", "test_samplers.py"),
    ("models/samplers.py", "ops.where(before < wanted, mass, 0)", "mass", "test_samplers.py"),
    ("models/samplers.py", "ops.take(x, followed, axis=0)", "x", "test_samplers.py"),
    ("models/samplers.py", 'log_p, search["log_p"])', "log_p, log_p)", "test_samplers.py"),
    ("models/samplers.py", "** self.length_penalty", "** 1.0", "test_samplers.py"),
    ("models/samplers.py", "-math.inf, totals)", "totals, totals)", "test_samplers.py"),
    ("models/samplers.py", '(search["log_p"][:, 0], most)', '(search["log_p"][:, 0], 1.0)', "test_samplers.py"),
    ("models/samplers.py", "stop_token_ids), ops.logical_not(forced))", "stop_token_ids), True)", "test_samplers.py"),
    ("models/generation.py", "texts[:, : shortest - 1]", "texts[:, :shortest]", "test_generation.py"),
    ("models/generation.py", "state, count=count)", "state)", "test_generation.py"),
    ("models/generation.py", "    _noise(sampler, random, prompt.shape)\n", "", "test_generation.py"),
    ("models/generation.py", ">= lengths[:, None])", ">= 0)", "test_generation.py"),
]


def fails(test: str, file: str = "", before: str = "", after: str = "") -> bool:
    """Whether the test file fails in a copy of the checkout where `before` reads `after`."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "build", "__pycache__"))
        if file:
            text = (copy / file).read_text()
            if text.count(before) != 1:
                raise ValueError(f"{file} must hold {before!r} once: bring tests/mutations.py up to date")
            (copy / file).write_text(text.replace(before, after))
        # The installed package points at the checkout; this one points at the copy.
        for name in ("models", "export"):
            (copy / "krpe_tf" / name).symlink_to(copy / name)
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-x",
                "-q",
                "-p",
                "no:cacheprovider",
                "-m",
                "not slow",
                "--hypothesis-profile=first_failure",
                f"tests/{test}",
            ],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
        )
        return run.returncode == 1


def main() -> int:
    """Prints each mutation and whether it was noticed; returns how many were not."""
    for test in sorted({test for *_, test in MUTATIONS}):
        if fails(test):
            raise RuntimeError(f"tests/{test} fails as it is: what it notices says nothing")
    missed = 0
    for file, before, after, test in MUTATIONS:
        found = fails(test, file, before, after)
        missed += not found
        print(f"{'noticed' if found else 'MISSED '}  {file}: {before}  ->  {after}", flush=True)
    print(f"{len(MUTATIONS) - missed} of {len(MUTATIONS)} noticed")
    return missed


if __name__ == "__main__":
    sys.exit(main())
