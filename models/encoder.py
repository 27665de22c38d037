"""The encoder: a transformer whose attention is kernelized with relative positions."""

import keras

from ..checks import check_at_least
from ..position_bias import deserialize_bias, serialize_bias
from .absolute_positions import AbsolutePositions
from .blocks import (
    BlockOptions,
    apply_dropout,
    initial_stack_state,
    make_biases,
    make_norm,
    make_token_embedding,
    make_token_inputs,
    step_stack,
    take_dtype_policy,
    transformer_stack,
)
from .keras_hub import copy_weights, encoder_arguments
from .layout import make_layout_map, sharded_weights
from .presets import preset_arguments
from .teacher import student_arguments, take_weights
from .token_model import TokenModel

SHARDED_WEIGHTS = sharded_weights(r"layer_\d+", "token_embedding")


@keras.saving.register_keras_serializable("krpe_tf")
class Encoder(TokenModel):
    """A transformer encoder for long sequences: token ids in, one vector per token out.

    Each layer is x + attention(norm(x)), then x + feed_forward(norm(x)); a norm closes the stack (pre-norm). Order
    enters through the position bias alone, so any length runs, also one never trained on. A functional Keras model:

        encoder = krpe_tf.models.Encoder.from_preset("small", vocabulary_size=8000)
        encoder({"token_ids": ids, "padding_mask": mask})          # (batch, n, hidden_dim)

    Inputs: `token_ids`, int32 `(batch, n)`, and `padding_mask`, bool or integer `(batch, n)`, zero where padded. Where
    several documents share a row, `segment_ids` too, integers `(batch, n)`: each run of equal ids is a document, whose
    vectors are those that it has alone.

    Args:
        vocabulary_size: Number of token ids, at least 1.
        num_layers: Number of layers, at least 1.
        num_heads: Attention heads per layer, at least 1; divides `hidden_dim`.
        hidden_dim: Width of a token's vector.
        intermediate_dim: Width inside the feed-forward block.
        num_features: Random features m of the attention.
        feature_map: As for `KernelizedRPEAttention`; "softmax" makes the quadratic twin with the same weights.
        position_bias: None, "decay", "bucketed" or a bias layer.
        share_position_bias: One bias for all layers (the paper's choice) or, if False, one per layer.
        normalize, route: As for `KernelizedRPEAttention`.
        dropout: Rate after the embedding, on attention outputs and on feed-forward outputs.
        causal: Whether a token sees only what is before it.
        length: A fixed n, or None for any.
        seed: Draws the random features and, layer by layer, dropout; weights follow Keras' own seed.
        use_gate: As for `KernelizedRPEAttention`: whether each layer's attention output is gated.
        key_dim: Width of a head; None for `hidden_dim / num_heads`.
        activation: Of the feed-forward block: a name or function, as for `keras.layers.Dense`.
        use_gated_activation: Whether a third product gates the feed-forward block (arXiv 2002.05202).
        norm: "layer" (LayerNorm) or "rms" (RMSNorm, arXiv 1910.07467).
        norm_epsilon: What norms add to the variance, above 0.
        use_bias: Whether the products of attention and feed-forward add biases.
        normalize_first: False for norms behind the sums, as in BERT: norm(x + attention(x)), norm(x + feed_forward(x)),
            and in place of the last norm one on the embeddings.
        absolute_positions: None, or the length of a table of learned vectors that is added to the embeddings, as in
            BERT: for baselines, and for what is converted. Such an encoder refuses longer rows, `segment_ids` and
            decoding step by step.

    Raises:
        ValueError: For sizes below 1, a `hidden_dim` that the heads do not divide where there is no `key_dim`, or an
            unknown norm or activation.
    """

    # Long: the arguments of a backbone, as in Keras.
    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        num_features: int = 32,
        feature_map: str = "orthogonal",
        position_bias="decay",
        share_position_bias: bool = True,
        normalize: bool = True,
        route: str = "auto",
        dropout: float = 0.1,
        causal: bool = False,
        length: int | None = None,
        seed: int | None = None,
        use_gate: bool = False,
        key_dim: int | None = None,
        activation="gelu",
        use_gated_activation: bool = False,
        norm: str = "layer",
        norm_epsilon: float = 1e-6,
        use_bias: bool = True,
        normalize_first: bool = True,
        absolute_positions: int | None = None,
        **kwargs,
    ):
        check_at_least(1, vocabulary_size=vocabulary_size, num_layers=num_layers)
        options = BlockOptions(
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            dropout=dropout,
            seed=seed,
            dtype=take_dtype_policy(kwargs),
            attention={
                "num_features": num_features,
                "feature_map": feature_map,
                "normalize": normalize,
                "causal": causal,
                "route": route,
                "use_gate": use_gate,
            },
            key_dim=key_dim,
            activation=activation,
            use_gated_activation=use_gated_activation,
            norm=norm,
            norm_epsilon=norm_epsilon,
            use_bias=use_bias,
            normalize_first=normalize_first,
        )
        inputs = make_token_inputs(length)
        embedding = make_token_embedding(vocabulary_size, options)
        x = embedding(inputs["token_ids"])
        if absolute_positions is not None:
            table = {"initializer": options.initializer.clone(), "dtype": options.dtype, "name": "absolute_positions"}
            x = AbsolutePositions(absolute_positions, **table)(x)
        if not normalize_first:
            x = make_norm("embedding_norm", norm, norm_epsilon)(x)
        x = apply_dropout(x, "embedding_dropout", options)
        biases = make_biases(position_bias, num_heads, num_layers, share_position_bias)
        x = transformer_stack(x, inputs["padding_mask"], biases, options)
        super().__init__(inputs=inputs, outputs=x, **kwargs)

        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_features = num_features
        self.feature_map = feature_map
        self.share_position_bias = share_position_bias
        self.normalize = normalize
        self.route = route
        self.dropout = dropout
        self.causal = causal
        self.length = length
        self.seed = seed
        self.use_gate = use_gate
        self.key_dim = key_dim
        self.activation = keras.activations.serialize(keras.activations.get(activation))
        self.use_gated_activation = use_gated_activation
        self.norm = norm
        self.norm_epsilon = norm_epsilon
        self.use_bias = use_bias
        self.normalize_first = normalize_first
        self.absolute_positions = absolute_positions
        self.token_embedding = embedding
        self.dtype_policy = options.dtype
        # Hidden from Keras' tracking: with a bias a layer the argument is a pattern, whose weights are not the model's.
        object.__setattr__(self, "_position_bias_argument", position_bias)

    @property
    def position_bias(self):
        """The argument `position_bias`."""
        return self._position_bias_argument

    @staticmethod
    def get_layout_map(device_mesh: keras.distribution.DeviceMesh) -> keras.distribution.LayoutMap:
        """Return how the weights lie on a mesh, for `keras.distribution.ModelParallel`.

        Args:
            device_mesh: Has an axis "model", whose size divides `num_heads`, `hidden_dim` and `intermediate_dim`.

        Raises:
            ValueError: For a mesh without an axis "model".
        """
        return make_layout_map(device_mesh, SHARDED_WEIGHTS)

    @property
    def position_biases(self) -> list:
        """The bias layer of every attention layer, in order; the same one each time when it is shared."""
        return [self.get_layer(f"layer_{index}_attention").position_bias for index in range(self.num_layers)]

    def initial_state(self, batch_size: int) -> dict:
        """Return the state of streams that have read nothing, for `step`: arrays of zeros of constant size.

        Args:
            batch_size: Number of streams.

        Raises:
            ValueError: As `KernelizedRPEAttention.initial_state`: for an encoder that is not causal, for one; for one
                with `absolute_positions`, which a state does not count.
        """
        if self.absolute_positions is not None:
            raise ValueError(
                "an encoder that reads step by step must have no `absolute_positions`: its state counts no places. "
                f"Received: absolute_positions={self.absolute_positions}"
            )
        return initial_stack_state(self, batch_size, self.num_layers)

    def step(self, token_ids, state: dict, count=None):
        """Read the next tokens of a causal encoder, in constant memory and time a token.

        Args:
            token_ids: Integers `(batch, k)`, the next k tokens of each stream, k known and at least 1.
            state: From `initial_state`, or from the previous step.
            count: None, or integers `()` or `(batch,)`, from 0 to k: how many first tokens of the k there are; what
                follows them is padding. None for all.

        Returns:
            The vectors, float32 `(batch, k, hidden_dim)`, and the new state. Vectors of padding mean nothing.

        Raises:
            ValueError: For ids outside of the vocabulary, or a state or count that does not fit.
        """
        return self.step_vectors(self.token_embedding(self._step_ids(token_ids)), state, count)

    def step_vectors(self, vectors, state: dict, count=None):
        """Read the next tokens as `step` does, from their embeddings `(batch, k, hidden_dim)`."""
        if not self.normalize_first:
            vectors = self.get_layer("embedding_norm")(vectors)
        return step_stack(self, vectors, state, self.num_layers, count)

    @classmethod
    def from_preset(cls, preset: str, **overrides) -> "Encoder":
        """Make an untrained encoder of a known size: "tiny", "small" (about 10 M parameters) or "base" (BERT-base).

        Args:
            preset: Name in `krpe_tf.models.presets.PRESETS`.
            **overrides: Arguments of `Encoder` that replace the preset's.

        Raises:
            ValueError: For an unknown preset.
        """
        return cls(**{**preset_arguments(preset), **overrides})

    @classmethod
    def from_encoder(cls, encoder: "Encoder", **overrides) -> "Encoder":
        """Make an encoder like another one, with its weights where names and shapes agree; the log says where not.

            linear = Encoder.from_encoder(exact, feature_map="orthogonal", num_features=64)

        Where the other one alone has absolute positions, their mean goes into the token embeddings. Where it has no
        position bias, a new one starts from slopes alone, without peaks at neighbours.

        Args:
            encoder: The other one.
            **overrides: Arguments of `Encoder` that replace those of `encoder`.
        """
        made = cls(**student_arguments(encoder, overrides))
        take_weights(made, encoder)
        return made

    @classmethod
    def from_keras_hub(cls, backbone, **overrides) -> "Encoder":
        """Convert the encoder of a KerasHub T5 or BERT backbone, weights included; needs the package keras-hub.

        It computes what `backbone` computes. Other arguments turn it into the linear encoder that estimates it, to be
        trained on, by the task `distill` for one:

            exact = Encoder.from_keras_hub(T5Backbone.from_preset("t5_small_multi"))
            linear = Encoder.from_keras_hub(backbone, feature_map="orthogonal", num_features=64)

        T5's position bias is one table of buckets for all layers, a Toeplitz matrix, and there are no absolute
        positions, so any length runs. T5 multiplies queries and keys without a scale; the query projections take it up.

        BERT has `absolute_positions`, in which its segment 0 is folded, that of a text alone. Where you give None, the
        mean of that table goes into the token embeddings; a `position_bias` in its place starts from slopes alone.

        Where a row is padded, vectors at padded positions mean nothing in either.

        Args:
            backbone: A `keras_hub.models.T5Backbone` or `BertBackbone`.
            **overrides: `feature_map` (by default "softmax", the exact kernel), `num_features`, `normalize` (False),
                `route`, `dropout` (the backbone's), `length`, `seed`, `dtype`, `name`. For BERT also `activation`
                (gelu by its tanh formula, as in KerasHub; "gelu" for checkpoints that were trained without it),
                `position_bias` (None), `share_position_bias`, and `absolute_positions` (the backbone's, fewer or None).

        Raises:
            ValueError: For another model, such as RoFormer with its rotary positions, for an argument that the weights
                determine, or more positions than the backbone has.
        """
        encoder = cls(**encoder_arguments(backbone, overrides))
        copy_weights(backbone, encoder)
        return encoder

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "num_features": self.num_features,
            "feature_map": self.feature_map,
            "position_bias": serialize_bias(self.position_bias, self),
            "share_position_bias": self.share_position_bias,
            "normalize": self.normalize,
            "route": self.route,
            "dropout": self.dropout,
            "causal": self.causal,
            "length": self.length,
            "seed": self.seed,
            "use_gate": self.use_gate,
            "key_dim": self.key_dim,
            "activation": self.activation,
            "use_gated_activation": self.use_gated_activation,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "use_bias": self.use_bias,
            "normalize_first": self.normalize_first,
            "absolute_positions": self.absolute_positions,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**{**config, "position_bias": deserialize_bias(config["position_bias"])})
