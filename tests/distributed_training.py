"""Trains on several virtual devices, in processes of their own, for tests/test_distribution.py.

TensorFlow is imported where it is the backend: importing it takes seconds.

KERAS_BACKEND=tensorflow python distributed_training.py mirrored results.json
KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=8 python distributed_training.py sharded results.json
KERAS_BACKEND=jax python distributed_training.py process results.json 127.0.0.1:12345 2 0
"""

import contextlib
import itertools
import json
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np

from krpe_tf import BucketedBias, DecayBias, LearnedBias
from krpe_tf.models import Encoder, MaskedLM, TextClassifier
from krpe_tf.training import (
    GlobalAdamW,
    GlobalLossScaleOptimizer,
    compile_classifier,
    compile_masked_lm,
    make_distribution,
    make_optimizer,
)

STEPS = 4
ROWS = 8
VOCABULARY = 40
BIASES = {
    "decay": lambda: DecayBias(4, radius=3),
    "bucketed": lambda: BucketedBias(4, num_buckets=8, max_distance=12),
    "learned": lambda: LearnedBias(4, max_distance=6),
}
BUCKETED_PER_LAYER = {"bias": "bucketed", "num_layers": 2, "shared": False}


def batches(task, uneven=False):
    """`STEPS` batches of numpy arrays. Rows hold different numbers of tokens, and of masked tokens.

    With `uneven`, the second and third have fewer rows than the others.
    """
    rng = np.random.default_rng(3)
    for step in range(STEPS):
        n, rows = 20, ROWS - step % 3 if uneven else ROWS
        token_ids = rng.integers(5, VOCABULARY, (rows, n)).astype("int32")
        inputs = {
            "token_ids": token_ids,
            "padding_mask": (np.arange(n) < rng.integers(3, n + 1, (rows, 1))).astype("int32"),
        }
        if task == "classifier":
            # The last rows only fill the batch.
            yield inputs, rng.integers(0, 3, rows).astype("int32"), (np.arange(rows) < rows - 3).astype("float32")
            continue
        inputs["mask_positions"] = np.sort(rng.integers(0, n, (rows, 4)), axis=1).astype("int32")
        labels = np.take_along_axis(token_ids, inputs["mask_positions"], axis=1)
        # The first rows hold more masked tokens than the last.
        yield inputs, labels, (np.arange(4) < np.linspace(4, 1, rows).round()[:, None]).astype("float32")


def dataset(task, process_index=0, process_count=1, uneven=False):
    """The batches, over and over: of a process its rows."""
    made = [
        keras.tree.map_structure(lambda x: np.split(x, process_count)[process_index] if process_count > 1 else x, batch)
        for batch in batches(task, uneven)
    ]
    if keras.backend.backend() == "jax":
        return (batch for batch in itertools.cycle(made))
    import tensorflow as tf

    if not uneven:
        stacked = keras.tree.map_structure(lambda *arrays: np.stack(arrays), *made)
        return tf.data.Dataset.from_tensor_slices(stacked).repeat()
    spec = keras.tree.map_structure(lambda x: tf.TensorSpec((None,) * x.ndim, x.dtype), made[0])
    return tf.data.Dataset.from_generator(lambda: iter(made), output_signature=spec).repeat()


def make_model(task, bias="decay", shared=True, policy="float32", dropout=0.0, num_layers=1):
    encoder = Encoder(
        VOCABULARY,
        num_layers,
        4,
        16,
        24,
        num_features=4,
        position_bias=BIASES[bias](),
        share_position_bias=shared,
        dropout=dropout,
        dtype=policy,
        seed=1,
    )
    return MaskedLM(encoder, at_positions=True) if task == "masked_lm" else TextClassifier(encoder, 3)


def train(distribution, task, uneven=False, loss=None, **model_arguments):
    """Per-step losses and accuracies, and the weights after them."""
    keras.utils.set_random_seed(5)
    process = distribution.process_index, distribution.process_count
    with distribution.scope():
        model = make_model(task, **model_arguments)
        # No warm-up to speak of: the second step already moves.
        optimizer = make_optimizer(0.02, steps=20, warmup_fraction=0, clip_norm=0.5)
        (compile_masked_lm if task == "masked_lm" else compile_classifier)(model, optimizer)
        if loss is not None:
            model.compile(optimizer, loss, weighted_metrics=[])
        history = model.fit(
            dataset(task, *process, uneven=uneven), epochs=STEPS, steps_per_epoch=1, verbose=0, shuffle=False
        ).history
    return {name: [float(x) for x in values] for name, values in history.items()}


def keras_loss():
    """What a masked LM is compiled with where the global batch plays no part."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


def mirrored(count):
    """On TensorFlow: one device, and MirroredStrategy over `count` of them; a process cannot have two strategies."""
    count = int(count)
    divide_cpu(count)
    many = make_distribution("data")
    engines = {"none": make_distribution("none"), "data": many}
    results = {"devices": many.num_devices}

    def compare(name, task, **arguments):
        results[name] = compare_engines(engines, name, task, **arguments)

    if count > 2:
        compare("masked_lm uneven", "masked_lm", uneven=True)
        return {**results, **steps(many._engine)}
    compare("masked_lm decay", "masked_lm")
    compare("masked_lm bucketed", "masked_lm", bias="bucketed")
    compare("masked_lm learned, shared", "masked_lm", bias="learned", num_layers=2)
    compare("classifier learned", "classifier", bias="learned")
    compare("classifier bucketed, per layer", "classifier", **BUCKETED_PER_LAYER)
    compare("classifier decay, mixed_float16", "classifier", policy="mixed_float16")
    results["masked_lm Keras' loss"] = train(many, "masked_lm", loss=keras_loss())
    return results


def divide_cpu(count):
    """Make several devices of TensorFlow's one."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)


def command_line(*arguments):
    """On TensorFlow: `python -m krpe_tf` where there are two devices."""
    from krpe_tf.cli import main

    divide_cpu(2)
    sys.exit(main(list(arguments)))


def compare_engines(engines, name, task, **arguments):
    """What `train` returns, by engine."""
    results = {}
    for key, engine in engines.items():
        start = time.process_time()
        results[key] = train(engine, task, **arguments)
        print(f"{name}, {key}: {time.process_time() - start:.1f} s, {results[key]}", flush=True)
    return results


def apply_on(strategy, optimizer_of, gradients):
    """A weight of zeros after one step, replica r with gradient r, or their sum where there is no strategy."""
    import tensorflow as tf

    with contextlib.nullcontext() if strategy is None else strategy.scope():
        weight = keras.Variable(np.zeros(len(gradients[0]), "float32"), name="kernel")
        optimizer = optimizer_of()
        optimizer.build([weight])
    if strategy is None:
        optimizer.apply([tf.reduce_sum(gradients, 0)], [weight])
    else:

        def step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            optimizer.apply([tf.gather(gradients, replica)], [weight])

        tf.function(lambda: strategy.run(step))()
    scale = getattr(optimizer, "dynamic_scale", None)
    return [
        *keras.ops.convert_to_numpy(weight).tolist(),
        *([] if scale is None else [float(keras.ops.convert_to_numpy(scale))]),
    ]


def steps(strategy):
    """One step of our optimizers and of Keras' own."""
    import tensorflow as tf

    # Replicas pull against each other: clipped one by one, they cancel.
    opposed = tf.constant([[3.0, 0.1], [0.0, 0.1], [0.0, 0.0], [-2.0, 0.1]])
    overflowed = tf.constant([[1.0, 1.0], [1.0, np.inf], [1.0, 1.0], [1.0, 1.0]])
    options = {"learning_rate": 0.1, "epsilon": 1.0, "global_clipnorm": 0.5}
    results = {}
    for name, adam, scaled in (
        ("ours", GlobalAdamW, GlobalLossScaleOptimizer),
        ("keras", keras.optimizers.AdamW, keras.optimizers.LossScaleOptimizer),
    ):
        results[f"clipping {name}"] = apply_on(strategy, lambda adam=adam: adam(**options), opposed)
        results[f"overflow {name}"] = apply_on(
            strategy, lambda adam=adam, scaled=scaled: scaled(adam(**options), initial_scale=8.0), overflowed
        )
    results["clipping of the sum"] = apply_on(None, lambda: GlobalAdamW(**options), opposed)
    return results


def sharded():
    """On JAX: one device, the batch cut over 8, and the model over 2 and 4 of them."""
    engines = {name: make_distribution(name) for name in ("none", "data", "model=2", "model=4")}
    results = {"devices": engines["data"].num_devices}
    for name, task, names, arguments in (
        ("masked_lm decay", "masked_lm", ("none", "data", "model=2"), {}),
        ("classifier bucketed, per layer", "classifier", ("none", "model=4"), BUCKETED_PER_LAYER),
    ):
        results[name] = compare_engines({key: engines[key] for key in names}, name, task, **arguments)
    return results


def process(marker, coordinator, count, index):
    """On JAX: one process of several."""
    distribution = make_distribution("data", coordinator, int(count), int(index))
    results = {"devices": distribution.num_devices, "chief": distribution.is_chief}
    results["masked_lm decay"] = train(distribution, "masked_lm")
    with distribution.chief_first():
        results["marker found"] = Path(marker).exists()
        if distribution.is_chief:
            time.sleep(0.5)
            Path(marker).touch()
    return results


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings(
        "ignore", "__array__ implementation doesn't accept", DeprecationWarning
    )  # As pyproject.toml.
    if keras.backend.backend() == "jax":
        import jax

        # As in conftest.py.
        jax.config.update("jax_default_matmul_precision", "highest")
        jax.config.update("jax_disable_most_optimizations", True)
    run, output, *arguments = sys.argv[1:]
    results = {
        "mirrored": mirrored,
        "sharded": sharded,
        "process": process,
        "command_line": command_line,
    }[run](*arguments)
    Path(output).write_text(json.dumps(results), encoding="utf-8")
