"""What an encoder and decoder needs to decode: the source is read once, the target a step at a time."""

from dataclasses import replace

import keras
import numpy as np
from keras import ops

from ..attention import check_mask_values
from ..checks import check_at_least, shapes_differ
from .blocks import initial_stack_state, not_a_state, step_stack
from .generation import check_id, check_integers, generate, padded_length
from .interface import Array, Interface, functional_interface
from .programs import kept_program
from .token_model import TokenModel


class SourceDecoding(TokenModel):
    """What `EncoderDecoder` needs to decode; it brings the layers, their sizes, and `_source_encoder`."""

    @property
    def vocabulary_sizes(self) -> dict[str, int]:
        """Of each input that holds ids, the number of ids that there are."""
        return {
            "source_ids": self.source_vocabulary_size or self.vocabulary_size,
            "token_ids": self.vocabulary_size,
        }

    def call(self, inputs, training=None, mask=None):
        """Compute the logits.

        Raises:
            ValueError: For `segment_ids`: no target tells which part of a source it is of.
        """
        if isinstance(inputs, dict) and "segment_ids" in inputs:
            raise ValueError(
                f"{type(self).__name__} takes no `segment_ids`: put each source and its target into a row of its own. "
                f"Received: inputs {', '.join(inputs)}"
            )
        return super().call(inputs, training=training, mask=mask)

    @property
    def longest_source(self) -> int | None:
        """The most tokens of a source that the model reads; None where there is no such bound."""
        return min((n for n in (self.source_length, self.absolute_positions) if n is not None), default=None)

    @property
    def can_decode(self) -> bool:
        """Whether `initial_state`, `step` and `generate` serve this model: the position bias of the decoder decides."""
        return all(x.can_decode or x.feature_map == "softmax" for x in self._decoder_layers("attention").values())

    @property
    def interface(self) -> Interface:
        """What the model takes and gives; `state`, what a step of decoding carries.

        The axes "source_length" of a state, and "max_length", are of caches: where the exact kernel attends.
        """
        found = functional_interface(self)
        inputs = tuple(
            replace(x, axes=tuple("source_length" if name == "length" else name for name in x.axes))
            if x.name in ("source_ids", "source_mask")
            else x
            for x in found.inputs
        )
        return Interface(inputs, found.outputs, self._state_arrays() if self.can_decode else ())

    def _state_arrays(self) -> tuple[Array, ...]:
        arrays = []
        for prefix, layer in self._decoder_layers("attention").items():
            for name, x in layer.initial_state(1, 1).items():
                axes = ["batch", *x.shape[1:]]
                if layer.feature_map == "softmax":
                    axes[2] = "max_length"
                arrays.append(Array(f"{prefix}_{name}", "float32", tuple(axes)))
        for prefix, layer in self._decoder_layers("cross_attention").items():
            for name, shape in layer.cross_shapes.items():
                axes = ("batch", *("source_length" if size is None else size for size in shape))
                arrays.append(Array(f"{prefix}_cross_{name}", "float32", axes))
        if self.absolute_positions is not None:
            arrays.append(Array("places", "int32", ("batch",)))
        return tuple(arrays)

    def _decoder_layers(self, kind: str) -> dict[str, keras.layers.Layer]:
        """Return the attention layers of a kind by their blocks."""
        return {f"decoder_{i}": self.get_layer(f"decoder_{i}_{kind}") for i in range(self.num_decoder_layers)}

    def encode(self, source_ids, source_mask=None):
        """Compute the encoder's vectors, float32 `(batch, s, hidden_dim)`.

        Args:
            source_ids: Integers `(batch, s)`.
            source_mask: Bool or integer `(batch, s)`, zero where padded; None without padding.

        Raises:
            ValueError: For ids outside of the vocabulary, more tokens a row than `longest_source`, or a mask of another
                shape.
        """
        return self._encode(*self._sources(source_ids, source_mask))

    def initial_state(self, source_ids, source_mask=None, max_length: int | None = None) -> dict:
        """Read sources, and return the state of targets of which nothing is read, for `step`.

        For each block "decoder_i" of the decoder it holds the streaming state of its attention, "decoder_0_keys",
        "decoder_0_values" and "decoder_0_sums", and "decoder_0_cross_sums", all that cross-attention needs of the
        source. Their size depends on neither length. With the exact kernel in cross-attention there are
        "decoder_0_cross_keys" and "decoder_0_cross_values" of all tokens of the source in their place.

        Args:
            source_ids: Integers `(batch, s)`.
            source_mask: Bool or integer `(batch, s)`, zero where padded; None without padding. A source of nothing but
                padding adds nothing to its target.
            max_length: The most tokens of a target that will be read. Needed with `decoder_feature_map="softmax"`,
                whose keys and values are kept; without effect otherwise.

        Raises:
            ValueError: As `encode`; without a `max_length` where one is needed.
        """
        source_ids, source_mask = self._sources(source_ids, source_mask)
        batch = ops.shape(source_ids)[0]
        state = initial_stack_state(self, batch, self.num_decoder_layers, "decoder", max_length)
        vectors = self._encode(source_ids, source_mask)
        for prefix, layer in self._decoder_layers("cross_attention").items():
            parts = layer.cross_state(vectors, source_mask)
            state.update({f"{prefix}_cross_{name}": x for name, x in parts.items()})
        if self.absolute_positions is not None:
            state["places"] = ops.zeros((batch,), "int32")
        return state

    def step(self, token_ids, state: dict, count=None):
        """Read the next tokens of targets, at a cost that depends on neither length; what `model` gives for the whole.

        Args:
            token_ids: Integers `(batch, k)`, the next k tokens of each target, k known and at least 1. Where the state
                of cross-attention has fewer rows, as many rows that follow one another share one of its rows.
            state: From `initial_state`, or from the previous step.
            count: None, or integers `()` or `(batch,)`, from 0 to k: how many first tokens of the k there are; what
                follows them is padding. None for all.

        Returns:
            The logits of the token after each, float32 `(batch, k, vocabulary_size)`, and the new state. Logits of
            padding mean nothing.

        Raises:
            ValueError: For ids outside of the vocabulary, a state or count that does not fit, or more tokens than
                `max_length`, as far as values are known.
        """
        x, state = self.step_vectors(self.token_embedding(self._step_ids(token_ids)), state, count)
        return self.token_embedding(x, reverse=True), state

    def step_vectors(self, vectors, state: dict, count=None):
        """Read the next tokens as `step` does, from their embeddings `(batch, k, hidden_dim)`; return vectors."""
        if not isinstance(state, dict) or ("places" in state) != (self.absolute_positions is not None):
            raise not_a_state(state)
        places = state.get("places")
        if places is not None:
            vectors = self.get_layer("decoder_positions").step(vectors, places, count)
        sizes = {"num_layers": self.num_decoder_layers, "name": "decoder", "norm": "decoder_norm"}
        x, state = step_stack(self, vectors, state, count=count, cross=True, **sizes)
        if places is not None:
            state["places"] = places + ops.cast(vectors.shape[1] if count is None else count, "int32")
        return x, state

    # Long: what a search may be told.
    def generate(
        self,
        source_ids,
        source_mask=None,
        max_length: int = 256,
        sampler="beam",
        start_token_id: int = 2,
        stop_token_ids=(3,),
        seed: int | None = None,
        pad_id: int = 0,
    ) -> np.ndarray:
        """Write the targets of sources, in one compiled loop; with linear maps at the same cost for every token.

        It is compiled once for a batch size, a `max_length`, stop ids and a sampler's arguments, and kept; the encoder
        once for each of a few lengths, to which sources are padded (with `decoder_feature_map="softmax"` for each of
        these and each `max_length`).

            model.generate(ids, mask, max_length=100, sampler=samplers.Beam(5, length_penalty=1.2, patience=1.0))

        That is the paper's search: 5 beams and log p / length**1.2, ended as fairseq ends it.

        Args:
            source_ids: Integers `(batch, s)`.
            source_mask: Bool or integer `(batch, s)`, zero where padded; None without padding.
            max_length: Tokens of a target at most, its stop token among them.
            sampler: "beam", "greedy", "random", "top_k", "top_p", an object of `krpe_tf.models.samplers`, or one of
                keras-hub that needs no hidden states. The beams of a source share what attention keeps of it.
            start_token_id: What the decoder reads first: the tokenizer's `start_id`.
            stop_token_ids: Ids that end a target, the tokenizer's `end_id`; None for none. By default start and stop
                are those of `WordPieceTokenizer` and `PieceTokenizer`, as they are learned.
            seed: Integer of at least 0: the same seed gives the same targets, on every backend. None for others at each
                call.
            pad_id: What follows a stop token.

        Returns:
            int32 `(batch, max_length)`: each row the target, without the start token, up to the first stop token, and
            `pad_id`.

        Raises:
            ValueError: For ids outside of a vocabulary, no sources or longer ones than `longest_source`, a mask of
                another shape, sizes below 1, a seed that is no integer, an unknown sampler.
        """
        check_at_least(1, max_length=max_length)
        check_id(self.vocabulary_size, start_token_id=start_token_id)
        if self.absolute_positions is not None and max_length > self.absolute_positions:
            raise ValueError(
                f"`max_length` must be at most `absolute_positions`, {self.absolute_positions}. "
                f"Received: max_length={max_length}"
            )
        ids, mask = self._padded_sources(source_ids, source_mask)
        kept = max_length if self.decoder_feature_map == "softmax" else None

        def read():
            program = kept_program(
                self, ("source", ids.shape, kept), lambda *source: self.initial_state(*source, max_length)
            )
            return program(ids, mask)

        fixed = [name for name in (x.name for x in self._state_arrays()) if "_cross_" in name]
        starts = np.full((len(ids), 1), start_token_id, "int32")
        options = {"pad_id": pad_id, "state": read, "fixed": fixed}
        return generate(self, starts, max_length + 1, sampler, stop_token_ids, seed, **options)[:, 1:]

    def _padded_sources(self, source_ids, source_mask):
        """Return checked sources as arrays, of a length of which there are few."""
        ids = check_integers(source_ids, "source_ids", 2)
        if not len(ids):
            raise ValueError(f"`source_ids` must hold at least one source. Received: shape {ids.shape}")
        ids, mask = (np.array(ops.convert_to_numpy(x)) for x in self._sources(ids, source_mask))
        length = ids.shape[1]
        wanted = self.source_length or padded_length(length)
        if self.absolute_positions is not None:
            wanted = min(wanted, self.absolute_positions)
        return (np.pad(x, [(0, 0), (0, max(wanted - length, 0))]) for x in (ids, mask))

    def _sources(self, source_ids, source_mask):
        """Return ids and mask of sources as tensors, checked."""
        self._check_ids({"source_ids": source_ids})
        source_ids = ops.convert_to_tensor(source_ids)
        is_int = keras.backend.is_int_dtype(keras.backend.standardize_dtype(source_ids.dtype))
        if len(source_ids.shape) != 2 or not is_int or source_ids.shape[1] == 0:
            raise ValueError(
                "`source_ids` must be integers of shape (batch, s), with one position at least, be it hidden. "
                f"Received: {keras.backend.standardize_dtype(source_ids.dtype)}, shape {tuple(source_ids.shape)}"
            )
        longest, length = self.longest_source, source_ids.shape[1]
        if longest is not None and length is not None and length > longest:
            raise ValueError(f"`source_ids` must have at most {longest} tokens a row. Received: {length} tokens")
        source_ids = ops.cast(source_ids, "int32")
        if source_mask is None:
            return source_ids, ops.ones_like(source_ids)
        source_mask = ops.convert_to_tensor(source_mask)
        check_mask_values(source_mask=source_mask)
        if shapes_differ(source_mask.shape, source_ids.shape):
            raise ValueError(
                f"`source_mask` must have the shape of `source_ids`, {tuple(source_ids.shape)}. "
                f"Received: shape {tuple(source_mask.shape)}"
            )
        return source_ids, ops.cast(ops.cast(source_mask, "bool"), "int32")

    def _encode(self, source_ids, source_mask):
        return self._source_encoder({"source_ids": source_ids, "source_mask": source_mask}, training=False)
