"""Runs a .tflite file from krpe_tf's `export_tflite` on token ids, with numpy and ai-edge-litert alone.

This one file imports nothing else: an app may copy it.

    model = LiteRTIdsModel("model.tflite")
    model({"token_ids": [[2, 17, 9, 3]], "padding_mask": [[1, 1, 1, 1]]})
"""

import os
import re
import threading
from collections.abc import Mapping, Sequence

import numpy as np


class LiteRTIdsModel:
    """The ids signatures of a .tflite file from `export_tflite`, called like the Keras model.

    A batch runs one document after another, each on the smallest signature that holds it: `ids_n`, padded to n tokens,
    or `ids_any`, not padded, where the file has it and every n is too small. Threads may share a model: LiteRT runs one
    document at a time, and each thread gets the answer to its own.

    With `too_long="windows"` a document that no signature holds is split into windows: as few as fit the largest
    signature, of equal length but for one token, none in two windows. A document is expected as the tokenizers make it,
    and so is every window: the document's first token ([CLS]), a part of what lies between, its last token
    ([SEP]). The windows' outputs are put together:
    - an output with a row per token is joined: every token's row from its window, [CLS] from the first, [SEP] from the
      last. A token sees no further than its window.
    - any other output, such as logits, is the mean over the windows, each weighted by the tokens that its mask shows.

    Attributes: `lengths`, every n of the signatures `ids_n`, ascending; `any_length`, whether there is `ids_any`.

    Args:
        path: The .tflite file.
        num_threads: Threads that one call may use; LiteRT's own choice by default.
        too_long: "error" refuses a document longer than the largest signature; "windows" splits it as above.
        runtime: "interpreter", or "compiled" for LiteRT's CompiledModel, on the CPU.

    Raises:
        ValueError: If `path` is not a file that `export_tflite` wrote, another argument is none of the above, or the
            installed ai-edge-litert cannot run "compiled".
    """

    def __init__(
        self,
        path: str | os.PathLike,
        num_threads: int | None = None,
        *,
        too_long: str = "error",
        runtime: str = "interpreter",
    ):
        if num_threads is not None and (
            isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1
        ):
            raise ValueError(f"`num_threads` must be an integer of 1 or more. Received: num_threads={num_threads!r}")
        if too_long not in ("error", "windows"):
            raise ValueError(f"`too_long` must be 'error' or 'windows'. Received: too_long={too_long!r}")
        if runtime not in ("interpreter", "compiled"):
            raise ValueError(f"`runtime` must be 'interpreter' or 'compiled'. Received: runtime={runtime!r}")
        self._path = os.fspath(path)
        self._too_long = too_long
        self._lock = threading.Lock()  # LiteRT keeps inputs and outputs in the model: one run at a time.
        self._runtime = (_Interpreter if runtime == "interpreter" else _Compiled)(self._path, num_threads)
        names = self._runtime.signatures
        self.lengths = sorted(int(name.removeprefix("ids_")) for name in names if re.fullmatch(r"ids_\d+", name))
        self.any_length = "ids_any" in names
        if not (self.lengths or self.any_length):
            raise ValueError(f"`path` must be a file that export_tflite wrote. Received: path={self._path!r}")
        if too_long == "windows" and not self.any_length and self.lengths[-1] < 3:
            raise ValueError(
                "`too_long` may be 'windows' only where the largest signature holds [CLS], a token and [SEP]. "
                f"Received: too_long='windows', a file for {self.lengths[-1]} tokens"
            )

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Run the model on a batch.

        Args:
            inputs: `{"token_ids": int (batch, n), "padding_mask": int or bool (batch, n)}`. Tokens where the mask is 0
                change nothing.

        Returns:
            The model's output, float32 `(batch, ...)`. An output with a row per token has n of them, zeros where the
            padding mask is 0.

        Raises:
            ValueError: For wrong shapes or dtypes, ids outside the vocabulary, or a document with more tokens than the
                largest signature takes, unless `too_long` says otherwise.
        """
        return self._run_batch(*_check_ids(inputs), "token_ids")

    def _run_batch(self, token_ids: np.ndarray, padding_mask: np.ndarray, name: str) -> np.ndarray:
        width = token_ids.shape[1]
        counts = np.where(padding_mask.any(1), width - np.argmax(padding_mask[:, ::-1], 1), 1)
        longest = int(counts.argmax())
        if self._too_long == "error" and not self._holds(counts[longest]):
            raise ValueError(
                f"`{name}` must hold documents of at most {self.lengths[-1]} tokens, the file's largest signature, or "
                f"too_long='windows' be given. Received: {name}[{longest}] with {counts[longest]} tokens"
            )
        outputs = []
        for ids, mask, count in zip(token_ids, padding_mask, counts, strict=True):
            run = self._run_one if self._holds(count) else self._run_windows
            output, per_token = run(ids[:count], mask[:count])
            if per_token:
                output[~mask[:count]] = 0
                output = np.concatenate([output, np.zeros((width - count, *output.shape[1:]), output.dtype)])
            outputs.append(output)
        return np.stack(outputs)

    def _holds(self, count: int) -> bool:
        return self.any_length or count <= self.lengths[-1]

    def _run_one(self, token_ids: np.ndarray, padding_mask: np.ndarray) -> tuple[np.ndarray, bool]:
        """One document's output, without the batch axis, and whether it has a row for each token."""
        count = len(token_ids)
        length = next((n for n in self.lengths if n >= count), None)
        padding = (0, 0 if length is None else length - count)
        inputs = {
            "token_ids": np.pad(np.where(padding_mask, token_ids, 0).astype(np.int32), padding)[np.newaxis],
            "padding_mask": np.pad(padding_mask.astype(np.int32), padding)[np.newaxis],
        }
        try:
            with self._lock:
                output = self._runtime.run("ids_any" if length is None else f"ids_{length}", inputs)
        except RuntimeError as error:
            if not re.search(self._runtime.out_of_bounds, str(error)):
                raise
            raise ValueError(
                f"`token_ids` must lie in the vocabulary that the model was built for ({error}). "
                f"Received: token_ids from {token_ids.min()} to {token_ids.max()}"
            ) from error
        per_token = has_length_axis(output.shape, length or count)
        return output[0, :count] if per_token else output[0], per_token

    def _run_windows(self, token_ids: np.ndarray, padding_mask: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return the same for a document that no signature holds."""
        last = len(token_ids) - 1
        inside = np.arange(1, last)
        parts = np.array_split(inside, -(-len(inside) // (self.lengths[-1] - 2)))
        windows = [np.concatenate([[0], part, [last]]) for part in parts]
        results = [self._run_one(token_ids[window], padding_mask[window]) for window in windows]
        outputs, per_token = [output for output, _ in results], results[0][1]
        if per_token:
            rows = [outputs[0][:1], *(output[1:-1] for output in outputs), outputs[-1][-1:]]
            return np.concatenate(rows), True
        weights = [padding_mask[window].sum() for window in windows]
        return np.average(outputs, axis=0, weights=weights).astype(outputs[0].dtype), False


def has_length_axis(shape: Sequence[int], length: int) -> bool:
    """Return whether an output has a row for each position: `(batch, n, width)` has, `(batch, classes)` has not."""
    return len(shape) >= 3 and shape[1] == length


def _check_ids(inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(inputs, Mapping):
        received = f"{type(inputs).__name__} {inputs!r:.80}"
        raise ValueError(f'`inputs` must be {{"token_ids": ..., "padding_mask": ...}}. Received: inputs={received}')
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
    if not (np.issubdtype(padding_mask.dtype, np.integer) or padding_mask.dtype == bool):
        raise ValueError(f"`padding_mask` must be integers or bools. Received: padding_mask of {padding_mask.dtype}")
    padding_mask = padding_mask.astype(bool)
    # LiteRT counts negative ids from the vocabulary's end, without an error.
    seen = token_ids[padding_mask]
    if seen.size and (seen.min() < 0 or seen.max() > np.iinfo(np.int32).max):
        raise ValueError(
            "`token_ids` must lie in the vocabulary that the model was built for. "
            f"Received: token_ids from {seen.min()} to {seen.max()}"
        )
    return token_ids, padding_mask


class _Interpreter:
    out_of_bounds = "out of bound"

    def __init__(self, path: str, num_threads: int | None):
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_path=path, num_threads=num_threads)
        except ValueError as error:
            raise ValueError(f"`path` must be a .tflite file ({error}). Received: path={path!r}") from error
        self.signatures = list(self._interpreter.get_signature_list())

    def run(self, signature: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._interpreter.get_signature_runner(signature)(**inputs)["output"]

    def output_shape(self, signature: str, length: int) -> list[int]:
        output = self._interpreter.get_signature_runner(signature).get_output_details()["output"]
        shape = [1, *(int(n) for n in output["shape_signature"][1:])]
        if len(shape) >= 3 and shape[1] < 0:
            shape[1] = length
        if min(shape) < 0:
            raise ValueError(
                "`runtime` may be 'compiled' only where the file says how large the output is. Received: "
                f"runtime='compiled', signature {signature} with output {output['shape_signature'].tolist()}"
            )
        return shape


class _Compiled:
    # LiteRT says no more than this; the inputs of a call can be wrong in no other way.
    out_of_bounds = "Failed to invoke"

    def __init__(self, path: str, num_threads: int | None):
        try:
            from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Options
        except ImportError as error:
            raise ValueError(
                f"`runtime` may be 'compiled' from ai-edge-litert 2.2 on ({error}). Received: runtime='compiled'"
            ) from error
        self._interpreter = _Interpreter(path, num_threads)  # Knows the outputs' shapes, and never runs.
        self.signatures = self._interpreter.signatures
        # The default is the interpreter's too: one thread.
        self._model = CompiledModel.from_file(path, options=Options(cpu_options=CpuOptions(num_threads or 1)))

    def run(self, signature: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        from ai_edge_litert.tensor_buffer import TensorBuffer

        buffers = {}
        for name, value in inputs.items():
            if signature == "ids_any":
                self._model.resize_input_tensor_by_name(signature, name, value.shape)
            buffers[name] = self._model.create_input_buffer_by_name(signature, name)
            buffers[name].write(value)
        # Not create_output_buffer_by_name: after a resize it makes a buffer of the last call's size, and LiteRT writes
        # past its end. Memory of ours must start at a multiple of 64 bytes.
        shape = self._interpreter.output_shape(signature, inputs["token_ids"].shape[1])
        size = int(np.prod(shape))
        memory = np.empty(size + 16, np.float32)
        start = -memory.ctypes.data % 64 // 4
        output = memory[start : start + size]
        self._model.run_by_name(signature, buffers, {"output": TensorBuffer.create_from_host_memory(output)})
        return output.reshape(shape)
