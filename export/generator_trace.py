"""The functions that an exported language model holds, traced from a Keras model: pieces of a prompt, and one token.

Each takes tokens, their positions and the state, and gives the state after them; `decode` the logits too. LiteRT-LM
runs such a file by rules that its documentation does not tell, found by trying:

- state is carried from call to call under names that begin with "kv_cache_";
- it is not cleared between texts: position 0 starts a new one;
- the last piece of a prompt is padded with token 0 at position 0;
- before the first token it decodes token 0 at position 0, which must change nothing. No text starts with id 0.
"""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..toeplitz import override

if TYPE_CHECKING:
    import keras

# What the names of all arrays of a state begin with: LiteRT-LM carries no other over.
STATE = "kv_cache_"
# The same of what a translator keeps of a source: no step changes it.
CROSS = "cross_"

PARTS = {"keys": "k", "values": "v", "sums": "s"}


def runtime_name(name: str) -> str:
    """Return what a file calls an array of a model's state: "kv_cache_k_0" for "layer_0_keys" or "decoder_0_keys"."""
    index, part = re.fullmatch(r"(?:layer|decoder)_(\d+)_(\w+)", name).groups()
    return f"{CROSS}{index}" if part == "cross_sums" else f"{STATE}{PARTS[part]}_{index}"


def prefill_name(length: int) -> str:
    """Return the name of the signature that reads a piece of this length."""
    return f"prefill_{length}"


def generator_functions(model: "keras.Model", prefill: Sequence[int]) -> dict[str, Any]:
    """Trace the signatures of an exported language model, each for one text.

    Args:
        model: A `CausalLM`, in float32.
        prefill: Lengths of the pieces in which a prompt is read.

    Returns:
        Concrete functions: for each n of `prefill`, `prefill_n` from int32 `tokens` `(1, n)`, `input_pos` `(n,)` and
        the state to the state after them; and `decode` from `tokens` `(1, 1)`, `input_pos` `(1,)` and the state to
        `logits`, float32 `(1, 1, vocabulary_size)`, and the state.
    """
    import tensorflow as tf

    state = {
        name: tf.TensorSpec(x.shape, tf.float32, name=runtime_name(name)) for name, x in model.initial_state(1).items()
    }

    def trace(function: Callable, length: int):
        specs = {
            "tokens": tf.TensorSpec((1, length), tf.int32, name="tokens"),
            "input_pos": tf.TensorSpec((length,), tf.int32, name="input_pos"),
            **{runtime_name(name): spec for name, spec in state.items()},
        }

        def call(tokens, input_pos, **carried):
            outputs, after = function(model, tokens, input_pos, {name: carried[runtime_name(name)] for name in state})
            return {**outputs, **{runtime_name(name): x for name, x in after.items()}}

        return tf.function(call, autograph=False).get_concrete_function(**specs)

    with override(evaluate=evaluate_once):
        functions = {prefill_name(length): trace(_read_piece, length) for length in prefill}
        return {**functions, "decode": trace(_read_token, 1)}


def evaluate_once(compute: Callable):
    """Compute what depends on weights alone while a function is traced, to be constants of the file."""
    import numpy as np
    import tensorflow as tf

    with tf.init_scope():
        weights = compute()
        return type(weights)(*map(np.asarray, weights))


def _read_piece(model, tokens, positions, state):
    """Read a piece, of which what follows the first place and lies at position 0 is padding."""
    import tensorflow as tf

    goes_on, read = _flags(tokens[:, :1], positions[:1])
    count = tf.reduce_sum(tf.minimum(positions[1:], 1)) + tf.cast(tf.reshape(read, ()), tf.int32)
    before = {name: x * goes_on for name, x in state.items()}
    return {}, model.encoder.step_vectors(embed(model.encoder.token_embedding, tokens), before, count=count)[1]


def _read_token(model, tokens, positions, state):
    """Read a token, and give the logits of the next; token 0 at position 0 changes nothing."""
    goes_on, read = _flags(tokens, positions)
    before = {name: x * goes_on for name, x in state.items()}
    vectors, after = model.encoder.step_vectors(embed(model.encoder.token_embedding, tokens), before)
    logits = model.encoder.token_embedding(vectors, reverse=True)
    # Not `where`: XNNPACK takes products. One of the factors is 1, the other 0.
    return {"logits": logits}, {name: after[name] * read + before[name] * (1 - read) for name in state}


def embed(embedding: "keras.layers.Embedding", tokens):
    """Look tokens up. Keras' own look-up counts negative ids from the end: three ops, for ids that are none."""
    import tensorflow as tf

    return tf.gather(embedding.embeddings, tokens)


def _flags(token, position):
    """Return 1 or 0, float32 (1, 1): whether the state goes on, and whether there is a token to read."""
    import tensorflow as tf

    later = tf.minimum(tf.reshape(tf.cast(position, tf.float32), (1, 1)), 1)
    read = tf.maximum(later, tf.minimum(tf.cast(token, tf.float32), 1))
    # Nothing to read: the state stays. A token at position 0: it starts anew.
    return 1 - read * (1 - later), read
