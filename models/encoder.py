"""The encoder: a pre-norm transformer whose attention is kernelized with relative positions."""

import keras
from keras import layers

from ..attention import KernelizedRPEAttention
from ..checks import check_at_least, check_rate
from ..finite import finite
from ..position_bias import make_position_bias
from .presets import preset_arguments

Dense, LayerNormalization = finite(layers.Dense), finite(layers.LayerNormalization)
ReversibleEmbedding = finite(layers.ReversibleEmbedding)


@keras.saving.register_keras_serializable("krpe_tf")
class Encoder(keras.Model):
    """A transformer encoder for long sequences: token ids in, one vector a token out.

    Each layer is x + attention(norm(x)), then x + feed_forward(norm(x)); a norm closes the stack (pre-norm). There are
    no absolute positions: order enters through the position bias alone, so any length runs, also one never trained on.
    A functional Keras model:

        encoder = krpe_tf.models.Encoder.from_preset("small", vocabulary_size=8000)
        encoder({"token_ids": ids, "padding_mask": mask})          # (batch, n, hidden_dim)

    Inputs: "token_ids", int32 (batch, n), and "padding_mask", bool or integer (batch, n), zero where padded.

    Args:
        vocabulary_size: number of token ids, at least 1.
        num_layers: number of layers, at least 1.
        num_heads: attention heads a layer, at least 1; divides `hidden_dim`.
        hidden_dim: width of a token's vector.
        intermediate_dim: width inside the feed-forward block.
        num_features: random features m of the attention.
        feature_map: see `KernelizedRPEAttention`; "softmax" makes the quadratic twin with the same weights.
        position_bias: None, "decay", "bucketed" or a bias layer.
        share_position_bias: one bias for all layers (the paper's choice) or, if False, one a layer.
        normalize, route: see `KernelizedRPEAttention`.
        dropout: rate after the embedding, on attention outputs and on feed-forward outputs.
        causal: whether a token sees only what is before it.
        length: a fixed n, or None for any.
        seed: draws the random features and, layer by layer, dropout; weights follow Keras' own seed.

    Raises:
        ValueError: for sizes below 1, or a hidden_dim that the heads do not divide.
    """

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
        **kwargs,
    ):
        check_at_least(
            1,
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
        )
        if length is not None:
            check_at_least(1, length=length)
        check_rate(dropout=dropout)
        if hidden_dim % num_heads:
            raise ValueError(
                f"num_heads must divide hidden_dim. Received: num_heads={num_heads}, hidden_dim={hidden_dim}"
            )
        # The policy is the model's: each layer gets it, also when the model is built from a config.
        dtype = keras.dtype_policies.get(kwargs.pop("dtype", None) or keras.config.dtype_policy())
        initializer = keras.initializers.TruncatedNormal(stddev=0.02)
        shared_bias = make_position_bias(position_bias, num_heads)

        def bias_of_layer(index):
            if share_position_bias or shared_bias is None:
                return shared_bias
            config = {**shared_bias.get_config(), "name": f"layer_{index}_{shared_bias.name}"}
            return type(shared_bias).from_config(config)

        def norm(name):
            # Statistics over a half-precision vector lose what the norm is for.
            return LayerNormalization(epsilon=1e-6, dtype="float32", name=name)

        def dropped(x, name):
            return layers.Dropout(dropout, dtype=dtype, seed=seed, name=name)(x) if dropout else x

        token_ids = keras.Input((length,), dtype="int32", name="token_ids")
        padding_mask = keras.Input((length,), dtype="int32", name="padding_mask")
        embedding = ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=initializer.clone(),
            reverse_dtype="float32",
            dtype=dtype,
            name="token_embedding",
        )
        x = dropped(embedding(token_ids), "embedding_dropout")
        for index in range(num_layers):
            prefix = f"layer_{index}"
            attention = KernelizedRPEAttention(
                num_heads,
                hidden_dim // num_heads,
                num_features=num_features,
                feature_map=feature_map,
                normalize=normalize,
                position_bias=bias_of_layer(index),
                causal=causal,
                route=route,
                dropout=dropout,
                seed=None if seed is None else seed + index,
                kernel_initializer=initializer.clone(),
                dtype=dtype,
                name=f"{prefix}_attention",
            )
            y = norm(f"{prefix}_attention_norm")(x)
            x = layers.Add(dtype=dtype, name=f"{prefix}_attention_residual")(
                [x, attention(y, y, query_mask=padding_mask, attention_mask=padding_mask)]
            )
            y = norm(f"{prefix}_feed_forward_norm")(x)
            y = Dense(
                intermediate_dim,
                activation="gelu",
                kernel_initializer=initializer.clone(),
                dtype=dtype,
                name=f"{prefix}_feed_forward_in",
            )(y)
            y = Dense(
                hidden_dim, kernel_initializer=initializer.clone(), dtype=dtype, name=f"{prefix}_feed_forward_out"
            )(y)
            x = layers.Add(dtype=dtype, name=f"{prefix}_feed_forward_residual")(
                [x, dropped(y, f"{prefix}_feed_forward_dropout")]
            )
        x = norm("final_norm")(x)
        super().__init__(inputs={"token_ids": token_ids, "padding_mask": padding_mask}, outputs=x, **kwargs)

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
        self.token_embedding = embedding
        self.dtype_policy = dtype
        # Past Keras' tracking: with a bias a layer, the argument is their pattern, and its weights are not the model's.
        object.__setattr__(self, "_position_bias_argument", position_bias)

    @property
    def position_bias(self):
        """The argument `position_bias`."""
        return self._position_bias_argument

    @property
    def position_biases(self) -> list:
        """The bias layer of every attention layer, in order; the same one each time when it is shared."""
        return [self.get_layer(f"layer_{index}_attention").position_bias for index in range(self.num_layers)]

    @classmethod
    def from_preset(cls, preset: str, **overrides) -> "Encoder":
        """An untrained encoder of a known size: "tiny", "small" (about 10 M parameters) or "base" (BERT-base).

        Args:
            preset: name in `krpe_tf.models.presets.PRESETS`.
            **overrides: arguments of `Encoder` that replace the preset's.

        Raises:
            ValueError: for an unknown preset.
        """
        return cls(**{**preset_arguments(preset), **overrides})

    def get_config(self):
        bias = self._position_bias_argument
        if bias is not None and not isinstance(bias, str):
            bias = keras.saving.serialize_keras_object(bias)
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
            "position_bias": bias,
            "share_position_bias": self.share_position_bias,
            "normalize": self.normalize,
            "route": self.route,
            "dropout": self.dropout,
            "causal": self.causal,
            "length": self.length,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        if isinstance(config["position_bias"], dict):
            config["position_bias"] = keras.saving.deserialize_keras_object(config["position_bias"])
        return cls(**config)


def check_encoder(encoder):
    """Raises a ValueError unless `encoder` is an `Encoder`."""
    if not isinstance(encoder, Encoder):
        raise ValueError(f"encoder must be an Encoder. Received: encoder={encoder!r}")
