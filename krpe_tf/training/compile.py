"""Compile models for training."""

import keras

from .losses import GlobalCrossEntropy
from .optimizer import GlobalLossScaleOptimizer


def compile_model(model: keras.Model, optimizer: keras.optimizers.Optimizer | str, **compile_arguments) -> None:
    """Compile a model of `krpe_tf.models` for training: cross-entropy in nats and accuracy, unless there is a `loss`.

    Loss and accuracy are weighted by the batches' `sample_weight`, so that masked positions, words and rows of padding
    count as the task wants. The loss is the mean over the global batch, however many devices share it.

    Args:
        model: The model; with the policy "mixed_float16" the loss is scaled.
        optimizer: See `make_optimizer`.
        **compile_arguments: More arguments of `model.compile`. `jit_compile` is False on TensorFlow unless given: XLA
            would compile once for each length of batch. `weighted_metrics` are measured beside the accuracy; with a
            `loss` alone.
    """
    optimizer = keras.optimizers.get(optimizer)
    loss, metrics = compile_arguments.pop("loss", None), list(compile_arguments.pop("weighted_metrics", ()))
    if loss is None:
        loss = GlobalCrossEntropy()
        metrics.insert(0, keras.metrics.SparseCategoricalAccuracy(name="accuracy"))
    if keras.backend.backend() == "tensorflow":
        compile_arguments.setdefault("jit_compile", False)
    policy = getattr(model, "encoder", model).dtype_policy
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if policy.name == "mixed_float16" and compile_arguments.get("auto_scale_loss", True) and not scaled:
        optimizer = GlobalLossScaleOptimizer(optimizer)
    if not optimizer.built:
        # Otherwise TensorFlow traces the first step twice, and under a strategy makes the variables in a replica.
        optimizer.build(model.trainable_variables)
    model.compile(optimizer, loss, weighted_metrics=metrics, **compile_arguments)


def compile_masked_lm(model: keras.Model, optimizer: keras.optimizers.Optimizer, **compile_arguments) -> None:
    """Compile a `MaskedLM`; see `compile_model`. XLA is left to Keras, as its batches have one shape."""
    compile_model(model, optimizer, **{"jit_compile": "auto", **compile_arguments})


def compile_classifier(model: keras.Model, optimizer: keras.optimizers.Optimizer, **compile_arguments) -> None:
    """Compile a `TextClassifier`; see `compile_model`."""
    compile_model(model, optimizer, **compile_arguments)
