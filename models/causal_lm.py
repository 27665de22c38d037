"""Causal language modelling: predict the next token, and decode in constant memory."""

from collections.abc import Iterator
from dataclasses import replace

import keras
import numpy as np
from keras import ops

from ..attention import check_mask_values
from .encoder import Encoder
from .generation import check_integers, generate, stream
from .head import Head
from .interface import Array, Interface

# Positions whose logits are held at once by `score`.
SCORED = 512


@keras.saving.register_keras_serializable("krpe_tf")
class CausalLM(Head):
    """A causal encoder with a language-model head: logits of the token after each one, tied to the token embedding.

        logits = x E^T                                              x: the encoder's vectors, E: its embedding

    Inputs: those of `encoder` -> float32 `(batch, n, vocabulary_size)`. Train with the next tokens as labels.

    Decoding takes the same time and memory at any length: `initial_state` and `step` read tokens and give the logits
    after them. It needs a feature map other than "softmax".

        encoder = krpe_tf.models.Encoder.from_preset("small", vocabulary_size=8000, causal=True)
        model = krpe_tf.models.CausalLM(encoder)
        logits, state = model.step(prompt_ids, model.initial_state(batch_size=1))

    Args:
        encoder: An `Encoder` with `causal=True`.

    Raises:
        ValueError: For an encoder that is not causal: each token would see those that it is to predict.
    """

    def __init__(self, encoder: Encoder, **kwargs):
        inputs = self.encoder_inputs(encoder)
        if not encoder.causal:
            raise ValueError(
                "`encoder` must be causal: make it with `causal=True`, or each token sees those that it is to predict. "
                f"Received: an Encoder with causal={encoder.causal}"
            )
        logits = encoder.token_embedding(encoder(inputs), reverse=True)
        super().__init__(encoder, inputs=inputs, outputs=logits, **kwargs)

    @property
    def can_decode(self) -> bool:
        """Whether `initial_state`, `step`, `generate` and `stream` serve this model: attention and positions decide."""
        if self.encoder.absolute_positions is not None:
            return False
        attention = (self.encoder.get_layer(f"layer_{i}_attention") for i in range(self.encoder.num_layers))
        return all(layer.can_decode for layer in attention)

    @property
    def interface(self) -> Interface:
        """What the model takes and gives; `state`, what a step of decoding carries, where the model can decode."""
        if not self.can_decode:
            return super().interface
        state = (Array(name, "float32", ("batch", *x.shape[1:])) for name, x in self.initial_state(1).items())
        return replace(super().interface, state=tuple(state))

    def initial_state(self, batch_size: int) -> dict:
        """Return the state of streams that have read nothing, for `step`; see `Encoder.initial_state`."""
        return self.encoder.initial_state(batch_size)

    def step(self, token_ids, state: dict, count=None):
        """Read the next tokens, in constant memory and time a token; what `model` gives for the whole text.

        Args:
            token_ids, state, count: See `Encoder.step`.

        Returns:
            The logits of the token after each, float32 `(batch, k, vocabulary_size)`, and the new state.

        Raises:
            ValueError: As `Encoder.step`.
        """
        x, state = self.encoder.step(token_ids, state, count)
        return self.encoder.token_embedding(x, reverse=True), state

    def generate(
        self,
        token_ids,
        max_length: int,
        sampler="greedy",
        stop_token_ids=None,
        seed: int | None = None,
        padding_mask=None,
        pad_id: int = 0,
    ) -> np.ndarray:
        """Continue prompts, in constant memory and time a token, in one compiled loop.

        It is compiled once for a batch size, a `max_length`, stop ids and a sampler's arguments, and kept; new weights
        need no new one. Rows longer than the shortest are read in the loop that writes the others.

            model.generate(ids, max_length=200, sampler=samplers.TopP(0.9, temperature=0.8), seed=1)

        Args:
            token_ids: Integers `(batch, n)`, a prompt of at least one token in each row.
            max_length: Tokens of a text, its prompt among them: at least as many as in the longest prompt.
            sampler: "greedy", "random", "top_k", "top_p", "beam", an object of `krpe_tf.models.samplers`, or one of
                keras-hub that needs no hidden states.
            stop_token_ids: Ids that end a text, or None.
            seed: Integer of at least 0: the same seed gives the same text, on every backend. None for another one at
                each call. A sampler of keras-hub draws from a seed of its own, which advances; then only None.
            padding_mask: Bool or integer `(batch, n)`, zero where padded, before or behind a prompt; None without
                padding.
            pad_id: What follows a stop token.

        Returns:
            int32 `(batch, max_length)`: each row its prompt, from the first position on, what follows it up to the
            first stop token, and `pad_id`.

        Raises:
            ValueError: For a prompt of no tokens, ids outside of the vocabulary, a `max_length` below the length of a
                prompt, a mask of another shape or with holes, a seed that is no integer, an unknown sampler.
        """
        return generate(self, token_ids, max_length, sampler, stop_token_ids, seed, padding_mask, pad_id)

    def stream(
        self, token_ids, max_tokens: int, sampler="greedy", stop_token_ids=None, seed: int | None = None
    ) -> Iterator[int]:
        """Continue one prompt, and give each token as soon as it is chosen: those of `generate` with the same seed.

        Args:
            token_ids: Integers `(n,)`, at least one.
            max_tokens: How many tokens follow at most.
            sampler, stop_token_ids, seed: As for `generate`; a beam search cannot stream.

        Returns:
            An iterator of ids; a stop token is the last one.

        Raises:
            ValueError: As `generate`, at once; for a beam search too.
        """
        return stream(self, token_ids, max_tokens, sampler, stop_token_ids, seed)

    def score(self, token_ids, padding_mask=None) -> np.ndarray:
        """Compute log p(token | those before it) of every token, in nats.

        Args:
            token_ids: Integers `(batch, n)`.
            padding_mask: Bool or integer `(batch, n)`, zero where padded; None without padding.

        Returns:
            float32 `(batch, n)`: zero for the first token of a row, on whichever side it is padded, and for padding.
            The sum of a row is the log-likelihood of its text, given its first token.

        Raises:
            ValueError: For rows without a token, ids outside of the vocabulary, or a mask of another shape.
        """
        token_ids = check_integers(token_ids, "token_ids", 2)
        mask = np.ones(token_ids.shape, "int32") if padding_mask is None else np.asarray(padding_mask)
        check_mask_values(padding_mask=mask)
        mask = (mask != 0).astype("int32")
        if not token_ids.size or mask.shape != token_ids.shape:
            raise ValueError(
                "`token_ids` and `padding_mask` must have one shape (batch, n), with a token at least. "
                f"Received: token_ids.shape={token_ids.shape}, padding_mask.shape={mask.shape}"
            )
        inputs = {"token_ids": token_ids.astype("int32"), "padding_mask": mask}
        vectors = self.encoder(inputs, training=False)
        scores = np.zeros(token_ids.shape, "float32")
        for start in range(0, token_ids.shape[1] - 1, SCORED):
            targets = inputs["token_ids"][:, start + 1 : start + 1 + SCORED]
            part = vectors[:, start : start + targets.shape[1]]
            logits = self.encoder.token_embedding(part, reverse=True)
            found = -ops.sparse_categorical_crossentropy(targets, logits, from_logits=True)
            scores[:, start + 1 : start + 1 + targets.shape[1]] = ops.convert_to_numpy(found)
        seen = mask.astype(bool)
        scores[:, 1:][~(seen[:, 1:] & seen[:, :-1])] = 0
        return scores
