"""Documents that an exported file and its Keras model are compared on."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .checks import Source
from .layers import vocabulary_size
from .trace import call_model

if TYPE_CHECKING:
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
class Document:
    """One document, truncated or padded to one length.

    Attributes: `inputs`, what the model takes, int32 `(1, n)` each; `text`, None where ids were drawn; `token_count`,
    the tokens of the text, those beyond n included.
    """

    inputs: dict[str, np.ndarray]
    text: str | None
    token_count: int

    @property
    def length(self) -> int:
        """How many positions there are, padding among them."""
        return self.inputs["token_ids"].shape[1]

    @property
    def valid(self) -> np.ndarray:
        """Where there are tokens, bool `(1, n)`."""
        return self.inputs["padding_mask"].astype(bool)


@dataclass(frozen=True)
class Sample:
    """A document, and what the Keras model makes of it.

    Attributes: `document`; `output`, float `(1, ...)`; `valid`, bool `(1, n)` where the output counts, None for an
    output without a row for each position.
    """

    document: Document
    output: np.ndarray
    valid: np.ndarray | None


def make_documents(source: Source, length: int | None) -> list[Document]:
    """Make documents of one length.

    Without sample texts these are one sentence, and texts of about n/2 and of more than n tokens made of
    `SAMPLE_TEXTS`; without a tokenizer ids drawn at random, for 1, n/2 and n tokens.

    Args:
        source: What is exported.
        length: The sequence length n. None for any: texts as long as they are, ids of `ODD_LENGTHS`, once padded.
    """
    tokenizer = source.tokenizer
    longest = max(ODD_LENGTHS) if length is None else length
    if tokenizer is None:
        rng = np.random.default_rng(0)
        ids = rng.integers(0, vocabulary_size(source.model) or 2, longest)
        found = [] if length is None else [(None, ids[:n]) for n in sorted({1, (length + 1) // 2, length})]
    else:
        texts = source.texts or _texts(tokenizer, longest)
        found = [(text, tokenizer([text])["token_ids"][0]) for text in texts]
        ids = np.resize(max((ids for _, ids in found), key=len), longest)
    pad_id = 0 if tokenizer is None else tokenizer.pad_id
    if length is not None:
        return [_document(length, text, ids, pad_id) for text, ids in found]
    documents = [_document(len(ids), text, ids, pad_id) for text, ids in found]
    documents += [_document(n, None, ids[:n], pad_id) for n in ODD_LENGTHS]
    return [*documents, _document(longest, None, ids[: longest // 3], pad_id)]


def shortened(document: Document, count: int) -> Document:
    """Return the document with its first `count` tokens alone, and padding in place of the others."""
    mask = document.inputs["padding_mask"]
    mask = (mask * (np.arange(mask.shape[1]) < count)).astype(np.int32)
    return Document({**document.inputs, "padding_mask": mask}, None, count)


def run_model(source: Source, documents: Iterable[Document]) -> list[Sample]:
    """Run the Keras model on documents, on the CPU.

    Raises:
        ValueError: If it returns values that are not finite, or an output of another shape than its interface says.
    """
    return [_sample(source, document) for document in documents]


def _sample(source: Source, document: Document) -> Sample:
    import tensorflow as tf

    with tf.device("CPU"):  # GPUs round float32 products to TensorFloat-32: that is not the export's error.
        output = call_model(source.model, document.inputs).numpy()
    if not np.isfinite(output).all():
        n = document.length
        raise ValueError(
            f"`model` must return finite values; it does not at length {n}. Received: model={source.model}"
        )
    (array,) = source.interface.outputs
    expected = array.shape(batch=1, length=document.length)
    if output.ndim != len(expected) or any(n not in (None, m) for n, m in zip(expected, output.shape, strict=True)):
        raise ValueError(
            f"`model` must give {array}, as its symbolic output says. Received: an output of shape {output.shape} for "
            f"{document.length} tokens"
        )
    return Sample(document, output, document.valid if source.gives_rows else None)


def _document(length: int, text: str | None, ids: np.ndarray, pad_id: int) -> Document:
    token_ids = np.full((1, length), pad_id, dtype=np.int32)
    token_ids[0, : len(ids)] = ids[:length]
    padding_mask = (np.arange(length)[np.newaxis] < len(ids)).astype(np.int32)
    return Document({"token_ids": token_ids, "padding_mask": padding_mask}, text, len(ids))


def _texts(tokenizer: "Tokenizer", length: int) -> list[str]:
    words = " ".join(SAMPLE_TEXTS).split()
    tokens_per_word = tokenizer([" ".join(words)])["token_ids"].size / len(words)
    words = words * (1 + int(1.5 * length / tokens_per_word / len(words)))
    return [SAMPLE_TEXTS[0], " ".join(words[: max(1, int(length / 2 / tokens_per_word))]), " ".join(words)]
