"""What tests/test_garden.py runs in processes of its own: Model Garden warns, and sets up TensorFlow as it likes.

    python -P tests/garden_checks.py FOLDER CHECK [CHECK ...]

`CHECKS` names them. The last line printed is the JSON, by check, that the tests judge.
"""

import importlib
import json
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import tensorflow as tf
import tf_keras
from definition import error, forward_backward, randomize
from garden_models import encoder_inputs, normal, randomized, small_config
from garden_scaffold import check_scaffold
from official.core import exp_factory, task_factory, train_utils
from official.nlp.configs import encoders

import krpe_tf
from krpe_tf import garden
from krpe_tf.garden.conversion import assign_attention
from krpe_tf.toeplitz import fft

HEADS, WIDTH = 2, 4
# Arguments of the layer, lengths of query and key, and causal.
CONFIGURATIONS = {
    "default": ({}, 19, 19, False),
    "bucketed, another length": ({"position_bias": "bucketed"}, 11, 13, False),
    "learned": ({"position_bias": lambda: krpe_tf.LearnedBias(HEADS, 5)}, 19, 19, True),
    "grid": ({"position_bias": lambda: krpe_tf.LearnedBias2D(HEADS, 3, 4, class_token=True)}, 13, 13, False),
    "no position bias": ({"position_bias": None, "normalize": False}, 11, 13, False),
    "softmax": ({"feature_map": "softmax"}, 11, 13, True),
    "positive, fft": ({"feature_map": "positive", "route": "fft"}, 40, 40, False),
    "spherical, banded": ({"feature_map": "spherical", "route": "banded"}, 150, 150, True),
    "trigonometric, dense": ({"feature_map": "trigonometric", "num_features": 64, "route": "dense"}, 11, 13, False),
    "elu, streaming": ({"feature_map": "elu", "route": "streaming", "causal": True}, 19, 19, True),
    "dense, in blocks": ({"route": "dense"}, 700, 700, False),
    "softmax, in blocks": ({"feature_map": "softmax"}, 700, 700, True),
    "banded, long": ({"route": "banded", "num_features": 8}, 1500, 1500, False),
    "fft, in groups": ({"route": "fft"}, 40, 40, False),
    "widths": ({"value_dim": 3, "output_shape": 7, "use_bias": False}, 11, 13, False),
}


def layer_numbers(arguments, n_q, n_k, causal):
    """Errors of output, scores and gradients of our layer against the Keras layer's with the same weights."""
    bias = arguments.get("position_bias", "decay")
    ours, theirs = dict(arguments), dict(arguments)
    if callable(bias):
        ours["position_bias"], theirs["position_bias"] = garden.PositionBias(bias()), bias()
    ours = garden.KernelizedRPEAttention(HEADS, WIDTH, seed=1, **ours)
    theirs = krpe_tf.KernelizedRPEAttention(HEADS, WIDTH, seed=2, **theirs)
    inputs = normal(2, n_q, 6), normal(2, n_k, 5, seed=1), normal(2, n_k, 4, seed=2)
    mask = (np.arange(n_k) < np.array([[n_k], [n_k - n_k // 3]])).astype("int32")
    ours(*inputs)
    theirs(*inputs)
    randomize(ours)
    assign_attention(theirs, ours)
    options = {"attention_mask": mask, "use_causal_mask": causal}
    cotangent = normal(*ours(*inputs).shape, seed=3)
    (output, *gradients), (expected, *expected_gradients) = (
        forward_backward(tf.function(partial(layer, **options)), inputs, cotangent, trainable_weights(layer))
        for layer in (ours, theirs)
    )
    errors = [error(output, expected)]
    for some, truth in zip(gradients, expected_gradients, strict=True):
        # Softmax does not see the bias of the keys: what is left of its gradient is rounding.
        largest = max(np.abs(x).max() for x in truth)
        errors += [error(a, b, max(np.abs(b).max(), 1e-2 * largest)) for a, b in zip(some, truth, strict=True)]
    if arguments.get("route", "auto") in ("auto", "dense") and n_k < 100:
        options["return_attention_scores"] = True
        errors.append(error(*(layer(*inputs, **options)[1].numpy() for layer in (ours, theirs))))
    return max(errors)


def trainable_weights(layer):
    """Of either layer: query, key, value, output, then the bias; with `value`, as Keras' variables have it."""
    prefix = "_" if isinstance(layer, tf_keras.layers.Layer) else ""
    parts = [getattr(layer, f"{prefix}{name}_dense") for name in ("query", "key", "value", "output")]
    parts += [] if layer.position_bias is None else [layer.position_bias]
    weights = [weight for part in parts for weight in part.trainable_weights]
    return [SimpleNamespace(value=weight) for weight in weights] if prefix else weights


def check_layer(folder):
    """Errors by configuration."""
    results, budget = {}, fft.TRANSFORM_BUDGET
    for name, case in CONFIGURATIONS.items():
        # So little that a group holds a few features, and is computed again in the backward pass.
        fft.TRANSFORM_BUDGET = 2**13 if name == "fft, in groups" else budget
        results[name] = layer_numbers(*case)
    fft.TRANSFORM_BUDGET = budget
    return results


def check_encoder(folder):
    """Outputs and weights of the encoder, its Keras twin, and what becomes of it on disk."""
    results, inputs = {}, encoder_inputs()
    twin_inputs = {"token_ids": inputs["input_word_ids"], "padding_mask": inputs["input_mask"]}
    visible = inputs["input_mask"].astype(bool)
    configs = {
        "decay": {},
        "bucketed": {"position_bias": garden.PositionBiasConfig(type="bucketed"), "share_position_bias": False},
        "learned": {"position_bias": garden.PositionBiasConfig(type="learned"), "route": "fft"},
        "none": {"position_bias": garden.PositionBiasConfig(type=None), "feature_map": "softmax", "causal": True},
    }
    for name, changes in configs.items():
        config = small_config(**changes)
        encoder = encoders.build_encoder(encoders.EncoderConfig(type="any", any=config))
        model = randomized(tf_keras.Model(encoder.inputs, encoder(encoder.inputs)))
        output = model(inputs)
        expected = garden.to_keras(encoder)(twin_inputs).numpy()
        results[name] = {
            "shapes": {key: list(output[key].shape) for key in ("sequence_output", "pooled_output")},
            "layers": len(output["encoder_outputs"]),
            "table": list(encoder.get_embedding_table().shape),
            "difference": error(output["sequence_output"].numpy()[visible], expected[visible]),
            "biases": sorted({w.name for w in encoder.trainable_weights if "_bias/" in w.name}),
            "bias weights": sum("_bias/" in w.name for w in encoder.trainable_weights),
        }
        if name == "decay":
            results["disk"] = saved_and_loaded(encoder, model, inputs, Path(folder))
    return results


def saved_and_loaded(encoder, model, inputs, folder):
    """Errors of what an encoder made from the config reads of a checkpoint, and of a SavedModel."""
    expected = model(inputs)["sequence_output"].numpy()
    path = tf.train.Checkpoint(encoder=encoder).save(str(folder / "checkpoint"))
    other = garden.Encoder.from_config(encoder.get_config())
    other(inputs)
    randomized(other, seed=1)
    before = error(other(inputs)["sequence_output"].numpy(), expected)
    status = tf.train.Checkpoint(encoder=other).restore(path)
    status.assert_existing_objects_matched()
    status.assert_consumed()
    model.save(folder / "saved")
    loaded = tf.saved_model.load(str(folder / "saved"))
    outputs = loaded.signatures["serving_default"](**{name: tf.constant(x) for name, x in inputs.items()})
    return {
        "before": before,
        "checkpoint": error(other(inputs)["sequence_output"].numpy(), expected),
        # A signature does not keep the names of outputs.
        "saved": min(error(x.numpy(), expected) for x in outputs.values() if x.shape == expected.shape),
        # Beside the weights: the counter of saves, and the graph of objects.
        "more variables than weights": len(tf.train.list_variables(path)) - len(encoder.weights),
    }


def write_examples(path, batch=4, length=24, predictions=3):
    """Masked-LM examples as Model Garden's own data loader reads them."""
    rng = np.random.default_rng(0)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in range(batch):
            tokens = length - 3 * row
            positions = np.sort(rng.choice(tokens, predictions, replace=False))
            ids = np.pad(rng.integers(5, 50, tokens), (0, length - tokens))
            integers = {
                "input_word_ids": np.where(np.isin(np.arange(length), positions), 4, ids),
                "input_mask": np.arange(length) < tokens,
                "input_type_ids": np.zeros(length),
                "masked_lm_positions": positions,
                "masked_lm_ids": ids[positions],
            }
            feature = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=np.asarray(values, "int64")))
                for name, values in integers.items()
            }
            ones = tf.train.FloatList(value=np.ones(predictions, "float32"))
            feature["masked_lm_weights"] = tf.train.Feature(float_list=ones)
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def check_train(folder):
    """Model Garden's masked-LM task and trainer, on two devices and on one."""
    folder = Path(folder)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    tf_keras.utils.set_random_seed(0)
    write_examples(folder / "examples.tfrecord")
    params = exp_factory.get_exp_config("krpe_tf/pretraining")
    data = {
        "input_path": str(folder / "examples.tfrecord"),
        "global_batch_size": 4,
        "seq_length": 24,
        "max_predictions_per_seq": 3,
        "use_v2_feature_names": True,
        "shuffle_buffer_size": 1,  # in order: every batch is the four examples
        "deterministic": True,
    }
    # Not the experiment's own AdamW, which clips the gradients of each replica before it adds them up.
    optimizer = {
        "optimizer": {"type": "sgd", "sgd": {"momentum": 0.9}},
        "learning_rate": {"type": "constant", "constant": {"learning_rate": 0.1}},
        "warmup": {"type": None},
    }
    adamw = params.trainer.optimizer_config.replace()
    adamw.override({name: optimizer[name] for name in ("learning_rate", "warmup")})
    params.override(
        {
            "task": {"model": {"encoder": {"any": small_config().as_dict()}}, "train_data": data},
            "trainer": {
                "train_steps": 2,
                "optimizer_config": optimizer,
            },
        }
    )
    params.lock()
    results, start = {}, None
    strategies = {
        "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
        "one": tf.distribute.OneDeviceStrategy("CPU:0"),
    }
    weights = {}
    for name, strategy in strategies.items():
        with strategy.scope():
            task = task_factory.get_task(params.task)
            trainer = train_utils.create_trainer(params, task, train=True, evaluate=False)
            trainer.model({name: tf.zeros((1, 3), "int32") for name in trainer.model.inputs})  # builds the head, too
            if start is None:
                start = [
                    # At its start the bias is small, and a step of its rates may be lost in rounding.
                    weight + (0.5 if "decay_bias/" in variable.name else 0.0)
                    for weight, variable in zip(trainer.model.get_weights(), trainer.model.weights, strict=True)
                ]
            trainer.model.set_weights(start)
            losses = [float(trainer.train(tf.constant(1))["training_loss"]) for _ in range(2)]
        weights[name] = trainer.model.get_weights()
        results[name] = losses
    trained = [
        weight.name
        for weight, old, new in zip(trainer.model.weights, start, weights["two"], strict=True)
        if not np.array_equal(old, new)
    ]
    results["difference"] = max(map(error, weights["two"], weights["one"]))
    results["trained"] = trained
    results["trainable"] = [weight.name for weight in trainer.model.trainable_weights]
    decays = task.create_optimizer(adamw)._do_use_weight_decay
    results["decayed"] = [weight.name for weight in trainer.model.trainable_weights if decays(weight.name)]
    return results


def check_snippet(folder):
    """The Python of docs/garden.md."""
    page = Path(__file__).parent.parent / "docs" / "garden.md"
    (snippet,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(snippet, names)
    ids = np.arange(60).reshape(2, 30)
    output = names["encoder"]([ids, np.ones_like(ids), np.zeros_like(ids)])
    biases = [weight.name for weight in names["encoder"].trainable_weights if weight.name.startswith("learned_bias")]
    return {"shape": list(output["sequence_output"].shape), "biases": biases}


def check_refusals(folder):
    """The messages of what is refused."""
    bias = krpe_tf.DecayBias(2)
    x, layer = normal(2, 5, 6), garden.KernelizedRPEAttention(2, 8)
    attend = tf.function(lambda mask: layer(x, x, attention_mask=mask))
    layer(x, x, attention_mask=np.ones((2, 5), "float32"))
    attend(tf.ones((2, 5)))
    attempts = {
        "additive mask": lambda: layer(x, x, attention_mask=np.full((2, 5), -1e9)),
        "additive mask in a graph": lambda: attend(tf.fill((2, 5), -1e9)),
        "no bias": lambda: garden.PositionBias("decay"),
        "keras bias": lambda: garden.KernelizedRPEAttention(2, 8, position_bias=bias),
        "heads": lambda: garden.KernelizedRPEAttention(4, 8, position_bias=garden.PositionBias(bias)),
        "axes": lambda: garden.KernelizedRPEAttention(2, 8, attention_axes=(1, 2)),
        "route": lambda: garden.KernelizedRPEAttention(2, 8, feature_map="softmax", route="fft"),
        "sizes": lambda: garden.Encoder(small_config(hidden_size=15)),
        "type": lambda: garden.Encoder(small_config(position_bias=garden.PositionBiasConfig(type="decoy"))),
        "not built": lambda: garden.to_keras(garden.Encoder(small_config())),
    }
    messages = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            messages[name] = str(error)
    with mock.patch.dict(sys.modules, {"official": None}):
        del sys.modules["krpe_tf.garden"]
        try:
            importlib.import_module("krpe_tf.garden")
        except ImportError as error:
            messages["no official"] = str(error)
    return messages


CHECKS = {
    "layer": check_layer,
    "encoder": check_encoder,
    "scaffold": check_scaffold,
    "train": check_train,
    "snippet": check_snippet,
    "refusals": check_refusals,
}


if __name__ == "__main__":
    folder, *checks = sys.argv[1:]
    print(json.dumps({name: CHECKS[name](folder) for name in checks}))
