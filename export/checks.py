"""Checks of the arguments of both exports, and of what a model must be to be exported."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..attention import KernelizedRPEAttention
from ..models import Interface, compute_dtypes, in_float32, interface_of
from ..toeplitz import choose_route
from .layers import absolute_positions, all_layers, lambda_layers, vocabulary_size

if TYPE_CHECKING:
    import keras

    from ..text import Tokenizer

logger = logging.getLogger(__name__)

# What tokenizers make of a document, and all that a model may take: an integer for each token.
DOCUMENT = ("token_ids", "padding_mask")


@dataclass(frozen=True)
class Source:
    """What is exported, checked by `check_source`.

    Attributes: `model`, in float32; `model_dtypes`, what the layers of the one that was given compute in; `interface`,
    what it takes and gives; `tokenizer`, which goes into the file, or None; `texts`, the documents to compare on, None
    for built-in ones.
    """

    model: "keras.Model"
    model_dtypes: list[str]
    interface: Interface
    tokenizer: "Tokenizer | None"
    texts: list[str] | None

    @property
    def length(self) -> int | None:
        """The one length that the model takes, None where it takes any."""
        length = self.interface.inputs[0].axes[1]
        return length if isinstance(length, int) else None

    @property
    def gives_rows(self) -> bool:
        """Whether the output has a row for each position: `(batch, n, width)` has, `(batch, classes)` has not."""
        axes = self.interface.outputs[0].axes
        return len(axes) > 2 and axes[1] == self.interface.inputs[0].axes[1]


def check_source(
    model: "keras.Model", tokenizer: "Tokenizer | None", sample_texts: Iterable[str] | None, tolerance: float
) -> Source:
    """Check the arguments that both exports take, and put a model in half precision into float32.

    Raises:
        ValueError: For a wrong model, tokenizer, text or tolerance, or a model that cannot be had in float32.
    """
    interface = check_model(model)
    check_tokenizer(tokenizer, model)
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not tolerance > 0:
        raise ValueError(f"`tolerance` must be a number above 0. Received: tolerance={tolerance!r}")
    if sample_texts is not None:
        if tokenizer is None:
            raise ValueError(
                f"`sample_texts` needs a tokenizer. Received: tokenizer=None, sample_texts={sample_texts!r}"
            )
        from ..text import check_texts

        sample_texts = check_texts(sample_texts)
    dtypes, exported = compute_dtypes(model), in_float32(model)
    if exported is not model:
        logger.info("the model computes in %s; the file gets its weights and computes in float32", ", ".join(dtypes))
    return Source(exported, dtypes, interface, tokenizer, sample_texts)


def check_model(model: "keras.Model") -> Interface:
    """Return what `model` takes and gives.

    Raises:
        ValueError: If Keras runs on another backend than TensorFlow, `model` is not a functional model from a document
            to one tensor, with a row for each token or one for the document, it carries state, or it holds a Python
            lambda.
    """
    import keras

    check_backend()
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a Keras model. Received: model={model!r}")
    interface = interface_of(model)
    if interface.state:
        raise ValueError(
            "`model` must carry no state from call to call; `export_generator` exports a language model. "
            f"Received: a model with state {_listed(interface.state)}"
        )
    _check_inputs(interface)
    if len(interface.outputs) != 1:
        raise ValueError(f"`model` must have one output. Received: outputs {_listed(interface.outputs)}")
    (output,), length = interface.outputs, interface.inputs[0].axes[1]
    # Callers tell a row for each token from one for the document by the rank: `has_length_axis` of litert_ids.py.
    if (len(output.axes) == 2 and isinstance(output.axes[1], str)) or (
        len(output.axes) > 2 and output.axes[1] != length
    ):
        raise ValueError(
            "`model` must give (batch, width), or (batch, n, width) with a row for each of the n tokens. "
            f"Received: an output of shape {output.shape()}"
        )
    lambdas = lambda_layers(model)
    if lambdas:
        raise ValueError(
            "`model` must hold no Python lambda, which Keras saves as bytecode and loads with safe_mode=False only: "
            f"register a named function instead. Received: a model with a lambda in {', '.join(lambdas)}"
        )
    return interface


def check_backend() -> None:
    """Raise a ValueError unless Keras runs on TensorFlow."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "export needs Keras on TensorFlow: save the model and load it with KERAS_BACKEND=tensorflow. "
            f"Received: keras.backend.backend()={keras.backend.backend()!r}"
        )


def _check_inputs(interface: Interface) -> None:
    others = [x for x in interface.inputs if {axis for axis in x.axes if isinstance(axis, str)} - {"batch", "length"}]
    if others:
        raise ValueError(
            "`model` must take arrays with no free axis but batch and length. A MaskedLM with at_positions=True is for "
            "training: make MaskedLM(model.encoder), give it set_weights(model.get_weights()) and export that. "
            f"Received: a model with an input {_listed(others)}"
        )
    names, shapes = {x.name for x in interface.inputs}, {x.axes for x in interface.inputs}
    if names != set(DOCUMENT) or len(shapes) > 1 or any(len(axes) != 2 for axes in shapes):
        raise ValueError(
            "`model` must be functional, with inputs token_ids and padding_mask, both (batch, length). "
            f"Received: inputs {_listed(interface.inputs)}"
        )


def _listed(arrays: Sequence) -> str:
    return ", ".join(map(str, arrays))


def check_tokenizer(tokenizer: "Tokenizer | None", model: "keras.Model", reversible: bool = False) -> None:
    """Raise a ValueError unless `tokenizer` is None or one whose every id the model embeds.

    Args:
        tokenizer, model: What is checked.
        reversible: Whether it must give texts back, every id that the model writes, as a language model needs it; or
            run inside a graph, as the signatures do that take text.
    """
    if tokenizer is None:
        return
    if getattr(tokenizer, "reversible", None) != reversible:
        kinds = "ByteTokenizer, a PieceTokenizer" if reversible else "WordPieceTokenizer, a SentencePieceTokenizer"
        raise ValueError(f"`tokenizer` must be a {kinds} or None. Received: tokenizer={tokenizer!r}")
    embedded = vocabulary_size(model)
    if embedded is None or tokenizer.vocabulary_size == embedded:
        return
    if reversible or tokenizer.vocabulary_size > embedded:
        raise ValueError(
            f"`tokenizer` must have {'' if reversible else 'at most '}the {embedded} tokens that the model embeds. "
            f"Received: tokenizer with {tokenizer.vocabulary_size} tokens"
        )


def check_lengths(
    lengths: Sequence[int | None], only_length: int | None, name: str = "lengths", any_length: bool = True
) -> list[int | None]:
    """Check the lengths of a .tflite file's signatures.

    Args:
        lengths: Distinct integers of 1 or more; None for any length.
        only_length: The one that the model takes, None for any.
        name: What the argument is called.
        any_length: Whether None, for any length, may be among them.

    Returns:
        The lengths as a list.

    Raises:
        ValueError: For anything else.
    """
    values = list(lengths) if isinstance(lengths, Iterable) and not isinstance(lengths, (str, bytes)) else []
    fixed = [n for n in values if n is not None or not any_length]
    wrong = [n for n in fixed if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1]
    if not values or wrong or len(set(values)) < len(values):
        others = ", or None for any length" if any_length else ""
        raise ValueError(f"`{name}` must hold distinct integers of 1 or more{others}. Received: {name}={lengths!r}")
    if only_length is not None and values != [only_length]:
        raise ValueError(
            f"`lengths` must be ({only_length},), the one length that the model takes. Received: lengths={lengths!r}"
        )
    return [None if n is None else int(n) for n in values]


def check_places(model: "keras.Model", lengths: Sequence[int | None]) -> None:
    """Raise a ValueError for lengths, None for any, that exceed the absolute positions of a model that has some."""
    places = absolute_positions(model)
    if places is not None and any(length is None or length > places for length in lengths):
        raise ValueError(
            f"a model with `absolute_positions` is exported for lengths up to these, {places}; to a SavedModel if "
            f"it is built for one: Encoder.from_encoder(encoder, length={places}). "
            f"Received: {', '.join('any length' if length is None else str(length) for length in lengths)}"
        )


def check_any_length(model: "keras.Model") -> None:
    """Refuse a model that does not convert where the sequence length is not known.

    Raises:
        ValueError: If an attention layer would take another route than "banded".
    """
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
