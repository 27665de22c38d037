"""`in_float32`: models of any dtype policy, once more in float32."""

import keras
import numpy as np
import pytest
from definition import to_numpy
from test_encoder import batch, make

from krpe_tf import DecayBias, KernelizedRPEAttention
from krpe_tf.models import Encoder, TextClassifier, compute_dtypes, in_float32


class Scaled(keras.layers.Layer):
    """A layer that nobody registered, around another one."""

    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self.dense = keras.layers.Dense(16, dtype=self.dtype_policy)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.scale * self.dense(x)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


class Forgetful(Scaled):
    """Its config lacks an argument."""

    def get_config(self):
        return keras.layers.Layer.get_config(self)


class Stubborn(keras.layers.Dense):
    """Computes in half precision whatever it is told."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **{**kwargs, "dtype": "mixed_bfloat16"})


def users_model(dtype, wrap=None):
    """A user's functional model with the attention in it, and a conversion to the policy's dtype."""
    keras.config.set_dtype_policy(dtype)
    try:
        inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
        x = keras.layers.Embedding(50, 16)(inputs["token_ids"])
        attention = KernelizedRPEAttention(2, 8, num_features=8, position_bias=DecayBias(2, 4), seed=1)
        x = x + attention(x, x, attention_mask=inputs["padding_mask"])
        x = keras.ops.cast((wrap or Scaled(3.0))(x), keras.config.dtype_policy().compute_dtype)
        return keras.Model(inputs, keras.layers.Dense(4)(x), name="users")
    finally:
        keras.config.set_dtype_policy("float32")


POLICIES = ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16", "float64"]


@pytest.mark.parametrize("dtype", POLICIES[:4] if keras.backend.backend() == "jax" else POLICIES)
def test_a_users_model_is_the_one_that_was_built_in_float32(dtype):
    half, expected = users_model(dtype), users_model("float32")
    expected.set_weights(half.get_weights())
    weights = [to_numpy(weight) for weight in half.weights]
    model = in_float32(half)
    assert compute_dtypes(half) == [dtype.removeprefix("mixed_")]
    assert compute_dtypes(model) == ["float32"]
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in model.weights} == {"float32"}
    np.testing.assert_array_equal(to_numpy(model(batch(9))), to_numpy(expected(batch(9))))
    for before, after in zip(weights, half.weights, strict=True):
        np.testing.assert_array_equal(before, to_numpy(after))
    assert in_float32(model) is model
    assert keras.config.dtype_policy().name == "float32"


def test_a_policy_for_each_layer():
    policies = keras.dtype_policies.DTypePolicyMap(default_policy="mixed_bfloat16")
    policies[".*query"] = keras.DTypePolicy("float32")
    mixed, expected = TextClassifier(make(dtype=policies), 3), TextClassifier(make(), 3)
    expected.set_weights(mixed.get_weights())
    model = in_float32(mixed)
    assert type(model) is TextClassifier
    assert compute_dtypes(mixed) == ["bfloat16", "float32"]
    assert compute_dtypes(model) == ["float32"]
    np.testing.assert_array_equal(to_numpy(model(batch(9))), to_numpy(expected(batch(9))))


def test_layers_of_integers_and_strings_stay_as_they_are():
    words = keras.Input((None,), dtype="int32")
    hashed = keras.layers.Hashing(7)(words)
    vectors = keras.layers.Embedding(7, 4, dtype="mixed_bfloat16")(hashed)
    model = keras.Model(words, vectors)
    twin = in_float32(model)
    assert compute_dtypes(twin) == ["float32"]
    assert in_float32(twin) is twin
    ids = np.arange(6)[None]
    np.testing.assert_allclose(to_numpy(twin(ids)), to_numpy(keras.ops.cast(model(ids), "float32")), atol=1e-3)


def test_a_shared_bias_stays_shared():
    bias, x = DecayBias(2), keras.Input((None, 16))
    first, second = (KernelizedRPEAttention(2, 8, position_bias=bias, dtype="mixed_bfloat16") for _ in range(2))
    y = first(x, x)
    half = keras.Model(x, second(y, y))
    model = in_float32(half)
    assert len(model.weights) == len(half.weights)
    first, second = (layer for layer in model.layers if isinstance(layer, KernelizedRPEAttention))
    assert first.position_bias is second.position_bias


def test_inputs_made_under_another_policy_compute_nothing():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = Encoder(50, 1, 2, 16, 16, dtype="float32", position_bias=None)
    finally:
        keras.config.set_dtype_policy("float32")
    assert in_float32(model) is model


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Forgetful(3.0, dtype="mixed_bfloat16"), "could not be deserialized properly"),
        (Stubborn(16), "its config gives computes in bfloat16"),
    ],
)
def test_a_model_that_cannot_be_built_again_is_refused_with_the_remedy(layer, reason):
    remedy = (
        r"dtype='float32'.*`twin\.set_weights\(model\.get_weights\(\)\)`.*Received: model='users', which computes in"
    )
    with pytest.raises(ValueError, match=rf"(?s){reason}.*{remedy} bfloat16"):
        in_float32(users_model("mixed_bfloat16", layer))
    assert keras.config.dtype_policy().name == "float32"
