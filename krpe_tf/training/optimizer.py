"""AdamW on the gradient of the global batch, and the learning-rate schedules that Keras lacks."""

import inspect

import keras
import numpy as np
from keras import ops

from ..checks import check_at_least, check_one_of, check_rate
from .replicas import sum_over_replicas


def check_optimizer(**arguments) -> None:
    """Check arguments of `make_optimizer` without making one: it computes nothing, so processes need not have met.

    Args:
        **arguments: Any of its arguments by name; the others have their defaults.

    Raises:
        ValueError: For numbers out of the ranges that `make_optimizer` names.
    """
    bound = inspect.signature(make_optimizer).bind(**{"learning_rate": 1.0, "steps": 1, **arguments})
    bound.apply_defaults()
    _check(**bound.arguments)


def _check(learning_rate, steps, warmup_fraction, weight_decay, clip_norm, decay, beta_1, beta_2, epsilon) -> None:
    check_at_least(1, steps=steps)
    check_one_of(("cosine", "linear", "inverse_sqrt"), decay=decay)
    check_rate(warmup_fraction=warmup_fraction, beta_1=beta_1, beta_2=beta_2)
    for name, value in {"learning_rate": learning_rate, "clip_norm": clip_norm, "epsilon": epsilon}.items():
        if not isinstance(value, (int, float, np.number)) or not value > 0:
            raise ValueError(f"`{name}` must be positive. Received: {name}={value!r}")
    if not isinstance(weight_decay, (int, float, np.number)) or not weight_decay >= 0:
        raise ValueError(f"`weight_decay` must be at least 0. Received: weight_decay={weight_decay!r}")


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
    """Make an AdamW with linear warm-up, a decay, and clipping of the gradient's global norm.

    Weight decay leaves biases, norm scales and position biases alone. On several replicas the gradient is that of the
    global batch, see `GlobalAdamW`.

    Args:
        learning_rate: The peak, positive.
        steps: Optimizer steps in all, at least 1; the rate is zero from there on, except with "inverse_sqrt".
        warmup_fraction: Share of `steps` that warm up, in [0, 1).
        weight_decay: AdamW's, relative to the learning rate.
        clip_norm: The largest global norm of a step's gradient, positive.
        decay: "cosine" or "linear", from the peak to zero; or "inverse_sqrt": the peak divided by the square root of
            the step over the steps of the warm-up.
        beta_1: Adam's, in [0, 1).
        beta_2: Adam's, in [0, 1).
        epsilon: Adam's, positive.

    Raises:
        ValueError: For numbers out of these ranges.
    """
    _check(learning_rate, steps, warmup_fraction, weight_decay, clip_norm, decay, beta_1, beta_2, epsilon)
    warmup = max(1, int(warmup_fraction * steps))
    if decay == "linear":
        schedule = LinearDecay(learning_rate, steps, warmup)
    elif decay == "inverse_sqrt":
        schedule = InverseSquareRootDecay(learning_rate, warmup)
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


@keras.saving.register_keras_serializable("krpe_tf")
class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up from zero, then a linear decay to zero: the schedule of the paper's Table 5.

    Args:
        learning_rate: The peak, reached after `warmup_steps`.
        steps: Steps in all; the rate is zero from there on.
        warmup_steps: Steps of the warm-up, at least 1.
    """

    def __init__(self, learning_rate: float, steps: int, warmup_steps: int):
        super().__init__()
        self.learning_rate = learning_rate
        self.steps = steps
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rising = step / self.warmup_steps
        falling = (self.steps - step) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * ops.maximum(0.0, ops.minimum(rising, falling))

    def get_config(self):
        return {"learning_rate": self.learning_rate, "steps": self.steps, "warmup_steps": self.warmup_steps}


@keras.saving.register_keras_serializable("krpe_tf")
class InverseSquareRootDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up from zero, then a decay by the inverse square root of the step: the paper's section 4.2.

    Args:
        learning_rate: The peak, reached after `warmup_steps`.
        warmup_steps: Steps of the warm-up, at least 1.
    """

    def __init__(self, learning_rate: float, warmup_steps: int):
        super().__init__()
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        share = ops.cast(step, "float32") / self.warmup_steps
        return self.learning_rate * ops.minimum(share, ops.rsqrt(ops.maximum(share, 1.0)))

    def get_config(self):
        return {"learning_rate": self.learning_rate, "warmup_steps": self.warmup_steps}


# Decay would not simplify these: a position bias of zero drops positions, a scale of zero drops the signal.
NOT_DECAYED = ("bias", "gamma", "beta", "near", "table", "class_weights", "log_amplitude", "log_rate")


@keras.saving.register_keras_serializable("krpe_tf")
class GlobalAdamW(keras.optimizers.AdamW):
    """AdamW on the gradient of the global batch: summed over replicas before it is clipped.

    Weight decay leaves biases, norm scales and position biases alone: the weights named in `NOT_DECAYED`. A gradient
    of rows, as an embedding's is, is first summed over equal rows; Keras would clip and square each of them alone.

    Args: Those of `keras.optimizers.AdamW`.
    """

    def build(self, variables):
        if not self.built:
            # By the weight itself: Keras would match each name anywhere in the path.
            self.exclude_from_weight_decay(var_list=[v for v in variables if v.name in NOT_DECAYED])
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            known = [i for i, gradient in enumerate(grads) if gradient is not None]
            summed = sum_over_replicas([tf.convert_to_tensor(grads[i]) for i in known])
            grads = list(grads)
            for i, gradient in zip(known, summed, strict=True):
                grads[i] = gradient
        super().apply(grads, trainable_variables)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        """Return them as they are: Keras sums here, after clipping, and `apply` has summed already."""
        return list(grads_and_vars)


@keras.saving.register_keras_serializable("krpe_tf")
class GlobalLossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Loss scaling that skips a step if the gradient of any replica has overflowed.

    Args: Those of `keras.optimizers.LossScaleOptimizer`.
    """

    def check_finite(self, grads):
        finite = super().check_finite(grads)
        return ops.equal(sum_over_replicas(ops.cast(ops.logical_not(finite), "float32")), 0)
