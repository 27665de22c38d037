"""The encoder's settings, as Model Garden reads them from Python, YAML and the command line."""

import dataclasses

from official.modeling.hyperparams import base_config, oneof


@dataclasses.dataclass
class DecayBiasConfig(base_config.Config):
    """Arguments of `krpe_tf.DecayBias`."""

    radius: int = 16
    num_terms: int = 2


@dataclasses.dataclass
class BucketedBiasConfig(base_config.Config):
    """Arguments of `krpe_tf.BucketedBias`."""

    num_buckets: int = 32
    max_distance: int = 128


@dataclasses.dataclass
class LearnedBiasConfig(base_config.Config):
    """Arguments of `krpe_tf.LearnedBias`; 511 are all offsets of 512 positions."""

    max_distance: int = 511


@dataclasses.dataclass
class PositionBiasConfig(oneof.OneOfConfig):
    """One bias: `type` names the field that holds its arguments; None is no bias."""

    type: str | None = "decay"
    decay: DecayBiasConfig = dataclasses.field(default_factory=DecayBiasConfig)
    bucketed: BucketedBiasConfig = dataclasses.field(default_factory=BucketedBiasConfig)
    learned: LearnedBiasConfig = dataclasses.field(default_factory=LearnedBiasConfig)


@dataclasses.dataclass
class EncoderConfig(base_config.Config):
    """Settings of `Encoder`, for Model Garden's encoder type "any": see `krpe_tf.models.Encoder`.

    Model Garden's names where it has one. `dropout_rate` is that of embeddings and blocks, `attention_dropout_rate`
    that within attention. The defaults are the sizes of BERT-base.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    initializer_range: float = 0.02
    num_features: int = 32
    feature_map: str = "orthogonal"
    position_bias: PositionBiasConfig = dataclasses.field(default_factory=PositionBiasConfig)
    share_position_bias: bool = True
    normalize: bool = True
    route: str = "auto"
    causal: bool = False
    # Draws the random features: layer i takes seed + i.
    seed: int = 0
