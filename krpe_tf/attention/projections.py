"""The dense projections of an attention layer: names, weights and arguments of `keras.layers.MultiHeadAttention`."""

from keras import constraints, dtype_policies, initializers, layers, regularizers

from ..checks import check_at_least
from ..finite import FiniteWeights, finite
from .checks import check_input_shapes, check_output_shape

EinsumDense = finite(layers.EinsumDense)


class HeadProjections(FiniteWeights, layers.Layer):
    """Base of an attention layer: what stands before and behind the attention of its heads.

    Args:
        num_heads, key_dim, value_dim: sizes, at least 1.
        use_bias: whether the projections add a bias.
        output_shape: None for the width of the query, or one or more integers.
        use_gate: whether a sigmoid of a projection of the query gates the attention output.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer,
            kernel_constraint, bias_constraint: of every projection.
        **kwargs: arguments of `keras.layers.Layer`.
    """

    # Long: what `keras.layers.MultiHeadAttention` gives its projections.
    def __init__(
        self,
        *,
        num_heads,
        key_dim,
        value_dim,
        use_bias,
        output_shape,
        use_gate,
        kernel_initializer,
        bias_initializer,
        kernel_regularizer,
        bias_regularizer,
        activity_regularizer,
        kernel_constraint,
        bias_constraint,
        **kwargs,
    ):
        value_dim = key_dim if value_dim is None else value_dim
        check_at_least(1, num_heads=num_heads, key_dim=key_dim, value_dim=value_dim)
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.use_bias = use_bias
        # Not `output_shape`, which a functional model asks its layers for.
        self.output_axes = check_output_shape(output_shape)
        self.use_gate = use_gate
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        # Not `activity_regularizer`: Keras would apply that to the layer's own output.
        self.projection_activity_regularizer = regularizers.get(activity_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.gate_dense = None

    def build_projections(self, query_shape, value_shape, key_shape):
        """Make the projections, in the order in which Keras' layer makes them."""
        heads, outputs = self.num_heads, self.output_axes or query_shape[-1:]
        self.input_widths = [shape[-1] for shape in (query_shape, value_shape, key_shape)]
        self.query_dense = self._to_heads("query", self.key_dim, query_shape)
        self.key_dense = self._to_heads("key", self.key_dim, key_shape)
        if self.use_gate:
            self.gate_dense = self._to_heads("gate", self.value_dim, query_shape, activation="sigmoid")
        self.value_dense = self._to_heads("value", self.value_dim, value_shape)
        axes = "efghijklmnopqrstuvwxyz"[: len(outputs)]
        self.output_dense = self._dense("attention_output", f"abcd,cd{axes}->ab{axes}", outputs, axes)
        self.output_dense.build((None, None, heads, self.value_dim))

    def _to_heads(self, name, width, input_shape, **options):
        """Return the map of (batch, length, input width) to (batch, length, heads, width)."""
        projection = self._dense(name, "abc,cde->abde", (self.num_heads, width), "de", **options)
        projection.build(input_shape)
        return projection

    def _dense(self, name, equation, output_shape, bias_axes, **options):
        return EinsumDense(
            equation,
            output_shape=(None, *output_shape),
            bias_axes=bias_axes if self.use_bias else None,
            # One copy for each weight: an unseeded initializer gives all weights of a shape the same values.
            kernel_initializer=self.kernel_initializer.clone(),
            bias_initializer=self.bias_initializer.clone(),
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            activity_regularizer=self.projection_activity_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            dtype=self.dtype_policy,
            name=name,
            **options,
        )

    # A method: under the name of a property Keras would save its layers, and versions before could not load them.
    def projections(self) -> list:
        """Return the projections of a built layer, in the order of their weights."""
        dense = (self.query_dense, self.key_dense, self.gate_dense, self.value_dense, self.output_dense)
        return [each for each in dense if each is not None]

    def quantize(self, mode=None, type_check=True, config=None):
        """Quantize the weights of the projections; what lies between them stays as it is.

        Args:
            mode: "int8", or another that `keras.layers.EinsumDense` takes.
            type_check: has no effect; Keras passes it.
            config: None, or a `keras.quantizers.QuantizationConfig`.
        """
        for projection in self.projections():
            projection.quantize(mode, config=config)

    def compute_output_shape(self, query_shape, value_shape, key_shape=None):
        """Return the shape of the output, a tuple."""
        query_shape = tuple(query_shape)
        check_input_shapes(query_shape, value_shape, value_shape if key_shape is None else key_shape)
        return (*query_shape[:-1], *(self.output_axes or query_shape[-1:]))

    def get_config(self):
        config = super().get_config()
        one_policy = not isinstance(self.dtype_policy, dtype_policies.DTypePolicyMap)
        if one_policy and self.built and any(each.quantization_mode for each in self.projections()):
            # Keras writes down the policy of a layer, not those of its parts, which a loaded layer must know.
            policies = {each.path: each.dtype_policy for each in self.projections()}
            config["dtype"] = dtype_policies.serialize(dtype_policies.DTypePolicyMap(self.dtype_policy.name, policies))
        axes = self.output_axes
        return {
            **config,
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "use_bias": self.use_bias,
            "output_shape": axes[0] if axes and len(axes) == 1 else axes,
            "use_gate": self.use_gate,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": regularizers.serialize(self.projection_activity_regularizer),
            "kernel_constraint": constraints.serialize(self.kernel_constraint),
            "bias_constraint": constraints.serialize(self.bias_constraint),
        }
