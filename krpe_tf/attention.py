"""The Keras layer: projections, masks and config. The numerics live in `feature_maps` and `toeplitz`."""

import random

from keras import KerasTensor, initializers, layers, ops, saving

from .attention_checks import (
    check_attention_mask,
    check_input_shape,
    check_inputs,
    check_kernel,
    check_masks,
    check_step,
    check_widths,
)
from .checks import check_at_least, check_rate
from .feature_maps import draw_projection
from .finite import FiniteWeights, finite
from .kernel_attention import attend, to_features
from .masks import visible_keys, zero_masked
from .position_bias import NoBias, deserialize_bias, is_given, make_position_bias, serialize_bias
from .toeplitz import initial_state, stream

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
        feature_map: "orthogonal", "positive", "spherical", "trigonometric", "elu" (the Linear Transformer), or
            "softmax": the exact kernel that the others estimate, at quadratic cost, with the same weights. A trained
            model converts by changing this argument. See `feature_maps.apply_feature_map`.
        normalize: divide queries and keys by their l2 norm (the paper's model, stable from scratch); if False, scale
            each by key_dim^(-1/4).
        position_bias: None, "decay", "bucketed", or a bias layer with as many heads; attention layers that get the same
            bias layer share it.
        causal: whether each position sees only itself and earlier ones.
        route: "auto", "dense", "fft", "banded" or "streaming"; see `toeplitz_attention`.
        dropout: rate on the attention output, before the output projection.
        use_bias: whether the projections add a bias.
        output_shape: width of the output, an integer; that of the query if None.
        seed: seed of the random features and of dropout; None draws a new one.
        kernel_initializer, bias_initializer: initializers of the projections.

    Call arguments:
        query: (batch, n_q, width).
        value: (batch, n_k, width).
        key: (batch, n_k, width); `value` if None.
        query_mask, value_mask, key_mask: bool (batch, length), false where padded; Keras passes implicit masks on.
            Padded places may hold anything, NaN included: they change no other position, and gradients stay finite. The
            attention of a padded query is zero.
        attention_mask: bool or integer (batch, n_k) or (batch, 1, n_k), zero where a key is hidden from all queries.
        return_attention_scores: whether to return the weights (batch, num_heads, n_q, n_k) too; needs `route="dense"`
            or "auto".
        training: whether dropout applies.
        use_causal_mask: whether this call is causal, whatever `causal` is.
        prefix_length: with a causal mask, how many first keys every query sees nevertheless; a Python int.

    Decoding, for causal self-attention on a bias over one axis: `state = layer.initial_state(batch_size)`, then
    `output, state = layer.step(x, state)` for one position or any number of them at a time.

    Returns:
        (batch, n_q, output width), and the scores if `return_attention_scores`. The attention of a query that sees no
        key is zero.

    Raises:
        ValueError: If an argument is out of range, if ranks or widths of inputs do not fit, for a full (n, n) attention
            mask, or for scores from a linear route.
    """

    # Long: the arguments of Keras' own attention layers, and those of the paper.
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
        check_kernel(feature_map, route)
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
            check_input_shape(name, shape)
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
        # Drawn for every feature map, used or not, so that the weights load into a layer of another map.
        self.projection = self.add_weight(
            shape=directions.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(directions, dtype or "float32"),
            dtype="float32",
            autocast=False,
            trainable=False,
            name="projection",
        )

    # Long: the arguments of `keras.layers.MultiHeadAttention.call`, in its order, and a prefix.
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
        prefix_length=None,
    ):
        key = value if key is None else key
        self._check_call(query, value, key, attention_mask, return_attention_scores)
        check_masks(query, key, query_mask=query_mask, value_mask=value_mask, key_mask=key_mask)
        visible = visible_keys(value_mask, key_mask, attention_mask)
        output, scores = attend(
            *self._project(query, value, key, query_mask, visible),
            self.position_bias,
            query_mask,
            feature_map=self.feature_map,
            route=self.route,
            scores=return_attention_scores,
            causal=self.causal or use_causal_mask,
            prefix_length=prefix_length,
            key_mask=visible,
        )
        output = self._join_heads(output, training)
        return (output, scores) if return_attention_scores else output

    def initial_state(self, batch_size: int) -> dict:
        """Return the state of streams that have read nothing: arrays of zeros of constant size.

        Args:
            batch_size: number of streams.

        Raises:
            ValueError: If the layer is not causal, if its feature map is "softmax", or if its bias has no tails.
        """
        check_at_least(1, batch_size=batch_size)
        if not self.causal or self.feature_map == "softmax" or not hasattr(self._stream_bias, "tails"):
            raise ValueError(
                'decoding needs `causal=True`, a feature map other than "softmax", whose state would grow with the '
                "length, and a bias with a near band and tails; call the layer on the whole sequence instead. "
                f"Received: causal={self.causal}, feature_map={self.feature_map!r}, "
                f"position_bias={self.position_bias!r}"
            )
        features = {"elu": self.key_dim, "trigonometric": 2 * self.num_features}
        m = features.get(self.feature_map, self.num_features)
        return initial_state(self._stream_bias, batch_size, m, self.value_dim)

    def step(self, query, state: dict, mask=None, reset=None):
        """Read the next positions of causal self-attention, in constant memory: `layer(x, x)`, piece by piece.

        Args:
            query: (batch, n, width), the next n positions, n known and at least 1.
            state: from `initial_state`, or from the previous step.
            mask: None, or bool or integer (batch, n), zero where a position is padding: hidden from the others, with an
                attention of zero. It still counts as a position.
            reset: None, or bool or integer (batch,), nonzero where a batch entry starts a new sequence.

        Returns:
            (batch, n, output width), and the new state.

        Raises:
            ValueError: As `initial_state`, if the layer is not built, if `query` does not have rank 3, or if `state`
                is for another batch size.
        """
        expected = self.initial_state(1)
        self._check_built()
        mask, reset = (None if x is None else ops.convert_to_tensor(x) for x in (mask, reset))
        check_step(query, state, expected, mask, reset)
        check_widths((query,), [self.query_dense.kernel.shape[0]])
        if reset is not None:
            kept = ops.logical_not(ops.cast(reset, "bool"))
            state = {name: zero_masked(x, kept[:, None, None]) for name, x in state.items()}
        query, key, value = self._project(query, query, query, mask, mask)
        output, state = stream(query, key, value, self._stream_bias, state, mask)
        return self._join_heads(ops.transpose(output, (0, 2, 1, 3))), state

    def redraw(self, seed: int):
        """Replace the random features by those of another seed. "elu" and "softmax" do not use them.

        Args:
            seed: the same seed draws the same features.

        Raises:
            ValueError: If `seed` is negative, or the layer is not built.
        """
        check_at_least(0, seed=seed)
        self._check_built()
        self.projection.assign(draw_projection(self.feature_map, self.key_dim, self.num_features, seed))
        self.seed = seed

    def _check_built(self):
        if not self.built:
            raise ValueError(f"the layer must be built: call it on an input first. Received: built={self.built}")

    @property
    def _stream_bias(self):
        return self.position_bias or NoBias(self.num_heads)

    def _project(self, query, value, key, query_mask, visible):
        """Return phi(q), phi(k) and v, (batch, heads, length, width), in at least float32."""
        return to_features(
            self.query_dense(zero_masked(query, query_mask)),
            self.key_dense(zero_masked(key, visible)),
            self.value_dense(zero_masked(value, visible)),
            query_mask,
            feature_map=self.feature_map,
            projection=self.projection,
            normalize=self.normalize,
        )

    def _join_heads(self, output, training=None):
        output = ops.cast(output, self.compute_dtype)
        return self.output_dense(self.dropout_layer(output, training=training))

    def compute_output_spec(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        **unused_modes,
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
        if self.position_bias is not None and (bias is None or is_given(self.position_bias)):
            bias = serialize_bias(self.position_bias, self)
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
            config = {**config, "position_bias": deserialize_bias(bias)}
        return super().from_config(config)

    def _check_call(self, query, value, key, attention_mask, return_attention_scores):
        check_inputs(query, value, key)
        if self.built:
            dense = self.query_dense, self.value_dense, self.key_dense
            check_widths((query, value, key), [projection.kernel.shape[0] for projection in dense])
        check_attention_mask(attention_mask, query.shape[0], key.shape[1])
        if return_attention_scores and self.route not in ("auto", "dense"):
            raise ValueError(
                '`return_attention_scores` needs `route="dense"` or "auto": the linear routes never form the scores. '
                f"Received: route={self.route!r}"
            )

    def _head_projection(self, name, width, input_shape):
        """Return the map of (batch, length, input width) to (batch, length, heads, width).

        Its weights have the names and shapes of those of `keras.layers.MultiHeadAttention`.
        """
        projection = EinsumDense(
            "abc,cde->abde",
            output_shape=(None, self.num_heads, width),
            bias_axes="de" if self.use_bias else None,
            # One copy for each weight: an unseeded initializer gives all weights of a shape the same values.
            kernel_initializer=self.kernel_initializer.clone(),
            bias_initializer=self.bias_initializer.clone(),
            dtype=self.dtype_policy,
            name=name,
        )
        projection.build(input_shape)
        return projection
