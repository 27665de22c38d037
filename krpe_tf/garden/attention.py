"""The attention layer for tf_keras and Model Garden. It holds the weights; the core computes."""

import contextlib
import random

import tensorflow as tf
import tf_keras
from keras import ops

from ..attention import (
    attend,
    check_attention_mask,
    check_inputs,
    check_kernel,
    check_mask_values,
    check_masks,
    is_mask_of_pairs,
    to_features,
    visible_keys_and_pairs,
    zero_masked,
)
from ..checks import check_at_least, known_values
from ..feature_maps import draw_projection
from ..position_bias import deserialize_bias, make_position_bias, note_owner, serialize_bias
from .position_bias import PositionBias


@tf_keras.utils.register_keras_serializable("krpe_tf")
class KernelizedRPEAttention(tf_keras.layers.MultiHeadAttention):
    """`krpe_tf.KernelizedRPEAttention` for tf_keras: the `attention_cls` of Model Garden's scaffolds.

    The same numbers from the same weights, under the names of `tf_keras.layers.MultiHeadAttention`, whose subclass it
    is. `TransformerScaffold` takes it as Model Garden's other linear attention, `KernelAttention`: with the padding
    mask itself, (batch, n), in place of a mask for each pair of positions. In `EncoderScaffold` that is
    `mask_cls=official.nlp.modeling.layers.KernelMask`.

    Args:
        num_heads, key_dim: as in `tf_keras.layers.MultiHeadAttention`.
        num_features, feature_map, normalize, causal, route, seed: as in `krpe_tf.KernelizedRPEAttention`.
        position_bias: None, "decay", "bucketed", or a `krpe_tf.garden.PositionBias` with as many heads; layers that get
            the same one share it.
        **kwargs: arguments of `tf_keras.layers.MultiHeadAttention`, except `attention_axes`. `dropout` acts on the
            attention output, before the output projection.

    Call arguments:
        query, value, key, return_attention_scores, training, use_causal_mask: as in `krpe_tf.KernelizedRPEAttention`.
        attention_mask: (batch, n_k) or (batch, 1, n_k), of any dtype, 0 where a key is hidden from all queries, 1 where
            not. The implicit masks of `query`, `value` and `key` apply too.

    Returns:
        (batch, n_q, output width), and the scores if `return_attention_scores`.

    Raises:
        ValueError: If an argument is out of range, if ranks or widths of inputs do not fit, for a full (n, n) attention
            mask, or for scores from a linear route.
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        num_features: int = 32,
        feature_map: str = "orthogonal",
        normalize: bool = True,
        position_bias="decay",
        causal: bool = False,
        route: str = "auto",
        seed: int | None = None,
        **kwargs,
    ):
        check_at_least(1, num_heads=num_heads, key_dim=key_dim, num_features=num_features)
        check_kernel(feature_map, route, normalize)
        if kwargs.get("attention_axes") is not None:
            raise ValueError(f"`attention_axes` must be None. Received: attention_axes={kwargs['attention_axes']!r}")
        super().__init__(num_heads, key_dim, **kwargs)
        self._num_features = num_features
        self._feature_map = feature_map
        self._normalize = normalize
        self._causal = causal
        self._route = route
        self._seed = random.randrange(2**31) if seed is None else seed
        self._named_bias = position_bias if isinstance(position_bias, str) else None
        self.position_bias = _as_tf_keras(position_bias, num_heads)

    def _build_attention(self, rank):
        """Make what stands between the projections; tf_keras calls it when it makes those."""
        note_owner(self.position_bias, self)
        self._dropout_layer = tf_keras.layers.Dropout(self._dropout, dtype=self._dtype_policy)
        directions = draw_projection(self._feature_map, self._key_dim, self._num_features, self._seed)
        self.projection = self.add_weight(
            "projection",
            directions.shape,
            dtype="float32",
            initializer=tf_keras.initializers.Constant(directions),
            trainable=False,
            experimental_autocast=False,
        )

    def call(
        self,
        query,
        value,
        key=None,
        attention_mask=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
    ):
        key, causal = value if key is None else key, self._causal or use_causal_mask
        return self._call(query, value, key, attention_mask, return_attention_scores, training, causal)

    # tf_keras converts `call` and what it calls by AutoGraph, but no control flow here depends on a tensor.
    @tf.autograph.experimental.do_not_convert
    def _call(self, query, value, key, attention_mask, scores, training, causal):
        check_inputs(query, value, key)
        _check_attention_mask(attention_mask, query, key)
        query_mask, value_mask, key_mask = (getattr(x, "_keras_mask", None) for x in (query, value, key))
        check_masks(query, key, query_mask=query_mask, value_mask=value_mask, key_mask=key_mask)
        if not self._built_from_signature:
            self._build_from_signature(query=query, value=value, key=key)
        visible, _ = visible_keys_and_pairs(query, key, value_mask, key_mask, attention_mask)
        features = to_features(
            self._query_dense(zero_masked(query, query_mask)),
            self._key_dense(zero_masked(key, visible)),
            self._value_dense(zero_masked(value, visible)),
            query_mask,
            feature_map=self._feature_map,
            projection=tf.convert_to_tensor(self.projection),
            normalize=self._normalize,
        )
        with contextlib.nullcontext() if self.position_bias is None else self.position_bias.applied() as bias:
            output, weights = attend(
                *features,
                bias,
                query_mask,
                feature_map=self._feature_map,
                route=self._route,
                scores=scores,
                causal=causal,
                prefix_length=None,
                key_mask=visible,
            )
        output = self._output_dense(self._dropout_layer(ops.cast(output, self.compute_dtype), training=training))
        return (output, weights) if scores else output

    def get_config(self):
        serialize = tf_keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "num_features": self._num_features,
            "feature_map": self._feature_map,
            "normalize": self._normalize,
            "position_bias": serialize_bias(self.position_bias, self, self._named_bias, serialize),
            "causal": self._causal,
            "route": self._route,
            "seed": self._seed,
        }

    @classmethod
    def from_config(cls, config):
        return super().from_config({**config, "position_bias": deserialize_bias(config["position_bias"], _deserialize)})


def _deserialize(config):
    """Return what a config stands for; in an .h5 file tf_keras looks for classes by their bare names."""
    return tf_keras.saving.deserialize_keras_object(config, custom_objects={"PositionBias": PositionBias})


def _as_tf_keras(position_bias, num_heads):
    """Return the tf_keras layer that an argument `position_bias` stands for, or None."""
    if position_bias is None:
        return None
    if isinstance(position_bias, str):
        return PositionBias(make_position_bias(position_bias, num_heads))
    if isinstance(position_bias, PositionBias):
        return make_position_bias(position_bias, num_heads)
    raise ValueError(
        '`position_bias` must be None, "decay", "bucketed" or a krpe_tf.garden.PositionBias; wrap a bias of krpe_tf in '
        "one, and pass the same one to several layers to share it. "
        f"Received: position_bias={position_bias!r}"
    )


def _check_attention_mask(attention_mask, query, key):
    if attention_mask is None:
        return
    if is_mask_of_pairs(attention_mask):
        raise ValueError(
            "EncoderScaffold needs `mask_cls=official.nlp.modeling.layers.KernelMask`, which passes the padding mask "
            "itself: `attention_mask` must have shape (batch, n_k) or (batch, 1, n_k), one entry for each key. "
            f"Received: attention_mask.shape={tuple(attention_mask.shape)}"
        )
    check_attention_mask(attention_mask, query.shape[0], None, query.shape[1], key.shape[1])
    if known_values(attention_mask) is not None or not attention_mask.dtype.is_floating:
        check_mask_values(attention_mask=attention_mask)
        return
    # KernelMask gives a floating mask, also in a graph, where its values are there only when it runs.
    rule = "`attention_mask` must hold zeros and ones only; an additive mask, of 0 and -1e9, means the opposite."
    tf.debugging.Assert(tf.reduce_all((attention_mask == 0) | (attention_mask == 1)), [rule])
