"""Calls a .tflite file like the Keras model it came from, on texts too."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from .litert_ids import LiteRTIdsModel
from .text_ops import text_ops


class LiteRTModel(LiteRTIdsModel):
    """A .tflite file from `export_tflite`, called like the model: a `LiteRTIdsModel` that takes texts too.

    Token ids need ai-edge-litert and numpy only; text needs tensorflow-text too, for the tokenizer's ops. Threads may
    share a model.

    Attributes: `lengths` and `any_length`, as of a `LiteRTIdsModel`; `reads_text`, whether the file holds a tokenizer.

    Args:
        path: The .tflite file.
        num_threads: Threads that one call may use; LiteRT's own choice by default.
        too_long: "error" refuses a document longer than the largest signature; "windows" splits it, as a
            `LiteRTIdsModel` says.
        runtime: "interpreter", or "compiled" for LiteRT's CompiledModel, on the CPU; the tokenizer's ops run on the
            interpreter always.

    Raises:
        ValueError: If `path` is not a file that `export_tflite` wrote, another argument is none of the above, or the
            installed ai-edge-litert cannot run "compiled".
    """

    @property
    def reads_text(self) -> bool:
        """Whether the file holds a tokenizer."""
        return "tokenize" in self._runtime.signatures

    def __call__(self, inputs: Mapping[str, np.ndarray] | Sequence[str | bytes]) -> np.ndarray:
        """Run the model on a batch.

        Args:
            inputs: `{"token_ids": int (batch, n), "padding_mask": int or bool (batch, n)}`, or texts, a list of `str`
                or UTF-8 `bytes`.

        Returns:
            The model's output, float32 `(batch, ...)`. An output with a row per token has n of them (for texts as many
            as the longest has tokens), zeros where the padding mask is 0.

        Raises:
            ValueError: For wrong shapes or dtypes, ids outside the vocabulary, wrong texts, text where the file holds
                no tokenizer, or a document with more tokens than the largest signature takes, unless `too_long` says
                otherwise.
        """
        if isinstance(inputs, Mapping):
            return super().__call__(inputs)
        if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "iuf":
            raise ValueError(
                '`inputs` must be {"token_ids": ..., "padding_mask": ...} or texts. '
                f"Received: an array of {inputs.dtype} of shape {inputs.shape}"
            )
        from ..text import check_texts

        texts = check_texts(inputs)
        if not self.reads_text:
            raise ValueError(
                "`inputs` must be token ids: the file was exported without a tokenizer. Received: a list of texts"
            )
        return self._run_texts(texts)

    def _run_texts(self, texts: list[str]) -> np.ndarray:
        documents = [self._token_ids(text) for text in texts]
        counts = np.array([len(document) for document in documents])
        token_ids = np.zeros((len(texts), counts.max()), np.int32)
        for row, document in zip(token_ids, documents, strict=True):
            row[: len(document)] = document
        return self._run_batch(token_ids, np.arange(counts.max()) < counts[:, np.newaxis], "texts")

    def _token_ids(self, text: str) -> np.ndarray:
        with self._lock:
            return self._tokenize(text=np.array([text.encode()], dtype=object))["token_ids"][0]

    @functools.cached_property
    def _tokenize(self):
        # ids stay on the plain interpreter; this one prepares the small tokenizer only.
        from ai_edge_litert.interpreter import InterpreterWithCustomOps

        interpreter = InterpreterWithCustomOps(model_path=self._path, custom_op_registerers=text_ops())
        return interpreter.get_signature_runner("tokenize")
