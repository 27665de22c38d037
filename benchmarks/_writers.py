"""The language models of generation.py: ours, and a softmax twin that decodes from a cache of fixed size.

Imports neither TensorFlow nor JAX: it runs on either.
"""

import keras
from keras import ops

from krpe_tf import DecayBias
from krpe_tf.models import CausalLM, Encoder

# What is measured, and a model that shows no more than that all of it runs.
SIZES = {"vocabulary_size": 4096, "num_layers": 2, "num_heads": 4, "hidden_dim": 256, "intermediate_dim": 1024}
QUICK_SIZES = {"vocabulary_size": 64, "num_layers": 1, "num_heads": 2, "hidden_dim": 64, "intermediate_dim": 64}
FEATURES, RADIUS, TERMS = 32, 16, 2
OURS, SOFTMAX = "ours", "softmax cache"
HIDDEN = -1e9


def make_model(name: str, sizes: dict) -> CausalLM:
    """Return `OURS`, or `SOFTMAX`: usual scaled dot products and no position bias, which would cost it more."""
    keras.utils.set_random_seed(0)
    if name == OURS:
        bias = DecayBias(sizes["num_heads"], radius=RADIUS, num_terms=TERMS)
        options = {"num_features": FEATURES, "position_bias": bias}
    else:
        options = {"num_features": 0, "feature_map": "softmax", "position_bias": None, "normalize": False}
    model = CausalLM(Encoder(**sizes, **options, causal=True, dropout=0.0, seed=0))
    for weight in model.trainable_weights:
        if "kernel" in weight.path or "embeddings" in weight.path:
            # As drawn, attention adds next to nothing: logits would agree whatever it computes.
            weight.assign(ops.convert_to_numpy(weight) * (3 if "embeddings" in weight.path else 6))
    return model


class CachedWriter(keras.Model):
    """A softmax `CausalLM` as `krpe_tf.models.generation` takes it, with LiteRT's convention of a cache.

    Keys and values of all positions lie in arrays of a fixed size, into which each step writes its own at their place;
    its queries meet the whole cache, and a mask hides what is not written yet.

    Args:
        model: A `CausalLM` of softmax attention without a position bias.
        size: Positions of the cache.
    """

    def __init__(self, model: CausalLM, size: int):
        super().__init__()
        self.encoder, self.size = model.encoder, size

    def initial_state(self, batch_size: int) -> dict:
        """Return an empty cache: of each layer, `keys` and `values` (batch, heads, size, width), and the position."""
        encoder = self.encoder
        shape = (batch_size, encoder.num_heads, self.size, encoder.hidden_dim // encoder.num_heads)
        names = [f"layer_{i}_{part}" for i in range(encoder.num_layers) for part in ("keys", "values")]
        return {"position": ops.zeros((1,), "int32"), **{name: ops.zeros(shape, "float32") for name in names}}

    def step(self, token_ids, state: dict, count=None):
        """Read tokens (batch, k); `count` says how many of them there are, the others are written over later."""
        x, after = self.step_vectors(self.encoder.token_embedding(token_ids), state)
        k = token_ids.shape[1] if count is None else count
        return self.encoder.token_embedding(x, reverse=True), {**after, "position": state["position"] + k}

    def step_vectors(self, x, state: dict):
        """Read tokens from their embeddings (batch, k, width); return their vectors, and keys and values after them."""
        layer, position, after = self.encoder.get_layer, state["position"][0], {}
        places = ops.arange(x.shape[1], dtype="int32")[:, None] + position
        mask = ops.where(ops.arange(self.size, dtype="int32") <= places, 0.0, HIDDEN)
        for i in range(self.encoder.num_layers):
            attention = layer(f"layer_{i}_attention")
            y = layer(f"layer_{i}_attention_norm")(x)
            dense = {"query": attention.query_dense, "keys": attention.key_dense, "values": attention.value_dense}
            new = {name: ops.transpose(each(y), (0, 2, 1, 3)) for name, each in dense.items()}
            for part in ("keys", "values"):
                name = f"layer_{i}_{part}"
                after[name] = ops.slice_update(state[name], (0, 0, position, 0), new[part])
            keys, values = after[f"layer_{i}_keys"], after[f"layer_{i}_values"]
            query = new["query"] * attention.key_dim**-0.5
            scores = ops.matmul(query, ops.swapaxes(keys, -1, -2)) + mask
            y = ops.matmul(ops.softmax(scores), values)
            x = x + attention.output_dense(ops.transpose(y, (0, 2, 1, 3)))
            y = layer(f"layer_{i}_feed_forward_norm")(x)
            x = x + layer(f"layer_{i}_feed_forward_out")(layer(f"layer_{i}_feed_forward_in")(y))
        return layer("final_norm")(x), after
