"""The functions that an exported translator holds, traced from a Keras model: a source, and a token of its target."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..toeplitz import override
from .generator_trace import CROSS, embed, evaluate_once, runtime_name

if TYPE_CHECKING:
    from ..models import EncoderDecoder


def encode_name(length: int) -> str:
    """Return the name of the signature that reads a source of up to this length."""
    return f"encode_{length}"


def decode_name(rows: int) -> str:
    """Return the name of the signature that reads a token of so many targets of one source."""
    return "decode" if rows == 1 else f"decode_{rows}"


def translator_functions(model: "EncoderDecoder", lengths: Sequence[int], rows: Sequence[int]) -> dict[str, Any]:
    """Trace the signatures of an exported translator, each for one source.

    Args:
        model: An `EncoderDecoder` with linear attention in its decoder, in float32.
        lengths: Of sources, padded.
        rows: How many targets of a source are read at a time.

    Returns:
        Concrete functions: for each n of `lengths`, `encode_n` from int32 `source_ids` and `source_mask` `(1, n)` to
        `cross_i` of each layer i; and for each r of `rows`, `decode_r`, or `decode` for 1, from int32 `tokens`
        `(r, 1)`, these and the state to `logits`, float32 `(r, 1, vocabulary_size)`, and the state.
    """
    import tensorflow as tf

    arrays = {each.name: runtime_name(each.name) for each in model.interface.state}
    carried = [name for name, called in arrays.items() if not called.startswith(CROSS)]

    def encode(source_ids, source_mask):
        state = model.initial_state(source_ids, source_mask)
        return {called: state[name] for name, called in arrays.items() if called.startswith(CROSS)}

    def decode(tokens, **state):
        before = {name: state[called] for name, called in arrays.items()}
        vectors, after = model.step_vectors(embed(model.token_embedding, tokens), before)
        logits = model.token_embedding(vectors, reverse=True)
        return {"logits": logits, **{arrays[name]: after[name] for name in carried}}

    def trace(function, specs: dict):
        specs = {name: tf.TensorSpec(shape, dtype, name=name) for name, (shape, dtype) in specs.items()}
        return tf.function(function, autograph=False).get_concrete_function(**specs)

    def state_specs(r: int) -> dict:
        shapes = {each.name: each.shape(batch=r if each.name in carried else 1) for each in model.interface.state}
        return {called: (shapes[name], tf.float32) for name, called in arrays.items()}

    functions = {}
    with override(forward_transforms=True, evaluate=evaluate_once):
        for n in lengths:
            specs = dict.fromkeys(("source_ids", "source_mask"), ((1, n), tf.int32))
            functions[encode_name(n)] = trace(encode, specs)
        for r in rows:
            functions[decode_name(r)] = trace(decode, {"tokens": ((r, 1), tf.int32), **state_specs(r)})
    return functions
