"""Compares an exported file, run in a process of its own, with the Keras model it came from."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .litert_ids import has_length_axis
from .signatures import all_layers, check_model

if TYPE_CHECKING:
    import keras

    from ..text import Tokenizer

SAMPLE_TEXTS = (
    "The people of the United States gave us the trust.",
    "Überraschung! Naïve café owners paid 1,234.50 € in São Paulo (100 % more than in 2019), didn't they? 🙂",
    "東京は日本の首都です。 Москва — столица России. a/b_c-d@example.com #1 -- [MASK] <html> x^2 + y^2 = z^2",
    "It was a long report, written over many years by people who had never met: it spoke of roads and harbours, of "
    "schools, of taxes that nobody wished to pay and of wars that nobody wished to fight, and at the end of every "
    "chapter it asked the reader to be patient, because what had taken so long to build would take as long to repair.",
)

# What a signature for any length is compared at, beside the texts.
ODD_LENGTHS = (1, 7, 63, 64, 65, 129, 1000)


@dataclass(frozen=True)
class Sample:
    """One document, cut or padded to one length.

    Attributes: `token_ids` and `padding_mask`, int32 `(1, n)`; `text`, None where ids were drawn; `token_count`, the
    tokens the text has, those beyond n included; `output`, what the Keras model returns, float `(1, ...)`.
    """

    token_ids: np.ndarray
    padding_mask: np.ndarray
    text: str | None
    token_count: int
    output: np.ndarray


def make_samples(
    model: "keras.Model",
    length: int | None,
    tokenizer: "Tokenizer | None" = None,
    sample_texts: Iterable[str] | None = None,
) -> list[Sample]:
    """Documents of one length and the Keras model's outputs for them, on the CPU.

    Args:
        model: What `check_model` accepts.
        length: The sequence length n. None for any: texts as long as they are, ids of `ODD_LENGTHS`, once padded.
        tokenizer: Turns texts into ids. Without one the ids are drawn at random, for documents of 1, n/2 and n tokens.
        sample_texts: Texts to take; by default one sentence, and texts of about n/2 and of more than n tokens made of
            `SAMPLE_TEXTS`.

    Returns:
        The samples.

    Raises:
        ValueError: If the model returns values that are not finite.
    """
    longest = max(ODD_LENGTHS) if length is None else length
    if tokenizer is None:
        rng = np.random.default_rng(0)
        ids = rng.integers(0, _vocabulary_size(model) or 2, longest)
        documents = [] if length is None else [(None, ids[:n]) for n in sorted({1, (length + 1) // 2, length})]
    else:
        texts = sample_texts or _texts(tokenizer, longest)
        documents = [(text, tokenizer([text])["token_ids"][0]) for text in texts]
        ids = np.resize(max((ids for _, ids in documents), key=len), longest)
    pad_id = 0 if tokenizer is None else tokenizer.pad_id
    if length is not None:
        return [_sample(model, length, text, ids, pad_id) for text, ids in documents]
    samples = [_sample(model, len(ids), text, ids, pad_id) for text, ids in documents]
    samples += [_sample(model, n, None, ids[:n], pad_id) for n in ODD_LENGTHS]
    return [*samples, _sample(model, longest, None, ids[: longest // 3], pad_id)]


def _sample(model: "keras.Model", length: int, text: str | None, ids: np.ndarray, pad_id: int) -> Sample:
    import tensorflow as tf

    token_ids = np.full((1, length), pad_id, dtype=np.int32)
    token_ids[0, : len(ids)] = ids[:length]
    padding_mask = (np.arange(length)[np.newaxis] < len(ids)).astype(np.int32)
    with tf.device("CPU"):  # GPUs round float32 products to TensorFloat-32: that is not the export's error.
        output = np.asarray(model({"token_ids": token_ids, "padding_mask": padding_mask}, training=False), np.float32)
    if not np.isfinite(output).all():
        raise ValueError(f"`model` must return finite values; it does not at length {length}. Received: model={model}")
    return Sample(token_ids, padding_mask, text, len(ids), output)


def _texts(tokenizer: "Tokenizer", length: int) -> list[str]:
    words = " ".join(SAMPLE_TEXTS).split()
    tokens_per_word = tokenizer([" ".join(words)])["token_ids"].size / len(words)
    words = words * (1 + int(1.5 * length / tokens_per_word / len(words)))
    return [SAMPLE_TEXTS[0], " ".join(words[: max(1, int(length / 2 / tokens_per_word))]), " ".join(words)]


def _vocabulary_size(model: "keras.Model") -> int | None:
    """Token ids that every embedding of the model has; None where it has no embedding."""
    import keras

    return min((x.input_dim for x in all_layers(model) if isinstance(x, keras.layers.Embedding)), default=None)


def run_in_own_process(
    kind: str, path: str | os.PathLike, calls: Sequence[tuple[str, dict]], with_text_ops: bool
) -> list[dict]:
    """Run an exported file in a fresh Python that sees nothing of this process.

    Args:
        kind: "litert" or "saved_model".
        path: The exported file or folder.
        calls: (signature, inputs) pairs, the inputs as lists: strings for `text`, else int32.
        with_text_ops: Load tensorflow-text's ops, which a SavedModel with a tokenizer needs whatever is called.

    Returns:
        For each call its outputs by name, numpy arrays.

    Raises:
        RuntimeError: If the process fails; the message holds the end of what it said.
    """
    runner = Path(__file__).with_name("_runner.py")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory(prefix="krpe_tf_parity_") as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.npz")
        request.write_text(json.dumps(calls), encoding="utf-8")
        ops = "text" if with_text_ops else "builtin"
        # -P keeps this folder's modules out of the other process's path.
        command = [sys.executable, "-P", str(runner), kind, os.fspath(path), ops, str(request), str(answer)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            signatures = ", ".join(dict.fromkeys(signature for signature, _ in calls))
            raise RuntimeError(
                f"the exported file failed in its own process (signatures {signatures}, exit status "
                f"{done.returncode}): {done.stderr[-2000:]}"
            )
        results: list[dict] = [{} for _ in calls]
        with np.load(answer) as arrays:
            for key, value in arrays.items():
                index, _, name = key.partition("/")
                results[int(index)][name] = value
    return results


def max_error(samples: Sequence[Sample], outputs: Sequence[np.ndarray]) -> float:
    """The largest difference over the largest output: the first of `relative_errors`."""
    return relative_errors(samples, outputs)[0]


def relative_errors(samples: Sequence[Sample], outputs: Sequence[np.ndarray]) -> tuple[float, float]:
    """The largest and the mean difference over the largest output, all over all samples and their valid positions.

    Args:
        samples: The samples; an output with a length axis counts where the padding mask is 1.
        outputs: The exported file's output for each, as the sample's.

    Returns:
        Both relative errors; infinity where an output has another shape or is not finite.
    """
    differences, largest = [], float(np.finfo(np.float32).tiny)
    for sample, output in zip(samples, outputs, strict=True):
        if output.shape != sample.output.shape or not np.isfinite(output).all():
            return float("inf"), float("inf")
        reference, output = sample.output.astype(np.float64), output.astype(np.float64)
        if has_length_axis(output.shape, sample.token_ids.shape[1]):
            valid = sample.padding_mask.astype(bool)
            reference, output = reference[valid], output[valid]
        differences.append(np.abs(reference - output).ravel())
        largest = max(largest, float(np.abs(reference).max()))
    differences = np.concatenate(differences)
    return float(differences.max()) / largest, float(differences.mean()) / largest


def check_errors(errors: dict[str, float], tolerance: float) -> None:
    """Refuse an export whose error passes the tolerance.

    Raises:
        ValueError: With every signature that fails and its error.
    """
    failed = {name: error for name, error in errors.items() if not error <= tolerance}
    if failed:
        listed = ", ".join(f"{name} {error:.3g}" for name, error in failed.items())
        raise ValueError(
            "the exported file must agree with the Keras model, and nothing was written because it does not: max error "
            f"over max|output|: {listed}. Received: tolerance={tolerance}"
        )


def check_arguments(
    model: "keras.Model",
    tokenizer: "Tokenizer | None",
    sample_texts: Iterable[str] | None,
    tolerance: float,
) -> tuple[int | None, list[str] | None]:
    """Check the arguments that both exports take.

    Returns:
        The model's one length (None for any) and the sample texts as a list (None where there are none).

    Raises:
        ValueError: For a wrong model, tokenizer, text or tolerance.
    """
    length = check_model(model)
    if tokenizer is not None and not hasattr(tokenizer, "tokenize_one"):
        raise ValueError(
            "`tokenizer` must be a WordPieceTokenizer, a SentencePieceTokenizer or None. "
            f"Received: tokenizer={tokenizer!r}"
        )
    embedded = _vocabulary_size(model)
    if tokenizer is not None and embedded is not None and tokenizer.vocabulary_size > embedded:
        raise ValueError(
            f"`tokenizer` must have at most the {embedded} tokens that the model embeds. "
            f"Received: tokenizer with {tokenizer.vocabulary_size} tokens"
        )
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not tolerance > 0:
        raise ValueError(f"`tolerance` must be a number above 0. Received: tolerance={tolerance!r}")
    if sample_texts is None:
        return length, None
    if tokenizer is None:
        raise ValueError(f"`sample_texts` needs a tokenizer. Received: tokenizer=None, sample_texts={sample_texts!r}")
    from ..text import check_texts

    return length, check_texts(sample_texts)
