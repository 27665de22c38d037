"""Calls a .tflite file like the Keras model it came from."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from .parity import has_length_axis


class LiteRTModel:
    """A .tflite file from `export_tflite`, called like the model.

    Each document runs on the smallest signature that holds it. Token ids need ai-edge-litert and numpy only; text needs
    tensorflow-text too, for the tokenizer's ops. Not for several threads at once.

    Attributes: `lengths`, those of the file's signatures, ascending; `reads_text`, whether the file holds a tokenizer.

    Args:
        path: The .tflite file.
        num_threads: Threads that one call may use; LiteRT's own choice by default.

    Raises:
        ValueError: If `path` is not a file that `export_tflite` wrote, or `num_threads` is below 1.
    """

    def __init__(self, path: str | os.PathLike, num_threads: int | None = None):
        from ai_edge_litert.interpreter import Interpreter

        if num_threads is not None and (
            isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1
        ):
            raise ValueError(f"`num_threads` must be an integer of 1 or more. Received: num_threads={num_threads!r}")
        self._path = os.fspath(path)
        try:
            self._interpreter = Interpreter(model_path=self._path, num_threads=num_threads)
        except ValueError as error:
            raise ValueError(f"`path` must be a .tflite file ({error}). Received: path={self._path!r}") from error
        names = self._interpreter.get_signature_list()
        self.lengths = sorted(int(name.removeprefix("ids_")) for name in names if name.startswith("ids_"))
        self.reads_text = "tokenize" in names
        if not self.lengths:
            raise ValueError(f"`path` must be a file that export_tflite wrote. Received: path={self._path!r}")
        self._tokenize = None

    def __call__(self, inputs: Mapping[str, np.ndarray] | Sequence[str | bytes]) -> np.ndarray:
        """Run the model on a batch.

        Args:
            inputs: `{"token_ids": int (batch, n), "padding_mask": int or bool (batch, n)}`, or texts, a list of `str`
                or UTF-8 `bytes`.

        Returns:
            The model's output, float32 `(batch, ...)`. An output with a length axis has n positions (for texts as many
            as the longest has tokens), zeros where the padding mask is 0.

        Raises:
            ValueError: For wrong shapes or texts, text where the file holds no tokenizer, or a document with more
                tokens than the largest signature takes.
        """
        if isinstance(inputs, Mapping):
            return self._run_ids(*_check_ids(inputs))
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
        if self._tokenize is None:
            self._tokenize = self._tokenizer()
        documents = [self._tokenize(text=np.array([text.encode()], dtype=object))["token_ids"][0] for text in texts]
        counts = np.array([len(document) for document in documents])
        self._check_counts(counts, "texts")
        token_ids = np.zeros((len(texts), counts.max()), np.int32)
        for row, document in zip(token_ids, documents, strict=True):
            row[: len(document)] = document
        return self._run_ids(token_ids, np.arange(counts.max()) < counts[:, np.newaxis])

    def _tokenizer(self):
        # ids stay on the plain interpreter; this one prepares the small tokenizer only.
        from ai_edge_litert.interpreter import InterpreterWithCustomOps
        from tensorflow_text.core.pybinds import tflite_registrar

        return InterpreterWithCustomOps(
            model_path=self._path, custom_op_registerers=tflite_registrar.SELECT_TFTEXT_OPS
        ).get_signature_runner("tokenize")

    def _run_ids(self, token_ids: np.ndarray, padding_mask: np.ndarray) -> np.ndarray:
        width = token_ids.shape[1]
        counts = np.where(padding_mask.any(1), width - np.argmax(padding_mask[:, ::-1], 1), 1)
        self._check_counts(counts, "token_ids")
        return np.stack(
            [
                self._run_one(ids[:n], mask[:n], width)
                for ids, mask, n in zip(token_ids, padding_mask, counts, strict=True)
            ]
        )

    def _run_one(self, token_ids: np.ndarray, padding_mask: np.ndarray, width: int) -> np.ndarray:
        count = len(token_ids)
        length = next(n for n in self.lengths if n >= count)
        padding = ((0, 0), (0, length - count))
        try:
            output = self._interpreter.get_signature_runner(f"ids_{length}")(
                token_ids=np.pad(token_ids[np.newaxis].astype(np.int32), padding),
                padding_mask=np.pad(padding_mask[np.newaxis].astype(np.int32), padding),
            )["output"]
        except RuntimeError as error:
            if "out of bound" not in str(error):
                raise
            raise ValueError(
                "`token_ids` must lie in the vocabulary that the model was built for. "
                f"Received: token_ids from {token_ids.min()} to {token_ids.max()}"
            ) from error
        if has_length_axis(output.shape, length):
            valid = output[0, :count] * padding_mask[:, np.newaxis]
            output = np.zeros((1, width, *output.shape[2:]), output.dtype)
            output[0, :count] = valid
        return output[0]

    def _check_counts(self, counts: np.ndarray, name: str) -> None:
        longest = int(counts.argmax())
        if counts[longest] > self.lengths[-1]:
            raise ValueError(
                f"`{name}` must hold documents of at most {self.lengths[-1]} tokens, the file's largest signature. "
                f"Received: {name}[{longest}] with {counts[longest]} tokens"
            )


def _check_ids(inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if sorted(inputs) != ["padding_mask", "token_ids"]:
        raise ValueError(f"`inputs` must hold token_ids and padding_mask. Received: inputs with {sorted(inputs)}")
    token_ids, padding_mask = np.asarray(inputs["token_ids"]), np.asarray(inputs["padding_mask"])
    if token_ids.ndim != 2 or token_ids.shape != padding_mask.shape or 0 in token_ids.shape:
        raise ValueError(
            "`inputs` must hold token_ids and padding_mask of one shape (batch, n), both 1 or more. Received: "
            f"token_ids of shape {token_ids.shape}, padding_mask of shape {padding_mask.shape}"
        )
    if not np.issubdtype(token_ids.dtype, np.integer):
        raise ValueError(f"`token_ids` must be integers. Received: token_ids of dtype {token_ids.dtype}")
    return token_ids, padding_mask.astype(bool)
