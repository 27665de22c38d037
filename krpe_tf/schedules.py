"""The learning-rate schedule that Keras lacks."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("krpe_tf")
class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up from zero, then a linear decay to zero: the schedule of the paper's Table 5.

    Args:
        learning_rate: the peak, reached after `warmup_steps`.
        steps: steps in all; the rate is zero from there on.
        warmup_steps: steps of the warm-up, at least 1.
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
