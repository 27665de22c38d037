"""Attention by its definition, in float64 numpy: what every route and the layer are tested against.

Nothing here calls the library's numerics. Gradients are written out by hand.
"""

import keras
import numpy as np

from krpe_tf import BucketedBias, DecayBias, LearnedBias, LearnedBias2D


def to_numpy(x):
    return x.numpy() if isinstance(x, keras.Variable) else keras.ops.convert_to_numpy(x)


def float64(x):
    return np.asarray(to_numpy(x), "float64")


# --- Position biases: b and its derivatives


def offsets(query_positions, n_k):
    """Key position minus query position for every pair. A number of queries stands for positions from 0 on."""
    return np.arange(n_k)[None, :] - np.atleast_1d(positions(query_positions))[:, None]


def positions(query_positions):
    return np.arange(query_positions) if np.ndim(query_positions) == 0 else np.asarray(query_positions)


def t5_bucket(relative_position, num_buckets=32, max_distance=128):
    """T5's published `_relative_position_bucket`, bidirectional, in float32 as there."""
    n = -np.asarray(relative_position)
    num_buckets //= 2
    result = np.where(n < 0, num_buckets, 0)
    n = np.abs(n)
    max_exact = num_buckets // 2
    ratio = np.log(np.maximum(n, 1).astype("float32") / np.float32(max_exact)) / np.log(max_distance / max_exact)
    large = max_exact + (ratio * (num_buckets - max_exact)).astype("int32")
    return result + np.where(n < max_exact, n, np.minimum(large, num_buckets - 1))


def _index(bias, t):
    """Where b_t stands in the table of a LearnedBias or BucketedBias."""
    if isinstance(bias, LearnedBias):
        return np.clip(t, -bias.max_distance, bias.max_distance) + bias.max_distance
    return t5_bucket(t, bias.num_buckets, bias.max_distance)


def _decay_terms(bias, t):
    """log of each term of a DecayBias's tail at t (heads, *t.shape, terms), its rates, and |t| - radius."""
    side = (t > 0).astype(int)
    log_amplitude = np.moveaxis(float64(bias.log_amplitude), 0, 1)[:, side]
    rate = np.exp(np.moveaxis(float64(bias.log_rate), 0, 1)[:, side])
    beyond = np.maximum(np.abs(t) - bias.radius, 0)[..., None]
    return log_amplitude - rate * beyond, rate, beyond


def log_weights(bias, t):
    """b_t, (heads, *t.shape)."""
    t = np.asarray(t)
    if isinstance(bias, (LearnedBias, BucketedBias)):
        return float64(bias.table)[:, _index(bias, t)]
    assert isinstance(bias, DecayBias)
    near = float64(bias.near)[:, np.clip(t + bias.radius - 1, 0, 2 * bias.radius - 2)]
    far = np.logaddexp.reduce(_decay_terms(bias, t)[0], axis=-1)
    return np.where(np.abs(t) < bias.radius, near, far)


def bias_gradients(bias, t, d_bias):
    """The chain rule from db (heads, *t.shape) to each weight of the bias, by weight name."""
    heads = len(d_bias)
    if isinstance(bias, (LearnedBias, BucketedBias)):
        table = np.zeros(bias.table.shape)
        for head in range(heads):
            np.add.at(table[head], _index(bias, t), d_bias[head])
        return {"table": table}
    log_terms, rate, beyond = _decay_terms(bias, t)
    share = np.exp(log_terms - np.logaddexp.reduce(log_terms, axis=-1, keepdims=True))
    result = {name: np.zeros(getattr(bias, name).shape) for name in ("near", "log_amplitude", "log_rate")}
    near, side = np.abs(t) < bias.radius, (t > 0).astype(int)
    for head in range(heads):
        np.add.at(result["near"][head], t[near] + bias.radius - 1, d_bias[head][near])
        d_far = (d_bias[head] * ~near)[..., None] * share[head]
        np.add.at(result["log_amplitude"][:, head], side, d_far)
        np.add.at(result["log_rate"][:, head], side, -d_far * rate[head] * beyond)
    return result


def grid_index(bias):
    """For each pair of positions of a LearnedBias2D, where its b stands among a head's table, then class weights."""
    height, width = bias.height, bias.width
    y, x = np.divmod(np.arange(height * width), width)
    index = (y - y[:, None] + height - 1) * (2 * width - 1) + x - x[:, None] + width - 1
    if bias.class_token:
        end = (2 * height - 1) * (2 * width - 1)
        index = np.pad(index, ((1, 0), (1, 0)), constant_values=end + 2)
        index[0] = end + 1
        index[0, 0] = end
    return index


def pair_log_weights(bias, t):
    """b for every pair of positions, of offsets t (n_q, n_k): (heads, n_q, n_k)."""
    if isinstance(bias, LearnedBias2D):
        flat = [float64(weight).reshape(bias.num_heads, -1) for weight in bias.weights]
        return np.concatenate(flat, axis=1)[:, grid_index(bias)]
    return log_weights(bias, t)


def pair_gradients(bias, t, d_bias):
    """The chain rule from db (heads, n_q, n_k) to each weight of the bias, by weight name."""
    if not isinstance(bias, LearnedBias2D):
        return bias_gradients(bias, t, d_bias)
    flat = np.zeros((bias.num_heads, sum(int(np.prod(weight.shape[1:])) for weight in bias.weights)))
    for head in range(bias.num_heads):
        np.add.at(flat[head], grid_index(bias), d_bias[head])
    ends = np.cumsum([int(np.prod(weight.shape[1:])) for weight in bias.weights])[:-1]
    parts = zip(bias.weights, np.split(flat, ends, axis=1), strict=True)
    return {weight.name: part.reshape(weight.shape) for weight, part in parts}


def randomize(bias, seed=0, scale=0.5):
    """Moves every weight of a bias off its start."""
    rng = np.random.default_rng(seed)
    for weight in bias.weights:
        weight.assign(to_numpy(weight) + scale * rng.standard_normal(weight.shape).astype("float32"))
    return bias


# --- Attention (Eq. 10)


def visible_pairs(t, causal=False, key_mask=None, prefix_length=None, segment_ids=None, pair_mask=None):
    """For offsets t (n_q, n_k), bool (batch or 1, heads or 1, n_q, n_k)."""
    visible = np.ones_like(t, bool)
    if causal:
        visible = (t <= 0) | (np.arange(t.shape[1]) < (prefix_length or 0))
    visible = visible[None, None]
    if segment_ids is not None:
        visible = visible & np.stack([same_document(row) for row in np.asarray(segment_ids)])[:, None]
    if pair_mask is not None:
        visible = visible & np.asarray(pair_mask, bool)
    return visible if key_mask is None else visible & np.asarray(key_mask, bool)[:, None, None, :]


def same_document(ids):
    """For the ids of a row (n,), bool (n, n): whether all positions from one to the other have the same id."""
    same = np.zeros((len(ids), len(ids)), bool)
    for start in range(len(ids)):
        end = start
        while end < len(ids) and ids[end] == ids[start]:
            same[start, end] = same[end, start] = True
            end += 1
    return same


class Attention:
    """Output, scores and gradients of attention by definition.

    kernel "product" is phi(q) . phi(k), "softmax" exp(q . k). `bias` is a library bias, None, or b itself
    (heads, n_q, n_k). `rows` are the positions of the queries, from 0 on if None.
    """

    def __init__(
        self,
        query,
        key,
        value,
        bias=None,
        *,
        causal=False,
        key_mask=None,
        prefix_length=None,
        segment_ids=None,
        pair_mask=None,
        kernel="product",
        rows=None,
    ):
        query, key, value = (np.asarray(x, "float64") for x in (query, key, value))
        if key_mask is not None:
            shown = np.asarray(key_mask, bool)[:, None, :, None]
            key, value = np.where(shown, key, 0), np.where(shown, value, 0)
        self.query, self.key, self.value, self.bias, self.kernel = query, key, value, bias, kernel
        self.offsets = offsets(query.shape[2] if rows is None else rows, key.shape[2])
        if bias is None:
            b = np.zeros((query.shape[1], *self.offsets.shape))
        else:
            b = bias if isinstance(bias, np.ndarray) else pair_log_weights(bias, self.offsets)
        product = query @ key.swapaxes(-1, -2)
        visible = visible_pairs(self.offsets, causal, key_mask, prefix_length, segment_ids, pair_mask)
        # What stands in the exponent, less its visible maximum in the row: a ratio does not feel it.
        exponent = np.where(visible, b[None] + (product if kernel == "softmax" else 0), -np.inf)
        largest = exponent.max(-1, keepdims=True, initial=-np.inf)
        # How far below the largest weight of the head, seen or not, a row's own largest lies, in b.
        highest = b.max(initial=-1e30, axis=(1, 2))[None, :, None, None]
        self.depth = highest - np.where(np.isfinite(largest), largest, highest)
        self.exponential = np.exp(exponent - np.where(np.isfinite(largest), largest, 0))
        self.weights = self.exponential * (1 if kernel == "softmax" else product)
        total = self.weights.sum(-1, keepdims=True)
        # Features may be negative, and then their sums.
        self.inverse = np.where(total != 0, 1 / np.where(total != 0, total, 1), 0)
        self.scores = self.weights * self.inverse
        self.output = self.scores @ value

    def gradients(self, cotangent):
        """Of sum(output * cotangent): (d query, d key, d value, {weight name of the bias: gradient})."""
        g = np.asarray(cotangent, "float64")
        along = (g * self.output).sum(-1, keepdims=True)
        d_weights = (g @ self.value.swapaxes(-1, -2) - along) * self.inverse
        d_b = (d_weights * self.weights).sum(0)
        d_product = d_weights * (self.weights if self.kernel == "softmax" else self.exponential)
        d_bias = {} if self.bias is None else pair_gradients(self.bias, self.offsets, d_b)
        return d_product @ self.key, d_product.swapaxes(-1, -2) @ self.query, self.scores.swapaxes(-1, -2) @ g, d_bias


# --- The layer


def feature_map(name, x, projection):
    if name == "softmax":
        return x
    if name == "taylor":
        return np.concatenate([np.ones_like(x[..., :1]), np.sqrt(0.9375) * x], axis=-1)
    if name == "elu":
        return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    m, along, half = projection.shape[1], x @ projection, (x**2).sum(-1, keepdims=True) / 2
    if name == "trigonometric":
        return np.exp(half) * np.concatenate([np.sin(along), np.cos(along)], axis=-1) / np.sqrt(m)
    return np.exp(along - half) / np.sqrt(m)


def layer_output(layer, query, value=None, key=None, *, key_mask=None, pair_mask=None, causal=None):
    """`KernelizedRPEAttention` in float64, from its weights: (output, scores)."""
    value = query if value is None else value
    key = value if key is None else key

    def project(dense, x, equation):
        x = np.einsum(equation, np.asarray(x, "float64"), float64(dense.kernel))
        return x if dense.bias is None else x + float64(dense.bias)

    def features(dense, x):
        x = project(dense, x, "abc,cde->adbe" if dense.bias is None else "abc,cde->abde")
        x = x if dense.bias is None else x.swapaxes(1, 2)
        x = x / np.linalg.norm(x, axis=-1, keepdims=True) if layer.normalize else x / layer.key_dim**0.25
        return feature_map(layer.feature_map, x, float64(layer.projection))

    values = project(layer.value_dense, value, "abc,cde->abde").swapaxes(1, 2)
    attention = Attention(
        features(layer.query_dense, query),
        features(layer.key_dense, key),
        values,
        layer.position_bias,
        causal=layer.causal if causal is None else causal,
        key_mask=key_mask,
        pair_mask=pair_mask,
        kernel="softmax" if layer.feature_map == "softmax" else "product",
    )
    output = attention.output.swapaxes(1, 2)
    if layer.use_gate:
        output = output / (1 + np.exp(-project(layer.gate_dense, query, "abc,cde->abde")))
    output = project(layer.output_dense, output, "abcd,cd...->ab...")
    return output, attention.scores


# --- Running the library


def forward_backward(function, arrays, cotangent=None, variables=()):
    """function(*arrays) and the gradients of sum(output * cotangent): (output, [of arrays], [of variables]), numpy."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(x) for x in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = function(*tensors)
            weighted = output if cotangent is None else output * tf.cast(cotangent, output.dtype)
            loss = tf.reduce_sum(tf.cast(weighted, "float64"))
        sources = (tensors, [variable.value for variable in variables])
        gradients = tape.gradient(loss, sources, unconnected_gradients="zero")
        gradients = keras.tree.map_structure(tf.convert_to_tensor, gradients)
    elif keras.backend.backend() == "jax":
        import jax
        from calls import jit

        def loss(arrays, values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                output = function(*arrays)
            weighted = output if cotangent is None else output * keras.ops.cast(cotangent, output.dtype)
            return weighted.astype("float32").sum(), output

        sources = ([jax.numpy.asarray(x) for x in arrays], [variable.value for variable in variables])
        (_, output), gradients = jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(*sources)
    else:
        import torch

        tensors = [keras.ops.convert_to_tensor(x) for x in arrays]
        tensors = [x.requires_grad_() if x.is_floating_point() else x for x in tensors]
        output = function(*tensors)
        weighted = output if cotangent is None else output * keras.ops.convert_to_tensor(cotangent, output.dtype)
        loss = weighted.to(torch.float64).sum() + sum(x.sum() * 0 for x in tensors if x.requires_grad)
        sources = (tensors, [variable.value for variable in variables])
        flat = torch.autograd.grad(loss, keras.tree.flatten(sources), allow_unused=True)
        flat = [torch.zeros_like(x) if g is None else g for g, x in zip(flat, keras.tree.flatten(sources), strict=True)]
        gradients = keras.tree.pack_sequence_as(sources, flat)
    output, (of_arrays, of_variables) = keras.tree.map_structure(_at_least_float32, (output, gradients))
    return output, of_arrays, of_variables


def _at_least_float32(x):
    """As numpy, which knows no bfloat16."""
    half = keras.backend.standardize_dtype(x.dtype) in ("bfloat16", "float16")
    return to_numpy(keras.ops.cast(x, "float32") if half else x)


def error(actual, expected, scale=None):
    """The largest difference, over `scale` or over the largest value expected; NaN is infinitely wrong."""
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if not actual.size:
        return 0.0
    scale = np.abs(expected).max() if scale is None else scale
    difference = np.abs(actual - expected).max()
    return difference / max(scale, 1e-30) if np.isfinite(difference) else np.inf
