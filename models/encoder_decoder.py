"""Translation: an encoder and a decoder, linear in both lengths."""

from dataclasses import replace

import keras

from ..checks import check_at_least
from ..position_bias import deserialize_bias, serialize_bias
from .absolute_positions import AbsolutePositions
from .blocks import (
    BlockOptions,
    CrossAttention,
    apply_dropout,
    make_biases,
    make_token_embedding,
    make_token_inputs,
    take_dtype_policy,
    transformer_stack,
)
from .layout import make_layout_map, sharded_weights
from .precision import in_float32
from .source_decoding import SourceDecoding

BLOCK = r"(encoder|decoder)_\d+"

# The tokens' embedding by the name that it has in `Encoder`: a layout of all models must name each weight once.
SHARDED_WEIGHTS = {**sharded_weights(BLOCK, "token_embedding"), **sharded_weights(BLOCK, "source_embedding")}


@keras.saving.register_keras_serializable("krpe_tf")
class EncoderDecoder(SourceDecoding):
    """A transformer that reads a source and writes a target, as in translation (arXiv 2106.12566, section 4.3).

    The encoder is that of `Encoder`. A block of the decoder is

        x + attention(norm(x)), then x + cross_attention(norm(x), source), then x + feed_forward(norm(x)),

    its attention causal, with a position bias of its own, its cross-attention without positions: with m features phi,

        z_i = phi(q_i) S / phi(q_i) s,    S = sum_j phi(k_j)^T v_j,    s = sum_j phi(k_j)^T,

    so that all a layer needs of a source of any length is one sum of m x (d + 1) numbers a head. The logits are tied to
    the target's embedding.

        model = krpe_tf.models.EncoderDecoder(8000, 6, 6, num_heads=4, hidden_dim=512, intermediate_dim=1024)
        logits = model({"source_ids": x, "source_mask": x_mask, "token_ids": y, "padding_mask": y_mask})
        state = model.initial_state(x, x_mask)      # of a size that depends on neither length
        logits, state = model.step(y[:, :1], state)

    Inputs: `source_ids` and `source_mask` `(batch, s)`, `token_ids` and `padding_mask` `(batch, n)`, int32, the masks
    zero where padded. `token_ids` is the target behind a start token, its labels the target and an end token. Output:
    float32 `(batch, n, vocabulary_size)`.

    The rows of the paper's table 3 are `encoder_feature_map`, `decoder_feature_map` and `cross_feature_map` "softmax"
    for what is standard, with `normalize=False`; for PRF `normalize=False` and no position biases; and what is the
    default here for the paper's own. A model without position biases takes `absolute_positions`.

    Args:
        vocabulary_size: Number of ids of the target, at least 1.
        num_encoder_layers, num_decoder_layers: Numbers of blocks, at least 1.
        num_heads, hidden_dim, intermediate_dim: As for `Encoder`, of both.
        source_vocabulary_size: Number of ids of the source. None where source and target share one vocabulary, and so
            one embedding.
        num_features: Random features m of the encoder.
        decoder_num_features: Those of the decoder, of both its attentions; `num_features` if None.
        encoder_feature_map, decoder_feature_map, cross_feature_map: Of the three attentions, as for
            `KernelizedRPEAttention`. "softmax" is the exact kernel, with the same weights.
        encoder_position_bias, decoder_position_bias: None, "decay", "bucketed" or a bias layer, not the same one.
        share_position_bias: One bias for all blocks of the encoder and one for all of the decoder, or one per block.
        normalize: As for `KernelizedRPEAttention`.
        cross_normalize: The same of cross-attention alone; `normalize` if None.
        route: Of attention with a position bias, as for `KernelizedRPEAttention`.
        dropout: Rate after the embeddings, on attention outputs and on feed-forward outputs.
        source_length, length: A fixed s and n, or None for any.
        seed: Draws the random features and, block by block, dropout; weights follow Keras' own seed.
        use_gate, key_dim, value_dim, activation, use_gated_activation, norm, norm_epsilon, use_bias: As for `Encoder`.
        absolute_positions: None, or the length of two tables of learned vectors that are added to the embeddings of
            source and target: for baselines. Such a model refuses longer rows.

    Raises:
        ValueError: For sizes below 1, a `hidden_dim` that the heads do not divide where there is no `key_dim`, an
            unknown feature map, norm or activation, or one bias layer for encoder and decoder.
    """

    normalize_first = True

    # Long: the arguments of a backbone, as in Keras.
    def __init__(
        self,
        vocabulary_size: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        source_vocabulary_size: int | None = None,
        num_features: int = 32,
        decoder_num_features: int | None = None,
        encoder_feature_map: str = "orthogonal",
        decoder_feature_map: str = "orthogonal",
        cross_feature_map: str = "orthogonal",
        encoder_position_bias="decay",
        decoder_position_bias="decay",
        share_position_bias: bool = True,
        normalize: bool = True,
        cross_normalize: bool | None = None,
        route: str = "auto",
        dropout: float = 0.1,
        source_length: int | None = None,
        length: int | None = None,
        seed: int | None = None,
        use_gate: bool = False,
        key_dim: int | None = None,
        value_dim: int | None = None,
        activation="gelu",
        use_gated_activation: bool = False,
        norm: str = "layer",
        norm_epsilon: float = 1e-6,
        use_bias: bool = True,
        absolute_positions: int | None = None,
        **kwargs,
    ):
        sizes = {"num_encoder_layers": num_encoder_layers, "num_decoder_layers": num_decoder_layers}
        check_at_least(1, vocabulary_size=vocabulary_size, **sizes)
        own = {"num_features": num_features, "normalize": normalize, "route": route, "use_gate": use_gate}
        decoder_m = num_features if decoder_num_features is None else decoder_num_features
        options = BlockOptions(
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            dropout=dropout,
            seed=seed,
            dtype=take_dtype_policy(kwargs),
            attention=_attention(own, encoder_feature_map),
            key_dim=key_dim,
            value_dim=value_dim,
            activation=activation,
            use_gated_activation=use_gated_activation,
            norm=norm,
            norm_epsilon=norm_epsilon,
            use_bias=use_bias,
        )
        in_decoder = {**own, "num_features": decoder_m}
        decoder_options = replace(
            options,
            seed=None if seed is None else seed + num_encoder_layers,
            attention=_attention({**in_decoder, "causal": True}, decoder_feature_map),
        )
        of_cross = {"normalize": normalize if cross_normalize is None else cross_normalize, "route": "auto"}
        if encoder_position_bias is decoder_position_bias and hasattr(encoder_position_bias, "log_weights"):
            raise ValueError(
                "`decoder_position_bias` must be another bias layer than `encoder_position_bias`. "
                f"Received: {decoder_position_bias!r} for both"
            )
        sources = make_token_inputs(source_length, "source_ids", "source_mask")
        targets = make_token_inputs(length)
        embedding = make_token_embedding(vocabulary_size, options)
        source_embedding = embedding
        if source_vocabulary_size is not None:
            check_at_least(1, source_vocabulary_size=source_vocabulary_size)
            source_embedding = make_token_embedding(source_vocabulary_size, options, "source_embedding")

        def embedded(ids, embedding, name, options):
            x = embedding(ids)
            if absolute_positions is not None:
                table = {
                    "initializer": options.initializer.clone(),
                    "dtype": options.dtype,
                    "name": f"{name}_positions",
                }
                x = AbsolutePositions(absolute_positions, **table)(x)
            return apply_dropout(x, f"{name}_embedding_dropout", options)

        def biases(argument, num_layers, name):
            return make_biases(argument, num_heads, num_layers, share_position_bias, name)

        x = embedded(sources["source_ids"], source_embedding, "encoder", options)
        encoder_biases = biases(encoder_position_bias, num_encoder_layers, "encoder")
        encoded = transformer_stack(x, sources["source_mask"], encoder_biases, options, "encoder", "encoder_norm")
        cross = CrossAttention(
            source=encoded,
            mask=sources["source_mask"],
            attention=_attention({**in_decoder, **of_cross}, cross_feature_map),
            seed=None if seed is None else seed + num_encoder_layers + num_decoder_layers,
        )
        x = embedded(targets["token_ids"], embedding, "decoder", decoder_options)
        decoder_biases = biases(decoder_position_bias, num_decoder_layers, "decoder")
        x = transformer_stack(
            x, targets["padding_mask"], decoder_biases, decoder_options, "decoder", "decoder_norm", cross
        )
        super().__init__(inputs={**sources, **targets}, outputs=embedding(x, reverse=True), **kwargs)
        # Not tracked: its layers are the model's own.
        object.__setattr__(self, "_source_encoder", keras.Model(sources, encoded))

        self.vocabulary_size = vocabulary_size
        self.num_encoder_layers = num_encoder_layers
        self.num_decoder_layers = num_decoder_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.source_vocabulary_size = source_vocabulary_size
        self.num_features = num_features
        self.decoder_num_features = decoder_num_features
        self.encoder_feature_map = encoder_feature_map
        self.decoder_feature_map = decoder_feature_map
        self.cross_feature_map = cross_feature_map
        self.share_position_bias = share_position_bias
        self.normalize = normalize
        self.cross_normalize = cross_normalize
        self.route = route
        self.dropout = dropout
        self.source_length = source_length
        self.length = length
        self.seed = seed
        self.use_gate = use_gate
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.activation = keras.activations.serialize(keras.activations.get(activation))
        self.use_gated_activation = use_gated_activation
        self.norm = norm
        self.norm_epsilon = norm_epsilon
        self.use_bias = use_bias
        self.absolute_positions = absolute_positions
        self.token_embedding = embedding
        self.source_embedding = source_embedding
        self.dtype_policy = options.dtype
        # Hidden from Keras' tracking: where a bias layer is a pattern, its weights are not the model's.
        object.__setattr__(self, "_bias_arguments", (encoder_position_bias, decoder_position_bias))

    @property
    def encoder_position_bias(self):
        """The argument `encoder_position_bias`."""
        return self._bias_arguments[0]

    @property
    def decoder_position_bias(self):
        """The argument `decoder_position_bias`."""
        return self._bias_arguments[1]

    @property
    def position_biases(self) -> list:
        """The bias of every self-attention, the encoder's first; the same one each time where it is shared."""
        blocks = [f"encoder_{i}" for i in range(self.num_encoder_layers)]
        blocks += [f"decoder_{i}" for i in range(self.num_decoder_layers)]
        return [self.get_layer(f"{block}_attention").position_bias for block in blocks]

    @staticmethod
    def get_layout_map(device_mesh: keras.distribution.DeviceMesh) -> keras.distribution.LayoutMap:
        """Return how the weights lie on a mesh, as `Encoder.get_layout_map` does."""
        return make_layout_map(device_mesh, SHARDED_WEIGHTS)

    def in_float32(self) -> "EncoderDecoder":
        """Return a model with these weights that computes in float32, as exports need it; itself if it does so."""
        return in_float32(self)

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "vocabulary_size": self.vocabulary_size,
            "num_encoder_layers": self.num_encoder_layers,
            "num_decoder_layers": self.num_decoder_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "source_vocabulary_size": self.source_vocabulary_size,
            "num_features": self.num_features,
            "decoder_num_features": self.decoder_num_features,
            "encoder_feature_map": self.encoder_feature_map,
            "decoder_feature_map": self.decoder_feature_map,
            "cross_feature_map": self.cross_feature_map,
            "encoder_position_bias": serialize_bias(self.encoder_position_bias, self),
            "decoder_position_bias": serialize_bias(self.decoder_position_bias, self),
            "share_position_bias": self.share_position_bias,
            "normalize": self.normalize,
            "cross_normalize": self.cross_normalize,
            "route": self.route,
            "dropout": self.dropout,
            "source_length": self.source_length,
            "length": self.length,
            "seed": self.seed,
            "use_gate": self.use_gate,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "activation": self.activation,
            "use_gated_activation": self.use_gated_activation,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "use_bias": self.use_bias,
            "absolute_positions": self.absolute_positions,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        encoder_bias = deserialize_bias(config["encoder_position_bias"])
        decoder_bias = deserialize_bias(config["decoder_position_bias"])
        return cls(**{**config, "encoder_position_bias": encoder_bias, "decoder_position_bias": decoder_bias})


def _attention(arguments: dict, feature_map: str) -> dict:
    """Return the arguments of an attention layer with this map; the exact kernel has no route."""
    route = "auto" if feature_map == "softmax" else arguments["route"]
    return {**arguments, "feature_map": feature_map, "route": route}
