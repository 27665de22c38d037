"""The layer of krpe_tf.garden in Model Garden's scaffolds; run by garden_checks.py."""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from definition import error
from garden_models import encoder_inputs, normal, randomized
from official.nlp.modeling import layers, networks

import krpe_tf
from krpe_tf import garden


def check_scaffold(folder):
    """The layer in Model Garden's scaffolds by its class alone, trained by tf_keras, and as a part of `.keras`."""
    return {"names": weight_names(), **train_encoder(), **save_and_clone(Path(folder)), "half": compute_in_half()}


def weight_names():
    """Names and shapes of a scaffold's weights, with our layer and with tf_keras' own."""
    names = {}
    for layer_class in (garden.KernelizedRPEAttention, tf_keras.layers.MultiHeadAttention):
        block = layers.TransformerScaffold(2, 24, attention_cls=layer_class, attention_dropout_rate=0.1)
        x = tf_keras.Input((None, 16))
        names[layer_class.__name__] = {
            weight.name: list(weight.shape) for weight in tf_keras.Model(x, block(x)).weights
        }
    return names


def train_encoder():
    """What is refused without our mask class, which weights training leaves alone, and what padding changes."""
    results = {}
    embedding = {"vocab_size": 50, "type_vocab_size": 2, "hidden_size": 16, "max_seq_length": 32, "dropout_rate": 0.1}
    arguments = {
        "pooled_output_dim": 16,
        "embedding_cfg": {**embedding, "initializer": tf_keras.initializers.TruncatedNormal(stddev=0.1)},
        "num_hidden_instances": 2,
        "hidden_cls": layers.TransformerScaffold,
        "hidden_cfg": {
            "num_attention_heads": 2,
            "inner_dim": 24,
            "attention_cls": garden.KernelizedRPEAttention,
        },
        "dict_outputs": True,
    }
    try:
        networks.EncoderScaffold(**arguments)
    except ValueError as refusal:
        results["full mask"] = str(refusal)
    encoder = networks.EncoderScaffold(**arguments, mask_cls=layers.KernelMask)
    model = tf_keras.Model(encoder.inputs, encoder(encoder.inputs)["sequence_output"])
    model.compile(tf_keras.optimizers.Adam(0.01), loss="mse")
    before = [weight.numpy() for weight in model.trainable_weights]
    inputs = encoder_inputs(4, 19, 15)
    model.fit(inputs, normal(4, 19, 16), epochs=2, verbose=0)
    results["unchanged"] = [
        weight.name
        for weight, old in zip(model.trainable_weights, before, strict=True)
        if np.array_equal(weight.numpy(), old) or not np.isfinite(weight.numpy()).all()
    ]
    hidden = {name: x.copy() for name, x in inputs.items()}
    hidden["input_word_ids"][-1, 15:] = 7
    visible = inputs["input_mask"].astype(bool)
    some, other = (model(x).numpy()[visible] for x in (inputs, hidden))
    results["padding"] = error(some, other)
    return results


def save_and_clone(folder):
    """Two layers that share a bias: their files, clones and configs, and the mask of a Masking layer."""
    shared = garden.PositionBias(krpe_tf.LearnedBias(2, 5), name="shared")
    x = tf_keras.Input((None, 16))
    y = tf_keras.layers.Masking()(x)
    for index in range(2):
        y = garden.KernelizedRPEAttention(2, 8, position_bias=shared, seed=index, name=f"attention_{index}")(y, y)
    model = randomized(tf_keras.Model(x, y))
    data = normal(2, 19, 16)
    data[1, 12:] = 0
    model.save(folder / "model.keras")
    again = tf_keras.models.load_model(folder / "model.keras")
    model.save(folder / "model.h5")
    trips = {
        "file": again,
        ".h5": tf_keras.models.load_model(folder / "model.h5"),
        "clone": tf_keras.models.clone_model(model),
        "second clone": tf_keras.models.clone_model(model),
        "config": tf_keras.Model.from_config(model.get_config()),
        "JSON": tf_keras.models.model_from_json(model.to_json()),
    }
    biases = {id(layer.position_bias) for each in trips.values() for layer in each.layers[-2:]}
    return {
        "keras file": error(again(data).numpy(), model(data).numpy()),
        "shared": len(biases) == len(trips)
        and all(len(each.trainable_weights) == len(model.trainable_weights) for each in trips.values()),
        "implicit mask": error(model(data).numpy()[1, :12], model(data[1:, :12]).numpy()[0]),
    }


def compute_in_half():
    """The layer in mixed precision against the one in float32. Leaves the global policy mixed."""
    data = normal(2, 19, 16)
    data[1, 12:] = 0
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    half = garden.KernelizedRPEAttention(2, 8, seed=0)
    output = half(data, data)
    full = garden.KernelizedRPEAttention(2, 8, seed=0, dtype="float32")
    full(data, data)
    full.set_weights(half.get_weights())
    return {
        "output": output.dtype.name,
        "weights": sorted({w.dtype.name for w in half.weights}),
        "difference": error(tf.cast(output, "float32").numpy(), full(data, data).numpy()),
    }
