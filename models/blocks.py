"""The transformer block, as functions of symbolic tensors, for every backbone.

The layers get the names that saved weights and layout maps know: `layer_0_attention`, `layer_0_feed_forward_in`.
"""

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import keras
from keras import layers

from ..attention import KernelizedRPEAttention
from ..checks import check_at_least, check_one_of, check_rate
from ..finite import finite
from ..position_bias import make_position_bias

Dense, ReversibleEmbedding = finite(layers.Dense), finite(layers.ReversibleEmbedding)
LayerNormalization, RMSNormalization = finite(layers.LayerNormalization), finite(layers.RMSNormalization)
NORMS = {"layer": LayerNormalization, "rms": RMSNormalization}


@keras.saving.register_keras_serializable("krpe_tf")
def gelu_approximate(x):
    """Return gelu by its tanh formula, as KerasHub computes BERT."""
    return keras.activations.gelu(x, approximate=True)


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of a backbone have in common.

    Attributes: `num_heads`; `hidden_dim`, the width of a position's vector; `intermediate_dim`, the width inside the
    feed-forward block; `dropout`, the rate on what attention and feed-forward add to the vectors; `seed`, which draws
    it and, plus a block's index, the block's random features; `dtype`, the policy of all layers but norms; `attention`,
    further arguments of `KernelizedRPEAttention`; `initializer`, cloned for every kernel and embedding; `key_dim`, the
    width of a query and key head, None for `hidden_dim / num_heads`; `value_dim`, that of a value head, None for
    `key_dim`; `activation` of the feed-forward block, and whether it is gated (`use_gated_activation`); `norm`,
    "layer" or "rms", and its `norm_epsilon`; `use_bias`, whether attention and feed-forward add biases;
    `normalize_first`, whether norms stand before attention and feed-forward or behind sums.

    Raises:
        ValueError: For sizes below 1, a rate outside of [0, 1), heads that do not divide `hidden_dim` where there is no
            `key_dim`, an unknown norm or activation, or an epsilon that is not above 0.
    """

    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float
    seed: int | None
    dtype: keras.DTypePolicy
    attention: dict = field(default_factory=dict)
    initializer: keras.initializers.Initializer = field(
        default_factory=lambda: keras.initializers.TruncatedNormal(stddev=0.02)
    )
    key_dim: int | None = None
    value_dim: int | None = None
    activation: Callable | str = "gelu"
    use_gated_activation: bool = False
    norm: str = "layer"
    norm_epsilon: float = 1e-6
    use_bias: bool = True
    normalize_first: bool = True

    def __post_init__(self):
        """Check sizes and rates."""
        sizes = {name: getattr(self, name) for name in ("num_heads", "hidden_dim", "intermediate_dim")}
        check_at_least(1, **sizes)
        check_rate(dropout=self.dropout)
        check_one_of(tuple(NORMS), norm=self.norm)
        check_one_of((True, False), normalize_first=self.normalize_first)
        if not self.norm_epsilon > 0:
            raise ValueError(f"`norm_epsilon` must be above 0. Received: norm_epsilon={self.norm_epsilon}")
        if self.key_dim is not None:
            check_at_least(1, key_dim=self.key_dim)
        elif self.hidden_dim % self.num_heads:
            raise ValueError(
                "`num_heads` must divide `hidden_dim`. "
                f"Received: num_heads={self.num_heads}, hidden_dim={self.hidden_dim}"
            )
        if self.value_dim is not None:
            check_at_least(1, value_dim=self.value_dim)


@dataclass(frozen=True)
class CrossAttention:
    """What the blocks of a decoder also attend to, between their own attention and the feed-forward block.

    Attributes: `source`, a symbolic tensor `(batch, s, width)`; `mask`, `(batch, s)`, zero where padded; `attention`,
    arguments of `KernelizedRPEAttention`; `seed`, which with a block's index draws its random features and dropout.
    """

    source: keras.KerasTensor
    mask: keras.KerasTensor
    attention: dict
    seed: int | None


def transformer_stack(
    x,
    mask,
    position_biases: Sequence,
    options: BlockOptions,
    name: str = "layer",
    norm="final_norm",
    cross: CrossAttention | None = None,
):
    """Apply a block for each position bias and, with `normalize_first`, a norm that closes the stack.

    Args:
        x: Symbolic tensor `(batch, n, hidden_dim)`.
        mask: Symbolic tensor `(batch, n)`, zero where padded, or None.
        position_biases: For each block its bias, as `make_biases` gives them.
        options: Sizes and arguments that all blocks share.
        name: Begins the names of the blocks' layers: "layer" makes "layer_0_attention".
        norm: The name of the last norm.
        cross: What all blocks attend to besides, for a decoder: then there are "layer_0_cross_attention" and so on.

    Returns:
        A symbolic tensor like `x`, float32.
    """
    for index, position_bias in enumerate(position_biases):
        seed = None if options.seed is None else options.seed + index
        x = transformer_block(x, mask, f"{name}_{index}", position_bias, seed, options, cross)
        cross = cross if cross is None or cross.seed is None else replace(cross, seed=cross.seed + 1)
    return make_norm(norm, options.norm, options.norm_epsilon)(x) if options.normalize_first else x


def transformer_block(
    x,
    mask,
    prefix: str,
    position_bias,
    attention_seed: int | None,
    options: BlockOptions,
    cross: CrossAttention | None = None,
):
    """Apply one block: x + attention(norm(x)), then x + feed_forward(norm(x)).

    In a decoder x + cross_attention(norm(x), source) stands between them.

    Without `normalize_first` it is norm(x + attention(x)), then norm(x + feed_forward(x)), as in BERT.

    Args:
        x: Symbolic tensor `(batch, n, hidden_dim)`.
        mask: Symbolic tensor `(batch, n)`, zero where padded, or None.
        prefix: Begins the names of the layers: "layer_0".
        position_bias: A bias layer, or None. Blocks that are given the same one share it.
        attention_seed: Draws the random features and the attention's dropout: another one for each block.
        options: Sizes and arguments that all blocks share.
        cross: What the block of a decoder attends to besides.

    Returns:
        A symbolic tensor like `x`.
    """
    own = {"position_bias": position_bias, "seed": attention_seed, **options.attention}
    x = attention_block(x, mask, f"{prefix}_attention", own, options)
    if cross is not None:
        others = {"position_bias": None, "seed": cross.seed, **cross.attention}
        x = attention_block(x, mask, f"{prefix}_cross_attention", others, options, cross.source, cross.mask)
    return feed_forward_block(x, f"{prefix}_feed_forward", options)


def attention_block(x, mask, name: str, attention: dict, options: BlockOptions, source=None, source_mask=None):
    """Apply x + attention(norm(x)), or x + attention(norm(x), source) where there is a source; see `BlockOptions`.

    Args:
        x, mask, options: As for `transformer_block`.
        name: Of the attention layer; its norm and sum are "{name}_norm" and "{name}_residual".
        attention: Arguments of the layer, besides those that `options` gives to all.
        source, source_mask: Symbolic tensors `(batch, s, width)` and `(batch, s)`: where keys and values come from.
    """
    layer = KernelizedRPEAttention(
        options.num_heads,
        options.key_dim or options.hidden_dim // options.num_heads,
        options.value_dim,
        dropout=options.dropout,
        use_bias=options.use_bias,
        kernel_initializer=options.initializer.clone(),
        dtype=options.dtype,
        name=name,
        **attention,
    )
    norm = make_norm(f"{name}_norm", options.norm, options.norm_epsilon)
    y = norm(x) if options.normalize_first else x
    source, source_mask = (y, mask) if source is None else (source, source_mask)
    y = layer(y, source, query_mask=mask, value_mask=source_mask)
    x = layers.Add(dtype=options.dtype, name=f"{name}_residual")([x, y])
    return x if options.normalize_first else norm(x)


def step_stack(
    model: keras.Model,
    x,
    state: dict,
    num_layers: int,
    count=None,
    name: str = "layer",
    norm: str = "final_norm",
    cross: bool = False,
):
    """Apply the stack that `transformer_stack` made in a causal model to the next positions of streams.

    Args:
        model: Holds the layers, by their names, and says `normalize_first` and `use_gated_activation`.
        x: `(batch, k, hidden_dim)`.
        state: From `initial_stack_state`, or from the call before. With `cross` it also holds what `cross_state` of the
            layers gives, as "layer_0_cross_sums"; that stays as it is.
        num_layers: How many blocks there are.
        count: As in `KernelizedRPEAttention.step`.
        name, norm: As in `transformer_stack`.
        cross: Whether it is the stack of a decoder.

    Returns:
        `(batch, k, hidden_dim)`, float32, and the new state.

    Raises:
        ValueError: For a state or count that does not fit, or more positions than a state holds, as far as values are
            known.
    """
    if not isinstance(state, dict):
        raise not_a_state(state)
    after, first = dict(state), model.normalize_first

    def around(name, x, function):
        """Return x + function(norm(x)), or norm(x + function(x))."""
        norm = model.get_layer(f"{name}_norm")
        x = model.get_layer(f"{name}_residual")([x, function(norm(x) if first else x)])
        return x if first else norm(x)

    def attend(prefix, x):
        parts = take_state(state, prefix)
        y, parts = model.get_layer(f"{prefix}_attention").step(x, parts, count=count)
        after.update({f"{prefix}_{key}": part for key, part in parts.items()})
        return y

    def attend_to_source(prefix, x):
        return model.get_layer(f"{prefix}_cross_attention").cross_step(x, take_state(state, f"{prefix}_cross"))

    def feed_forward(prefix, x):
        inner = model.get_layer(f"{prefix}_feed_forward_in")(x)
        if model.use_gated_activation:
            gate = model.get_layer(f"{prefix}_feed_forward_gate")(x)
            inner = model.get_layer(f"{prefix}_feed_forward_gated")([inner, gate])
        return model.get_layer(f"{prefix}_feed_forward_out")(inner)

    for prefix in (f"{name}_{index}" for index in range(num_layers)):
        x = around(f"{prefix}_attention", x, functools.partial(attend, prefix))
        if cross:
            x = around(f"{prefix}_cross_attention", x, functools.partial(attend_to_source, prefix))
        x = around(f"{prefix}_feed_forward", x, functools.partial(feed_forward, prefix))
    return model.get_layer(norm)(x) if first else x, after


def not_a_state(state) -> ValueError:
    """Return the error that says that `state` is none of a model's."""
    received = sorted(state) if isinstance(state, dict) else state
    return ValueError(f"`state` must come from `initial_state`, or from a step. Received: state={received!r:.80}")


def take_state(state: dict, prefix: str) -> dict:
    """Return the part of a state that belongs to a layer, "keys" for "layer_0_keys"; not what it keeps of a source."""
    own = {key.removeprefix(f"{prefix}_"): part for key, part in state.items() if key.startswith(f"{prefix}_")}
    return {key: part for key, part in own.items() if not key.startswith("cross_")}


def initial_stack_state(
    model: keras.Model, batch_size: int, num_layers: int, name: str = "layer", max_length: int | None = None
) -> dict:
    """Return the state of streams that have read nothing, of all layers: "layer_0_keys", "layer_0_values", ...

    Args:
        model, num_layers, name: As for `step_stack`.
        batch_size, max_length: As for `KernelizedRPEAttention.initial_state`.
    """
    layers_by_prefix = {f"{name}_{i}": model.get_layer(f"{name}_{i}_attention") for i in range(num_layers)}
    return {
        f"{prefix}_{key}": part
        for prefix, attention in layers_by_prefix.items()
        for key, part in attention.initial_state(batch_size, max_length).items()
    }


def feed_forward_block(x, prefix: str, options: BlockOptions):
    """Apply x + dropout(out(activation(in(norm(x))))) to a symbolic tensor `(batch, n, hidden_dim)`.

    With `use_gated_activation` a third product, `gate(norm(x))`, multiplies the activation (arXiv 2002.05202). Without
    `normalize_first` the norm is that of the sum.
    """

    def dense(units, name, activation=None):
        return Dense(
            units,
            activation,
            options.use_bias,
            kernel_initializer=options.initializer.clone(),
            dtype=options.dtype,
            name=f"{prefix}_{name}",
        )

    norm = make_norm(f"{prefix}_norm", options.norm, options.norm_epsilon)
    y = norm(x) if options.normalize_first else x
    inner = dense(options.intermediate_dim, "in", options.activation)(y)
    if options.use_gated_activation:
        gate = dense(options.intermediate_dim, "gate")(y)
        inner = layers.Multiply(dtype=options.dtype, name=f"{prefix}_gated")([inner, gate])
    y = dense(options.hidden_dim, "out")(inner)
    y = apply_dropout(y, f"{prefix}_dropout", options)
    x = layers.Add(dtype=options.dtype, name=f"{prefix}_residual")([x, y])
    return x if options.normalize_first else norm(x)


def apply_dropout(x, name: str, options: BlockOptions):
    """Apply dropout; without a layer where the rate is zero."""
    if not options.dropout:
        return x
    # Of its name too: layers of one seed would all drop the same places in every step.
    seed = None if options.seed is None else (options.seed + zlib.crc32(name.encode())) % 2**31
    return layers.Dropout(options.dropout, dtype=options.dtype, seed=seed, name=name)(x)


def make_norm(name: str, norm: str = "layer", epsilon: float = 1e-6) -> layers.Layer:
    """Make a norm in float32: statistics over a half-precision vector lose what the norm is for."""
    return NORMS[norm](epsilon=epsilon, dtype="float32", name=name)


def take_dtype_policy(arguments: dict) -> keras.DTypePolicy:
    """Take "dtype" out of a model's keyword arguments: the policy of each of its layers, by default Keras' own.

    The policy is the model's, so that its layers get it also where the model is built from a config.
    """
    return keras.dtype_policies.get(arguments.pop("dtype", None) or keras.config.dtype_policy())


def make_token_inputs(length: int | None, ids: str = "token_ids", mask: str = "padding_mask") -> dict:
    """Make the symbolic inputs `token_ids` and `padding_mask` `(batch, length)`, int32; any length if it is None.

    Args:
        length: Of a row.
        ids, mask: Other names of the two.

    Raises:
        ValueError: For a length below 1.
    """
    if length is not None:
        check_at_least(1, length=length)
    return {name: keras.Input((length,), dtype="int32", name=name) for name in (ids, mask)}


def make_token_embedding(
    vocabulary_size: int, options: BlockOptions, name: str = "token_embedding"
) -> ReversibleEmbedding:
    """Make the token embedding; `reverse=True` gives float32 logits with the same table."""
    return ReversibleEmbedding(
        vocabulary_size,
        options.hidden_dim,
        embeddings_initializer=options.initializer.clone(),
        reverse_dtype="float32",
        dtype=options.dtype,
        name=name,
    )


def make_biases(position_bias, num_heads: int, num_layers: int, share: bool, name: str = "layer") -> list:
    """Make the position bias of every block.

    Args:
        position_bias: As for `KernelizedRPEAttention`.
        num_heads: Heads of the bias.
        num_layers: How many blocks there are.
        share: The same bias for all blocks; otherwise one for each, of which `position_bias` is the pattern.
        name: Begins the names of the biases that are made here, but for one that all blocks of a "layer" stack share.

    Returns:
        A bias layer or None for each block.
    """
    bias = make_position_bias(position_bias, num_heads)
    if bias is None:
        return [None] * num_layers

    def named(prefix):
        return type(bias).from_config({**bias.get_config(), "name": f"{prefix}_{bias.name}"})

    if share:
        return [named(name) if isinstance(position_bias, str) and name != "layer" else bias] * num_layers
    return [named(f"{name}_{i}") for i in range(num_layers)]
