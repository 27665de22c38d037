"""Pack an exported language model for LiteRT-LM, Google's runtime of language models on phones."""

import importlib.util
import os
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..checks import check_at_least
from ..files import staged
from ..models import CausalLM
from .checks import check_tokenizer
from .generator import export_generator
from .generator_trace import STATE
from .inspection import signature_shapes

if TYPE_CHECKING:
    from ..text import PieceTokenizer

# Memory does not grow with the text, so that no limit is needed. LiteRT-LM wants one.
MOST_TOKENS = 1_000_000


def export_litertlm(
    model: "CausalLM | str | os.PathLike",
    path: str | os.PathLike,
    tokenizer: "PieceTokenizer",
    prefill: Sequence[int] | None = None,
    quantization: str | None = None,
    *,
    max_tokens: int = MOST_TOKENS,
    overwrite: bool = False,
) -> None:
    """Write a .litertlm file: a language model and its tokenizer, for LiteRT-LM.

    LiteRT-LM decodes in constant memory with it (tried with 0.18). Where a session does not say how tokens are chosen,
    it takes the most probable one. The model continues texts; the file has no template for conversations.

    Args:
        model: A `CausalLM`, which is exported as `export_generator` does; or the path of a .tflite file that
            `export_generator` wrote with the same tokenizer.
        path: The file to make.
        tokenizer: A `PieceTokenizer`: LiteRT-LM reads its SentencePiece model. `ByteTokenizer` has none.
        prefill, quantization: See `export_generator`; of a `CausalLM`, and left out for a file, which has its own.
        max_tokens: What a session of LiteRT-LM may read and write in all, at most 2**31 - 1.
        overwrite: Replace a file that lies at `path`.

    Raises:
        ValueError: For wrong arguments, those of `export_generator` among them, or an existing or unwritable `path`.
        RuntimeError: As `export_generator`.
    """
    if getattr(tokenizer, "reversible", False) is not True or not hasattr(tokenizer, "model"):
        raise ValueError(
            "`tokenizer` must be a PieceTokenizer, whose SentencePiece model LiteRT-LM reads; train with "
            f"`--tokenizer sentencepiece`. Received: tokenizer={tokenizer!r}"
        )
    check_at_least(1, max_tokens=max_tokens)
    if max_tokens > 2**31 - 1:
        raise ValueError(f"`max_tokens` must be at most 2**31 - 1. Received: max_tokens={max_tokens}")
    if not isinstance(model, (CausalLM, str, os.PathLike)):
        raise ValueError(
            f"`model` must be a CausalLM, or the path of a file that `export_generator` wrote. Received: {model!r}"
        )
    given = {name: x for name, x in (("prefill", prefill), ("quantization", quantization)) if x is not None}
    if given and not isinstance(model, CausalLM):
        raise ValueError(
            f"`{next(iter(given))}` must be left out for a file, which has its own. "
            f"Received: {', '.join(f'{name}={x!r}' for name, x in given.items())}"
        )
    _check_builder()
    if isinstance(model, CausalLM):
        check_tokenizer(tokenizer, model, reversible=True)
    with staged(path, overwrite) as target, tempfile.TemporaryDirectory(dir=target.parent.parent) as folder:
        if isinstance(model, CausalLM):
            file = Path(folder, "model.tflite")
            export_generator(model, file, (64,) if prefill is None else prefill, tokenizer, quantization, measure=False)
        else:
            file = Path(model)
        _pack(file, Path(folder), target, tokenizer, _state_names(file, tokenizer), max_tokens)


def _check_builder() -> None:
    if importlib.util.find_spec("litert_lm_builder") is None:
        raise ValueError(
            "a .litertlm file needs the package litert-lm-builder, of the extra `tensorflow`. Received: none installed"
        )


def _state_names(file: Path, tokenizer: "PieceTokenizer") -> list[str]:
    """Return the names of a file's state; refuse a file of another kind, or of another vocabulary."""
    try:
        inputs, outputs = signature_shapes(file.read_bytes(), "decode")
        size = outputs["logits"][-1]
    except (OSError, LookupError, StopIteration, TypeError, ValueError, struct.error) as error:
        raise ValueError(
            "`model` must be a CausalLM, or the path of a file that `export_generator` wrote. "
            f"Received: model={str(file)!r} ({type(error).__name__}: {error})"
        ) from error
    if size != tokenizer.vocabulary_size:
        raise ValueError(
            f"`tokenizer` must have the {size} tokens that the model writes. "
            f"Received: tokenizer with {tokenizer.vocabulary_size} tokens"
        )
    return [name for name in inputs if name.startswith(STATE)]


def _pack(file: Path, folder: Path, target: Path, tokenizer: "PieceTokenizer", state: list[str], max_tokens: int):
    from litert_lm_builder import litertlm_builder, litertlm_core

    # TYPE_LINEAR_ATTENTION: the runtime hands such a buffer on from call to call, and does not index it by position.
    buffers = "\n".join(
        f'state_buffers {{ prefill_input_name: "{name}" prefill_output_name: "{name}" decode_input_name: "{name}" '
        f'decode_output_name: "{name}" type: TYPE_LINEAR_ATTENTION }}'
        for name in state
    )
    (folder / "executor.textproto").write_text(f"llm_executor_metadata {{\n{buffers}\n}}\n", encoding="utf-8")
    # Top 1: the most probable token, unless the session chooses otherwise.
    (folder / "llm.textproto").write_text(
        f"""start_token {{ token_ids {{ ids: [{tokenizer.start_id}] }} }}
stop_tokens {{ token_ids {{ ids: [{tokenizer.end_id}] }} }}
sampler_params {{ type: TOP_P k: 1 p: 1.0 temperature: 1.0 seed: 0 }}
max_num_tokens: {max_tokens}
llm_model_type {{ generic_model {{}} }}
""",
        encoding="utf-8",
    )
    (folder / "pieces.model").write_bytes(tokenizer.model)
    builder = litertlm_builder.LitertLmFileBuilder()
    builder.add_system_metadata(
        litertlm_builder.Metadata(key="Authors", value="krpe_tf", dtype=litertlm_builder.DType.STRING)
    )
    builder.add_llm_metadata(str(folder / "llm.textproto"), supports_thinking=False, supports_function_calling=False)
    builder.add_executor_metadata(str(folder / "executor.textproto"))
    builder.add_tflite_model(str(file), litertlm_builder.TfLiteModelType.PREFILL_DECODE)
    builder.add_sentencepiece_tokenizer(str(folder / "pieces.model"))
    with litertlm_core.open_file(str(target), "wb") as stream:
        builder.build(stream)
