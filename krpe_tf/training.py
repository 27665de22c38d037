"""Training through `model.fit`: the optimizer, its schedule, and compiling."""

import keras
import numpy as np

from ._checks import check_at_least, check_one_of, check_rate
from .global_batch import GlobalAdamW, GlobalCrossEntropy, GlobalLossScaleOptimizer
from .schedules import LinearDecay


def make_optimizer(
    learning_rate: float,
    steps: int,
    warmup_fraction: float = 0.1,
    weight_decay: float = 0.01,
    clip_norm: float = 1.0,
    decay: str = "cosine",
    beta_1: float = 0.9,
    beta_2: float = 0.98,
    epsilon: float = 1e-7,
) -> keras.optimizers.Optimizer:
    """AdamW with a linear warm-up, a decay to zero, and clipping of the gradient's global norm.

    Weight decay leaves biases, norm scales and position biases alone. On several replicas the gradient is that of the
    global batch, see `GlobalAdamW`.

    Args:
        learning_rate: the peak, positive.
        steps: optimizer steps in all, at least 1; the rate is zero from there on.
        warmup_fraction: share of `steps` that warm up, in [0, 1).
        weight_decay: AdamW's, relative to the learning rate.
        clip_norm: the largest global norm of a step's gradient, positive.
        decay: "cosine" or "linear", from the peak to zero.
        beta_1: Adam's, in [0, 1).
        beta_2: Adam's, in [0, 1).
        epsilon: Adam's, positive.

    Raises:
        ValueError: for numbers out of these ranges.
    """
    check_at_least(1, steps=steps)
    check_one_of(("cosine", "linear"), decay=decay)
    check_rate(warmup_fraction=warmup_fraction, beta_1=beta_1, beta_2=beta_2)
    for name, value in {"learning_rate": learning_rate, "clip_norm": clip_norm, "epsilon": epsilon}.items():
        if not isinstance(value, (int, float, np.number)) or not value > 0:
            raise ValueError(f"{name} must be positive. Received: {name}={value!r}")
    if not isinstance(weight_decay, (int, float, np.number)) or not weight_decay >= 0:
        raise ValueError(f"weight_decay must be at least 0. Received: weight_decay={weight_decay!r}")
    warmup = max(1, int(warmup_fraction * steps))
    if decay == "linear":
        schedule = LinearDecay(learning_rate, steps, warmup)
    else:
        schedule = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0,
            decay_steps=max(1, steps - warmup),
            warmup_target=learning_rate,
            warmup_steps=warmup,
        )
    return GlobalAdamW(
        schedule,
        weight_decay=weight_decay,
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=epsilon,
        global_clipnorm=clip_norm,
    )


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


def class_probabilities(logits) -> np.ndarray:
    """Softmax of logits (batch, classes), in numpy."""
    logits = np.asarray(logits, "float64")
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)
