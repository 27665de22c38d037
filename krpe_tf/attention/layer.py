"""The Keras layer: its arguments, masks and config. The numerics live in `feature_maps` and `toeplitz`."""

import random

from keras import KerasTensor, layers, ops, saving

from ..checks import check_at_least, check_rate
from ..feature_maps import draw_projection
from ..position_bias import (
    adopt_bias,
    check_scope,
    deserialize_bias,
    make_position_bias,
    note_owner,
    serialize_bias,
)
from ..toeplitz import active_overrides, check_segments
from .checks import (
    check_attention_mask,
    check_features,
    check_input_shapes,
    check_inputs,
    check_kernel,
    check_mask_values,
    check_masks,
    check_widths,
    check_window,
)
from .decoding import Decoding
from .kernel import attend, to_features
from .masks import visible_keys_and_pairs, within_window, zero_masked


@saving.register_keras_serializable("krpe_tf")
class KernelizedRPEAttention(Decoding):
    """Multi-head attention with any learned relative position bias, at linear or n log n cost (arXiv 2106.12566).

    For each head, with b the position bias and phi a feature map whose phi(q) . phi(k) estimates exp(q . k) (Eq. 10),

        z_i = sum_j exp(b_{j-i}) (phi(q_i) . phi(k_j)) v_j / sum_j exp(b_{j-i}) (phi(q_i) . phi(k_j)).

    Called like `keras.layers.MultiHeadAttention`, with the same weights under the same names:

        layer = KernelizedRPEAttention(num_heads=4, key_dim=64)
        y = layer(x, x)                                   # x: (batch, length, width), the length may be None
        y = layer(x, x, attention_mask=padding_mask)      # (batch, length), zero where a key is padding

    Departures from the paper: the bias starts from slopes and peaks, not from zeros, and the default bias is a near
    band with exponential tails instead of a full table (see `DecayBias`; `LearnedBias` is the paper's).

    Args:
        num_heads: number of heads, at least 1.
        key_dim: width of a query and key head, at least 1.
        value_dim: width of a value head; `key_dim` if None.
        num_features: number m of random features, at least 1. With "taylor", "elu" and "softmax", which use none, 0
            leaves them out: the layer's weights are then those of `keras.layers.MultiHeadAttention`.
        feature_map: "orthogonal", "positive", "spherical" or "trigonometric", random features; "taylor", the first
            terms of exp; "elu" (the Linear Transformer); or "softmax": the exact kernel that the first four estimate,
            at quadratic cost, with the same weights. A trained model converts by changing this argument. See
            `feature_maps.apply_feature_map`.
        normalize: divide queries and keys by their l2 norm (the paper's model, stable from scratch); if False, scale
            each by key_dim^(-1/4).
        position_bias: None, "decay", "bucketed", or a bias layer with as many heads; attention layers that get the same
            bias layer share it.
        causal: whether each position sees only itself and earlier ones.
        route: "auto", "dense", "fft", "banded" or "streaming"; see `toeplitz_attention`.
        dropout: rate on the attention output, before the output projection.
        use_bias: whether the projections add a bias.
        output_shape: width of the output, or several axes in its place; the query's width if None.
        seed: seed of the random features and of dropout; None draws a new one.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer,
            kernel_constraint, bias_constraint: of every projection, as in `keras.layers.MultiHeadAttention`.
        use_gate: whether a sigmoid of a projection of the query multiplies the attention output, before the output
            projection (arXiv 2505.06708), as in Keras from 3.15 on.
        sliding_window: None, or how far a query sees, as in Keras from 3.15 on: keys at distances below it. Served by
            the dense route alone.

    Call arguments:
        query: (batch, n_q, width).
        value: (batch, n_k, width).
        key: (batch, n_k, width); `value` if None.
        query_mask, value_mask, key_mask: bool (batch, length), false where padded; Keras passes implicit masks on.
            Padded places may hold anything, NaN included: they change no other position, and gradients stay finite. The
            attention of a padded query is zero.
        attention_mask: bool or integer, zero where a key is hidden: (batch, n_k) or (batch, 1, n_k), from all queries;
            (batch, n_q, n_k), (batch, 1, n_q, n_k) or (batch, num_heads, n_q, n_k), from some. The latter are served by
            the dense route alone: `route="auto"` takes it, at quadratic cost. A batch of 1 stands for all.
        return_attention_scores: whether to return the weights (batch, num_heads, n_q, n_k) too; needs `route="dense"`
            or "auto".
        training: whether dropout applies.
        use_causal_mask: whether this call is causal, whatever `causal` is.
        prefix_length: with a causal mask, how many first keys every query sees nevertheless; a Python int.
        segment_ids: None, or integers (batch, n), for self-attention over several documents in a row: each sees itself
            alone, exactly as in a row of its own. Each run of equal ids is a document. On all routes but fft.

    Decoding, for causal self-attention on a bias over one axis: `state = layer.initial_state(batch_size)`, then
    `output, state = layer.step(x, state)` for one position or any number of them at a time. For cross-attention without
    a bias: `state = layer.cross_state(value, value_mask)`, once, then `output = layer.cross_step(query, state)`.

    Returns:
        (batch, n_q, output width), or the axes of `output_shape` for the width, and the scores if
        `return_attention_scores`. The attention of a query that sees no key is zero.

    Raises:
        ValueError: If an argument is out of range, if ranks or widths of inputs do not fit, for a floating mask with
            values other than 0 and 1, or whose values are not known, and for scores or an attention mask with an entry
            for each pair from a linear route.
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
        output_shape: int | tuple[int, ...] | None = None,
        seed: int | None = None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        use_gate: bool = False,
        sliding_window: int | None = None,
        **kwargs,
    ):
        check_kernel(feature_map, route, normalize)
        check_window(sliding_window, route)
        check_features(feature_map, num_features)
        check_rate(dropout=dropout)
        super().__init__(
            num_heads=num_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            use_bias=use_bias,
            output_shape=output_shape,
            use_gate=use_gate,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.supports_masking = True
        self.num_features = num_features
        self.feature_map = feature_map
        self.normalize = normalize
        self.causal = causal
        self.route = route
        self.dropout = dropout
        self.seed = seed
        self.sliding_window = sliding_window
        self._named_bias = position_bias if isinstance(position_bias, str) else None
        self.position_bias = make_position_bias(position_bias, num_heads)

    def build(self, query_shape, value_shape, key_shape=None):
        key_shape = value_shape if key_shape is None else key_shape
        check_input_shapes(query_shape, value_shape, key_shape)
        adopt_bias(self.position_bias)
        note_owner(self.position_bias, self)
        self.build_projections(query_shape, value_shape, key_shape)
        seed = random.randrange(2**31) if self.seed is None else self.seed
        self.dropout_layer = layers.Dropout(self.dropout, dtype=self.dtype_policy, seed=seed)
        self.projection = None
        if not self.num_features:
            return
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

    def __call__(self, *args, **kwargs):
        # As an argument: what is computed once more in a backward pass (`keras.RematScope`) lies outside of the scope.
        segment_ids = active_overrides().segment_ids
        if segment_ids is not None:
            kwargs.setdefault("segment_ids", segment_ids)
        return super().__call__(*args, **kwargs)

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
        segment_ids=None,
    ):
        if training:
            check_scope(self, self.weights)
        key = value if key is None else key
        masks = {"query_mask": query_mask, "value_mask": value_mask, "key_mask": key_mask}
        self._check_call(query, value, key, attention_mask, return_attention_scores, **masks)
        self._check_segments(segment_ids, query, key, prefix_length)
        visible, pairs = visible_keys_and_pairs(query, key, value_mask, key_mask, attention_mask)
        pairs = within_window(self.sliding_window, query, key, pairs)
        query = zero_masked(query, query_mask)
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
            pair_mask=pairs,
            segment_ids=segment_ids,
        )
        output = self._join_heads(output, query, training)
        return (output, scores) if return_attention_scores else output

    def redraw(self, seed: int):
        """Replace the random features by those of another seed. "taylor", "elu" and "softmax" do not use them.

        Args:
            seed: the same seed draws the same features.

        Raises:
            ValueError: If `seed` is negative, or the layer is not built.
        """
        check_at_least(0, seed=seed)
        self._check_built()
        if self.projection is not None:
            self.projection.assign(draw_projection(self.feature_map, self.key_dim, self.num_features, seed))
        self.seed = seed

    def _project(self, query, value, key, query_mask, visible):
        """Return phi(q), phi(k) and v, (batch, heads, length, width), in at least float32."""
        return to_features(
            self.query_dense(query),
            self.key_dense(zero_masked(key, visible)),
            self.value_dense(zero_masked(value, visible)),
            query_mask,
            feature_map=self.feature_map,
            projection=self.projection,
            normalize=self.normalize,
        )

    def _join_heads(self, output, query, training=None):
        output = self.dropout_layer(ops.cast(output, self.compute_dtype), training=training)
        return self.output_dense(output if self.gate_dense is None else output * self.gate_dense(query))

    # Long: the arguments of `call`.
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
        training=None,
        use_causal_mask=False,
        prefix_length=None,
        segment_ids=None,
    ):
        if training:
            check_scope(self, self.weights)
        key = value if key is None else key
        masks = {"query_mask": query_mask, "value_mask": value_mask, "key_mask": key_mask}
        self._check_call(query, value, key, attention_mask, return_attention_scores, **masks)
        self._check_segments(segment_ids, query, key, prefix_length)
        output_shape = self.compute_output_shape(query.shape, value.shape, key.shape)
        output = KerasTensor(output_shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return output
        scores_shape = (query.shape[0], self.num_heads, query.shape[1], value.shape[1])
        return output, KerasTensor(scores_shape, dtype="float64" if self.compute_dtype == "float64" else "float32")

    def get_config(self):
        return {
            **super().get_config(),
            "num_features": self.num_features,
            "feature_map": self.feature_map,
            "normalize": self.normalize,
            "position_bias": serialize_bias(self.position_bias, self, self._named_bias),
            "causal": self.causal,
            "route": self.route,
            "dropout": self.dropout,
            "seed": self.seed,
            "sliding_window": self.sliding_window,
        }

    @classmethod
    def from_config(cls, config):
        return super().from_config({**config, "position_bias": deserialize_bias(config["position_bias"])})

    def _check_segments(self, segment_ids, query, key, prefix_length):
        sizes = key.shape[0], query.shape[1], key.shape[1]
        check_segments(segment_ids, self.route, self.position_bias, *sizes, prefix_length)

    def _check_call(self, query, value, key, attention_mask, return_attention_scores, **masks):
        check_inputs(query, value, key)
        if self.built:
            check_widths((query, value, key), self.input_widths)
        check_mask_values(**masks, attention_mask=attention_mask)
        check_masks(query, key, **masks)
        sizes = query.shape[0], self.num_heads, query.shape[1], key.shape[1]
        check_attention_mask(attention_mask, *sizes, of_pairs=self.route in ("auto", "dense"))
        if return_attention_scores and self.route not in ("auto", "dense"):
            raise ValueError(
                '`return_attention_scores` needs `route="dense"` or "auto": the linear routes never form the scores. '
                f"Received: route={self.route!r}"
            )
