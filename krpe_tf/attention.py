"""The Keras layer: projections, masks and config. The numerics live in `feature_maps` and `toeplitz`."""

import functools
import random

from keras import KerasTensor, initializers, layers, ops, saving

from ._checks import FiniteWeights, check_at_least, check_one_of, check_rate, finite
from .feature_maps import FEATURE_MAPS, apply_feature_map, draw_projection, scale_for_kernel
from .position_bias import make_position_bias
from .toeplitz import ROUTES, dense_attention, toeplitz_attention, wide

EinsumDense = finite(layers.EinsumDense)


@saving.register_keras_serializable("krpe_tf")
class KernelizedRPEAttention(FiniteWeights, layers.Layer):
    """Multi-head attention with any learned relative position bias, at linear or n log n cost (arXiv 2106.12566).

    For each head, with b the position bias and phi a feature map whose phi(q) . phi(k) estimates exp(q . k) (Eq. 10),

        z_i = sum_j exp(b_{j-i}) (phi(q_i) . phi(k_j)) v_j / sum_j exp(b_{j-i}) (phi(q_i) . phi(k_j)).

    Called like `keras.layers.MultiHeadAttention`, with the same weights under the same names:

        layer = KernelizedRPEAttention(num_heads=4, key_dim=64)
        y = layer(x, x)                                   # x: (batch, length, width), the length may be None
        y = layer(x, x, attention_mask=padding_mask)      # (batch, length), zero where a key is padding

    Departures from the paper: the bias starts from a slope per head, not from zeros, and the default bias is a near
    band with exponential tails instead of a full table (see `DecayBias`; `LearnedBias` is the paper's).

    Args:
        num_heads: number of heads, at least 1.
        key_dim: width of a query and key head, at least 1.
        value_dim: width of a value head; `key_dim` if None.
        num_features: number m of random features, at least 1.
        feature_map: "orthogonal", "positive", "elu" (the Linear Transformer), or "softmax": the exact kernel that the
            others estimate, at quadratic cost, with the same weights. A trained model converts by changing this
            argument.
        normalize: divide queries and keys by their l2 norm (the paper's model, stable from scratch); if False, scale
            each by key_dim^(-1/4).
        position_bias: None, "decay", "bucketed", or a bias layer with as many heads; a layer that is passed to several
            attention layers is shared by them.
        causal: whether each position sees only itself and what is before it.
        route: "auto", "dense", "fft" or "banded"; see `toeplitz_attention`.
        dropout: rate on the attention output, before the output projection.
        use_bias: whether the projections add a bias.
        output_shape: width of the output, an integer; that of the query if None.
        seed: draws the random features. None draws a new seed.
        kernel_initializer, bias_initializer: of the projections.

    Call arguments:
        query: (batch, n_q, width).
        value: (batch, n_k, width).
        key: (batch, n_k, width); `value` if None.
        query_mask, value_mask, key_mask: bool (batch, length), false where padded; Keras passes them on by itself. What
            stands in padded places, NaN included, changes no other position and gives finite gradients.
        attention_mask: bool or integer (batch, n_k) or (batch, 1, n_k), zero where a key is hidden from all queries.
        return_attention_scores: also return the weights (batch, num_heads, n_q, n_k); needs route "dense" or "auto".
        training: whether dropout applies.
        use_causal_mask: `causal` for this call.

    Returns:
        (batch, n_q, output width), and the scores when asked for. A query that sees no key attends to zeros.

    Raises:
        ValueError: for arguments out of range, inputs whose ranks or widths do not fit, a full (n, n) attention mask,
            or scores from a linear route.
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        num_features: int = 32,
        feature_map: str = "orthogonal",
        normalize: bool = True,
        position_bias="decay",
        causal: bool = False,
        route: str = "auto",
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | None = None,
        seed: int | None = None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        value_dim = key_dim if value_dim is None else value_dim
        check_at_least(1, num_heads=num_heads, key_dim=key_dim, value_dim=value_dim, num_features=num_features)
        if output_shape is not None:
            check_at_least(1, output_shape=output_shape)
        check_one_of(FEATURE_MAPS, feature_map=feature_map)
        check_one_of(ROUTES, route=route)
        if feature_map == "softmax" and route not in ("auto", "dense"):
            raise ValueError(f'feature_map="softmax" is served by route="dense". Received: route={route!r}')
        check_rate(dropout=dropout)
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.num_features = num_features
        self.feature_map = feature_map
        self.normalize = normalize
        self.causal = causal
        self.route = route
        self.dropout = dropout
        self.use_bias = use_bias
        self.output_width = output_shape
        self.seed = seed
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self._named_bias = position_bias if isinstance(position_bias, str) else None
        self.position_bias = make_position_bias(position_bias, num_heads)

    def build(self, query_shape, value_shape, key_shape=None):
        key_shape = value_shape if key_shape is None else key_shape
        for name, shape in (("query", query_shape), ("value", value_shape), ("key", key_shape)):
            _check_input_shape(name, shape)
        seed = random.randrange(2**31) if self.seed is None else self.seed
        self.query_dense = self._head_projection("query", self.key_dim, query_shape)
        self.key_dense = self._head_projection("key", self.key_dim, key_shape)
        self.value_dense = self._head_projection("value", self.value_dim, value_shape)
        self.output_dense = EinsumDense(
            "abcd,cde->abe",
            output_shape=(None, self.output_width or query_shape[-1]),
            bias_axes="e" if self.use_bias else None,
            kernel_initializer=self.kernel_initializer.clone(),
            bias_initializer=self.bias_initializer.clone(),
            dtype=self.dtype_policy,
            name="attention_output",
        )
        self.output_dense.build((None, None, self.num_heads, self.value_dim))
        self.dropout_layer = layers.Dropout(self.dropout, dtype=self.dtype_policy, seed=seed)
        directions = draw_projection(self.feature_map, self.key_dim, self.num_features, seed)
        # Drawn for every feature map, also one that does not use it: another map takes over the weights as they are.
        self.projection = self.add_weight(
            shape=directions.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(directions, dtype or "float32"),
            dtype="float32",
            autocast=False,
            trainable=False,
            name="projection",
        )

    def call(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
    ):
        key = value if key is None else key
        self._check_call(query, value, key, attention_mask, return_attention_scores)
        visible = _visible_keys(value_mask, key_mask, attention_mask)

        query = self.query_dense(_blank(query, query_mask))
        key, value = self.key_dense(_blank(key, visible)), self.value_dense(_blank(value, visible))
        # (batch, heads, length, width), and no less than float32 from here to the output projection.
        query, key, value = (wide(ops.transpose(x, (0, 2, 1, 3))) for x in (query, key, value))
        query, key = (
            apply_feature_map(self.feature_map, scale_for_kernel(x, self.normalize), self.projection, self.normalize)
            for x in (query, key)
        )
        causal = self.causal or use_causal_mask
        scores = None
        if self.feature_map == "softmax" or return_attention_scores:
            output = dense_attention(
                query,
                key,
                value,
                self.position_bias,
                causal=causal,
                key_mask=visible,
                exact_kernel=self.feature_map == "softmax",
                scores=return_attention_scores,
            )
            if return_attention_scores:
                output, scores = output
        else:
            output = toeplitz_attention(
                query, key, value, self.position_bias, causal=causal, key_mask=visible, route=self.route
            )
        output = ops.cast(ops.transpose(output, (0, 2, 1, 3)), self.compute_dtype)
        output = self.output_dense(self.dropout_layer(output, training=training))
        return (output, scores) if return_attention_scores else output

    def compute_output_spec(
        self, query, value, key=None, attention_mask=None, return_attention_scores=False, **unused_masks_and_modes
    ):
        self._check_call(query, value, value if key is None else key, attention_mask, return_attention_scores)
        output_shape = (*query.shape[:-1], self.output_width or query.shape[-1])
        output = KerasTensor(output_shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return output
        scores_shape = (query.shape[0], self.num_heads, query.shape[1], value.shape[1])
        return output, KerasTensor(scores_shape, dtype="float32")

    def get_config(self):
        bias = self._named_bias
        if self.position_bias is not None and bias is None:
            # Keras marks an object as shared from its second serialization on, and its mark on the first one is lost
            # in a copy. Taking the second always, layers that share a bias still do after loading.
            saving.serialize_keras_object(self.position_bias)
            bias = saving.serialize_keras_object(self.position_bias)
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "num_features": self.num_features,
            "feature_map": self.feature_map,
            "normalize": self.normalize,
            "position_bias": bias,
            "causal": self.causal,
            "route": self.route,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "output_shape": self.output_width,
            "seed": self.seed,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
        }

    @classmethod
    def from_config(cls, config):
        bias = config["position_bias"]
        if isinstance(bias, dict):
            config = {**config, "position_bias": saving.deserialize_keras_object(bias)}
        return super().from_config(config)

    def _check_call(self, query, value, key, attention_mask, return_attention_scores):
        _check_inputs(query, value, key)
        _check_attention_mask(attention_mask, query.shape[0], key.shape[1])
        if return_attention_scores and self.route not in ("auto", "dense"):
            raise ValueError(
                'return_attention_scores needs route="dense" or "auto": the linear routes never form the scores. '
                f"Received: route={self.route!r}"
            )

    def _head_projection(self, name, width, input_shape):
        """(batch, length, input width) to (batch, length, heads, width), with the weights of `MultiHeadAttention`."""
        projection = EinsumDense(
            "abc,cde->abde",
            output_shape=(None, self.num_heads, width),
            bias_axes="de" if self.use_bias else None,
            # A copy each: one unseeded initializer gives every weight of a shape the same values.
            kernel_initializer=self.kernel_initializer.clone(),
            bias_initializer=self.bias_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )
        projection.build(input_shape)
        return projection


def _blank(x, mask):
    """x with zeros in its masked places, so that what stands there reaches neither outputs nor gradients."""
    return x if mask is None else ops.where(ops.cast(mask, "bool")[..., None], x, ops.zeros((), x.dtype))


def _visible_keys(value_mask, key_mask, attention_mask):
    """All masks over keys in one, bool (batch, n_k), or None."""
    if attention_mask is not None and len(attention_mask.shape) == 3:
        attention_mask = attention_mask[:, 0]
    masks = [ops.cast(mask, "bool") for mask in (value_mask, key_mask, attention_mask) if mask is not None]
    return functools.reduce(ops.logical_and, masks) if masks else None


def _check_attention_mask(attention_mask, batch, n_k):
    if attention_mask is None:
        return
    shape = tuple(attention_mask.shape)
    one_entry_a_key = len(shape) == 2 or (len(shape) == 3 and shape[1] == 1)
    sizes = ((shape[0], batch), (shape[-1], n_k)) if one_entry_a_key else ()
    if not one_entry_a_key or any(None not in pair and pair[0] != pair[1] for pair in sizes):
        raise ValueError(
            "attention_mask must have shape (batch, n_k) or (batch, 1, n_k), one entry a key: a linear route cannot "
            "hide a key from some queries only. For the past alone use causal=True or use_causal_mask=True. "
            f"Received: attention_mask.shape={shape}"
        )


def _check_input_shape(name, shape):
    if len(shape) != 3 or shape[-1] is None:
        raise ValueError(
            f"{name} must have shape (batch, length, width) with a known width. Received: {name}.shape={shape}"
        )


def _check_inputs(query, value, key):
    shapes = {"query": tuple(query.shape), "value": tuple(value.shape), "key": tuple(key.shape)}
    for name, shape in shapes.items():
        _check_input_shape(name, shape)
    lengths = shapes["key"][1], shapes["value"][1]
    if None not in lengths and lengths[0] != lengths[1]:
        raise ValueError(
            "key and value must have the same length. "
            f"Received: key.shape={shapes['key']}, value.shape={shapes['value']}"
        )
