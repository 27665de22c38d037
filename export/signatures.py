"""The functions that an exported file holds, traced from a Keras model: token ids in, text in, text to token ids."""

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from ..text import Tokenizer

INPUTS = ("token_ids", "padding_mask")


def check_model(model: "keras.Model") -> int | None:
    """Return the one sequence length that `model` takes, None where it takes any.

    Raises:
        ValueError: If Keras runs on another backend than TensorFlow, `model` is not a functional model from int
            `token_ids` and `padding_mask` `(batch, n)` to one tensor, or it holds a Python lambda.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "export needs Keras on TensorFlow: save the model and load it with KERAS_BACKEND=tensorflow. "
            f"Received: keras.backend.backend()={keras.backend.backend()!r}"
        )
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a Keras model. Received: model={model!r}")
    shapes = {tensor.name: tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or []}
    if "mask_positions" in shapes:
        raise ValueError(
            "`model` must give outputs at every position: a MaskedLM with at_positions=True is for training. Make "
            "MaskedLM(model.encoder), give it set_weights(model.get_weights()) and export that. "
            "Received: a model with an input mask_positions"
        )
    if sorted(shapes) != sorted(INPUTS) or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(
            f"`model` must be functional, with inputs token_ids and padding_mask (batch, n). Received: inputs={shapes}"
        )
    if len(model.outputs) != 1:
        raise ValueError(f"`model` must have one output. Received: {len(model.outputs)} outputs")
    output, length = tuple(model.outputs[0].shape), shapes["token_ids"][1]
    # Callers tell a row a token from one for the document by the rank: `has_length_axis`.
    if (len(output) == 2 and output[1] is None) or (len(output) > 2 and output[1] != length):
        raise ValueError(
            "`model` must give (batch, width), or (batch, n, width) with a row for each of the n tokens. "
            f"Received: an output of shape {output}"
        )
    lambdas = [layer.name for layer in all_layers(model) if _holds_lambda(layer)]
    if lambdas:
        raise ValueError(
            "`model` must hold no Python lambda, which Keras saves as bytecode and loads with safe_mode=False only: "
            f"register a named function instead. Received: a model with a lambda in {', '.join(lambdas)}"
        )
    return shapes["token_ids"][1]


def check_any_length(model: "keras.Model") -> None:
    """Refuse a model that does not convert where the sequence length is not known.

    Raises:
        ValueError: If an attention layer would take another route than "banded".
    """
    from ..attention import KernelizedRPEAttention
    from ..toeplitz import choose_route

    for layer in all_layers(model):
        if not isinstance(layer, KernelizedRPEAttention):
            continue
        route = "dense" if layer.feature_map == "softmax" else layer.route
        if route == "auto" and layer.position_bias is not None:
            route = choose_route(layer.position_bias, None, None, layer.num_features, layer.value_dim, layer.causal)
        if route not in ("auto", "banded"):
            raise ValueError(
                "`lengths` may hold None only for a model whose attention takes the banded route, the one that "
                f"converts for a length that is not known. Received: layer {layer.name!r} on route {route!r}"
            )


def all_layers(model: "keras.Model") -> "list[keras.layers.Layer]":
    """The model and all layers inside it, those of other layers too, each once and in order."""
    layers = [model]
    for layer in layers:
        # Not `_flatten_layers`, which turns the order of inner layers around: the first one is the one to name.
        layers.extend(each for each in layer._layers if each not in layers)
    return layers


def _holds_lambda(layer: "keras.layers.Layer") -> bool:
    import keras

    functions = [getattr(layer, "activation", None)]
    if isinstance(layer, keras.layers.Lambda):
        functions += [layer.function, layer.mask, *layer.arguments.values()]
    return any(getattr(function, "__name__", None) == "<lambda>" for function in functions)


def vocabulary_size(model: "keras.Model") -> int | None:
    """Token ids that every embedding of the model has; None where it has no embedding."""
    import keras

    return min((x.input_dim for x in all_layers(model) if isinstance(x, keras.layers.Embedding)), default=None)


def signature_name(kind: str, length: int | None) -> str:
    """The name of a .tflite file's signature, `kind` "ids" or "text", for one length or None, any."""
    return f"{kind}_{'any' if length is None else length}"


def litert_functions(
    model: "keras.Model", lengths: Sequence[int | None], tokenizer: "Tokenizer | None"
) -> dict[str, Any]:
    """Trace a .tflite file's signatures, each for one document.

    Args:
        model: What `check_model` accepts.
        lengths: Sequence lengths; None for any.
        tokenizer: Adds the signatures that take text.

    Returns:
        Concrete functions by signature name. For each length n, `ids_n`: int32 `token_ids` and `padding_mask` `(1, n)`
        to `output`. With a tokenizer also `text_n`: string `text` `(1,)` to `output` and int32 `token_count` `(1,)`,
        the tokens the text has, those beyond n included; and `tokenize`: `text` `(1,)` to `token_ids` `(1, count)`.
        For any length n is "any", and `text_any` neither cuts nor pads.
    """
    import tensorflow as tf

    text = tf.TensorSpec((1,), tf.string, name="text")
    functions = {}
    for length in lengths:
        specs = {name: tf.TensorSpec((1, length), tf.int32, name=name) for name in INPUTS}

        def from_ids(token_ids, padding_mask):
            return {"output": _call(model, token_ids, padding_mask)}

        def from_text(text, length=length):
            token_ids = tokenizer.tokenize_one(text)
            count = tf.shape(token_ids)[1]
            if length is None:
                output = _call(model, token_ids, tf.ones_like(token_ids))
            else:
                token_ids = token_ids[:, :length]
                padding = [[0, 0], [0, length - tf.shape(token_ids)[1]]]
                padding_mask = tf.pad(tf.ones_like(token_ids), padding)
                token_ids = tf.pad(token_ids, padding, constant_values=tokenizer.pad_id)
                # Without static shapes the model would convert to dynamic ones, slower and not for every delegate.
                output = _call(model, tf.reshape(token_ids, (1, length)), tf.reshape(padding_mask, (1, length)))
            return {"output": output, "token_count": tf.reshape(count, (1,))}

        for kind, function, inputs in (("ids", from_ids, specs), ("text", from_text, {"text": text})):
            if kind == "ids" or tokenizer is not None:
                traced = tf.function(function, autograph=False).get_concrete_function(**inputs)
                functions[signature_name(kind, length)] = traced
    if tokenizer is not None:
        functions["tokenize"] = tf.function(
            lambda text: {"token_ids": tokenizer.tokenize_one(text)}, autograph=False
        ).get_concrete_function(text=text)
    return functions


def saved_model_functions(model: "keras.Model", length: int | None, tokenizer: "Tokenizer | None") -> dict[str, Any]:
    """Trace a SavedModel's signatures, for any batch.

    Args:
        model: What `check_model` accepts.
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
            return {"output": _call(model, tf.identity(token_ids), tf.identity(padding_mask))}

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
        return {"output": _call(model, token_ids, padding_mask)}

    ids = from_ids.get_concrete_function(**{n: tf.TensorSpec((None, length), tf.int32, name=n) for n in INPUTS})
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


def _call(model: "keras.Model", token_ids: "tf.Tensor", padding_mask: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    output = model({"token_ids": token_ids, "padding_mask": padding_mask}, training=False)
    return tf.cast(output, tf.float32)
