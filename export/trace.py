"""The functions that an exported file holds, traced from a Keras model, and saved."""

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..models import interface_of
from .layers import vocabulary_size

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from ..text import Tokenizer


def signature_name(kind: str, length: int | None) -> str:
    """Return the name of a .tflite file's signature, `kind` "ids" or "text", for one length or None, any."""
    return f"{kind}_{'any' if length is None else length}"


def litert_functions(
    model: "keras.Model", lengths: Sequence[int | None], tokenizer: "Tokenizer | None"
) -> dict[str, Any]:
    """Trace a .tflite file's signatures, each for one document.

    Args:
        model: What `check_source` accepts.
        lengths: Sequence lengths; None for any.
        tokenizer: Adds the signatures that take text.

    Returns:
        Concrete functions by signature name. For each length n, `ids_n`: int32 `token_ids` and `padding_mask` `(1, n)`
        to `output`. With a tokenizer also `text_n`: string `text` `(1,)` to `output` and int32 `token_count` `(1,)`,
        the tokens the text has, those beyond n included; and `tokenize`: `text` `(1,)` to `token_ids` `(1, count)`.
        For any length n is "any", and `text_any` neither truncates nor pads.
    """
    import tensorflow as tf

    # Any number of texts, of which `one_text` refuses all but one: a shape that is known is taken as given.
    text = tf.TensorSpec((None,), tf.string, name="text")

    def one_text(text):
        return tf.reshape(text, (1,))

    functions = {}
    for length in lengths:
        specs = input_specs(model, 1, length)

        def from_ids(**inputs):
            return {"output": call_model(model, inputs)}

        def from_text(text, length=length):
            token_ids = tokenizer.tokenize_one(one_text(text))
            count = tf.shape(token_ids)[1]
            if length is None:
                padding_mask = tf.ones_like(token_ids)
            else:
                token_ids = token_ids[:, :length]
                padding = [[0, 0], [0, length - tf.shape(token_ids)[1]]]
                padding_mask = tf.pad(tf.ones_like(token_ids), padding)
                token_ids = tf.pad(token_ids, padding, constant_values=tokenizer.pad_id)
                # Without static shapes the model would convert to dynamic ones, slower and not for every delegate.
                token_ids, padding_mask = (tf.reshape(x, (1, length)) for x in (token_ids, padding_mask))
            output = call_model(model, {"token_ids": token_ids, "padding_mask": padding_mask})
            return {"output": output, "token_count": tf.reshape(count, (1,))}

        for kind, function, inputs in (("ids", from_ids, specs), ("text", from_text, {"text": text})):
            if kind == "ids" or tokenizer is not None:
                traced = tf.function(function, autograph=False).get_concrete_function(**inputs)
                functions[signature_name(kind, length)] = traced
    if tokenizer is not None:
        functions["tokenize"] = tf.function(
            lambda text: {"token_ids": tokenizer.tokenize_one(one_text(text))}, autograph=False
        ).get_concrete_function(text=text)
    return functions


def saved_model_functions(model: "keras.Model", length: int | None, tokenizer: "Tokenizer | None") -> dict[str, Any]:
    """Trace a SavedModel's signatures, for any batch.

    Args:
        model: What `check_source` accepts.
        length: The sequence length, None for any.
        tokenizer: Makes `serving_default` take text.

    Returns:
        Concrete functions: `token_ids` takes int32 `token_ids` and `padding_mask` `(batch, n)`, `serving_default`
        string `text` `(batch,)`, or the same ids without a tokenizer; both return `output`, and fail with
        InvalidArgumentError, which says what is wrong, for ids outside the vocabulary, a mask of another shape, empty
        texts, invalid UTF-8, and texts longer than the model's one length.
    """
    import tensorflow as tf

    size = vocabulary_size(model)

    # What follows waits for the checks: an op that ran beside them might fail first, and less clearly.
    @tf.function(autograph=False)
    def from_ids(token_ids, padding_mask):
        # A caller may send any rank, whatever the signature says.
        token_ids = tf.ensure_shape(token_ids, (None, length))
        with tf.control_dependencies([token_ids]):  # Where both are wrong, the first is named.
            padding_mask = tf.ensure_shape(padding_mask, (None, length))
        message = "padding_mask must have the shape of token_ids, (batch, n)"
        checks = [tf.debugging.assert_equal(tf.shape(token_ids), tf.shape(padding_mask), message=message)]
        message = "token_ids must hold one token or more for each document"
        checks.append(tf.debugging.assert_positive(tf.shape(token_ids), message=message))
        if size is not None:
            message = f"token_ids must lie in the vocabulary, from 0 to {size - 1}"
            checks.append(tf.debugging.assert_non_negative(token_ids, message=message))
            checks.append(tf.debugging.assert_less(token_ids, size, message=message))
        with tf.control_dependencies(checks):
            inputs = {"token_ids": tf.identity(token_ids), "padding_mask": tf.identity(padding_mask)}
            return {"output": call_model(model, inputs)}

    @tf.function(autograph=False)
    def from_text(text):
        text = tf.ensure_shape(text, (None,))
        # Invalid bytes come back replaced; the tokenizer would take them without a word.
        decoded = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        valid = tf.debugging.Assert(tf.reduce_all(tf.equal(decoded, text)), ["text must be valid UTF-8"])
        with tf.control_dependencies([valid]):
            tokens = tokenizer.tokenize(tf.identity(text))
        counts = tokens.row_lengths()
        # The first and the last token are always there.
        message = "text must not be empty, nor white space and invisible characters alone"
        checks = [tf.debugging.assert_greater(counts, tf.cast(2, counts.dtype), message=message)]
        if length is not None:
            message = f"text must have at most {length} tokens, start and end included"
            checks.append(tf.debugging.assert_less_equal(counts, tf.cast(length, counts.dtype), message=message))
        with tf.control_dependencies(checks):
            counts = tf.identity(counts)
        token_ids = tokens.to_tensor(tokenizer.pad_id, shape=(None, length))
        padding_mask = tf.sequence_mask(counts, tf.shape(token_ids)[1], dtype=tf.int32)
        return {"output": call_model(model, {"token_ids": token_ids, "padding_mask": padding_mask})}

    ids = from_ids.get_concrete_function(**input_specs(model, None, length))
    if tokenizer is None:
        return {"serving_default": ids, "token_ids": ids}
    text = from_text.get_concrete_function(text=tf.TensorSpec((None,), tf.string, name="text"))
    return {"serving_default": text, "token_ids": ids}


def save_functions(functions: dict[str, Any], path: str | os.PathLike) -> None:
    """Save concrete functions and the variables they read as a SavedModel.

    The variables are saved without the Keras model around them: with it, the LiteRT converter does not freeze them and
    writes VAR_HANDLE ops that no one fills (tensorflow 2.20, keras 3.15).
    """
    import tensorflow as tf

    module = tf.Module()
    module.weights = list({id(v): v for f in functions.values() for v in f.graph.variables}.values())
    try:
        tf.saved_model.save(module, os.fspath(path), signatures=functions)
    except tf.errors.OpError as error:
        # TensorFlow's file system says why in the message alone.
        raise OSError(errno.EIO, error.message, os.fspath(path)) from error


def call_model(model: "keras.Model", inputs: "dict[str, tf.Tensor]") -> "tf.Tensor":
    """Call a model with one output for inference; return the output as a float32 tensor."""
    import tensorflow as tf

    output = model(inputs, training=False)
    (output,) = output.values() if isinstance(output, dict) else (output,)
    return tf.cast(output, tf.float32)


def input_specs(model: "keras.Model", batch: int | None, length: int | None) -> "dict[str, tf.TensorSpec]":
    """Return a TensorFlow spec for every input of a model, an integer for each token."""
    import tensorflow as tf

    return {
        array.name: tf.TensorSpec(array.shape(batch=batch, length=length), tf.int32, name=array.name)
        for array in interface_of(model).inputs
    }
