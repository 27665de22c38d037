"""Compiles models for training."""

import keras

from .losses import GlobalCrossEntropy
from .optimizer import GlobalLossScaleOptimizer


def compile_masked_lm(model: keras.Model, optimizer: keras.optimizers.Optimizer, **compile_arguments) -> None:
    """Compiles a `MaskedLM`: the cross-entropy over selected positions, in nats, and their accuracy.

    Loss and metrics are weighted by the batches' `sample_weight`, so positions that are not selected do not count. The
    loss is the mean over the selected positions of the global batch, however many devices share it.
    """
    _compile(model, optimizer, **compile_arguments)


def compile_classifier(model: keras.Model, optimizer: keras.optimizers.Optimizer, **compile_arguments) -> None:
    """Compiles a `TextClassifier`: the cross-entropy in nats, and the accuracy.

    Both are weighted by `sample_weight` where the batches have one: a row of weight 0 fills a short batch.
    Not by XLA on TensorFlow unless asked: it would compile once for each length of batch.
    """
    if keras.backend.backend() == "tensorflow":
        compile_arguments.setdefault("jit_compile", False)
    _compile(model, optimizer, **compile_arguments)


def _compile(model, optimizer, **compile_arguments):
    policy = getattr(model, "encoder", model).dtype_policy
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if policy.name == "mixed_float16" and compile_arguments.get("auto_scale_loss", True) and not scaled:
        optimizer = GlobalLossScaleOptimizer(optimizer)
    if not optimizer.built:
        # Else TensorFlow would trace the first step twice, and under a strategy make its variables in a replica.
        optimizer.build(model.trainable_variables)
    model.compile(
        optimizer,
        GlobalCrossEntropy(),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        **compile_arguments,
    )
