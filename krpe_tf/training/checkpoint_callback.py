"""What one `model.fit` of a resumable training needs beside the model: the history, checkpoints, early stopping."""

import keras
import numpy as np

from .checkpoints import Checkpoint, to_numpy


class DivergedError(ValueError):
    """The loss or the weights stopped being finite.

    Attributes: `phase`; `step`, the last step of the interval in which it happened.
    """

    def __init__(self, phase: str, step: int, what: str, first_step: int | None = None):
        steps = f"at step {step}" if first_step in (None, step) else f"in steps {first_step} to {step}"
        super().__init__(
            f"loss and weights must stay finite; training has stopped. Received: {what} of phase {phase!r} {steps}"
        )
        self.phase = phase
        self.step = step


class EarlyStopping(keras.callbacks.Callback):
    """Stop when the validation loss has not improved `patience` times in a row, and remember the best weights.

    Keras' own callback warns after each interval without a validation, and cannot read weights that are spread over
    several processes.

    Args:
        patience: Validations without improvement; None never stops and remembers nothing.
    """

    def __init__(self, patience: int | None):
        super().__init__()
        self.patience = patience
        self.best = None
        self.wait = 0
        self.best_weights = None

    def on_epoch_end(self, epoch, logs=None):
        if self.patience is None or "val_loss" not in logs:
            return
        if self.best is None or logs["val_loss"] < self.best:
            self.best = logs["val_loss"]
            self.wait = 0
            self.best_weights = [to_numpy(weight) for weight in self.model.weights]
            return
        self.wait += 1
        if self.wait >= self.patience:
            self.model.stop_training = True

    def restore_best(self, model: keras.Model) -> None:
        """Give `model` the best weights, if any were remembered."""
        if self.best_weights is not None:
            for weight, best in zip(model.weights, self.best_weights, strict=True):
                weight.assign(best)


class CheckpointCallback(keras.callbacks.Callback):
    """Count steps, check losses, keep the history, and save and restore checkpoints.

    It has no `on_train_batch_end`: a callback with one that Keras may not run in another thread makes every step wait
    for its loss. A mean over an interval that holds a NaN is NaN, so the check at the interval's end misses none.
    """

    def __init__(self, phase, steps, interval, save_every, checkpoints, early_stopping, tensorboards):
        super().__init__()
        self.phase = phase
        self.steps = steps
        self.interval = interval
        self.save_every = save_every
        self.checkpoints = checkpoints
        self.early_stopping = early_stopping
        self.tensorboards = tensorboards
        self.step = 0
        self.finished = False
        self.histories = {}

    @property
    def history(self) -> dict[str, list]:
        """The history of this phase."""
        return self.histories.setdefault(self.phase, {})

    def on_train_batch_begin(self, batch, logs=None):
        # Keras looks at it after the step that begins here.
        if self.step + batch + 1 >= self.steps:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        first, self.step = self.step + 1, min((epoch + 1) * self.interval, self.steps)
        self.finished = self.model.stop_training
        if not np.isfinite(logs["loss"]):
            raise DivergedError(self.phase, self.step, f"loss={logs['loss']}", first)
        validated = any(name.startswith("val_") for name in logs)
        if validated and not np.isfinite(logs["val_loss"]):
            raise DivergedError(self.phase, self.step, f"val_loss={logs['val_loss']}")
        for name, value in {"step": self.step, **({"val_step": self.step} if validated else {}), **logs}.items():
            self.history.setdefault(name, []).append(value)
        if self.checkpoints and (self.finished or (epoch + 1) % self.save_every == 0):
            self.save()

    def save(self):
        """Save a checkpoint of this step."""
        self._flush_logs()
        state = {
            "phase": self.phase,
            "step": self.step,
            "steps": self.steps,
            "interval": self.interval,
            "finished": self.finished,
            "histories": self.histories,
            "early_stopping": {"best": self.early_stopping.best, "wait": self.early_stopping.wait},
        }
        groups = {**_variables(self.model), "best": self.early_stopping.best_weights or []}
        arrays = {f"{group}/{index}": value for group, values in groups.items() for index, value in enumerate(values)}
        try:
            self.checkpoints.save(arrays, state, f"{self.phase}-{self.step}")
        except ValueError as error:
            raise DivergedError(self.phase, self.step, str(error)) from error

    def restore(self, model: keras.Model, saved: Checkpoint):
        """Give `model` and this callback the state of a checkpoint of the same phase.

        Raises:
            ValueError: For a checkpoint of another model, or of other steps or intervals.
        """
        check_resumable(saved, self.steps, self.interval)
        self.step = saved.state["step"]
        self.finished = saved.state["finished"]
        self.early_stopping.best = saved.state["early_stopping"]["best"]
        self.early_stopping.wait = saved.state["early_stopping"]["wait"]
        groups = {}
        for name, array in saved.arrays.items():
            groups.setdefault(name.partition("/")[0], []).append(array)
        self.early_stopping.best_weights = groups.get("best")
        for group, variables in _variables(model).items():
            shapes, found = [tuple(v.shape) for v in variables], [array.shape for array in groups[group]]
            if shapes != found:
                raise ValueError(
                    f"`model` must be the one that the checkpoint is of, its {group} has other variables. "
                    f"Received: {len(shapes)} variables for {len(found)} arrays of {saved.path}"
                )
            for variable, array in zip(variables, groups[group], strict=True):
                variable.assign(array)

    def _flush_logs(self):
        """Bring to the disk what TensorBoard holds back: a kill would lose it, and a resumed run not log it again."""
        for tensorboard in self.tensorboards:
            import tensorflow as tf

            try:
                for writer in tensorboard._writers.values():
                    writer.flush()
            except tf.errors.OpError as error:
                raise OSError(f"logs cannot be written ({error.message}); the earlier checkpoints stay") from error


def check_resumable(saved: Checkpoint, steps: int, interval: int) -> None:
    """Raise a ValueError unless a phase of so many steps, in such intervals, can resume from a checkpoint of it."""
    for name, value in {"steps": steps, "interval": interval}.items():
        if saved.state[name] != value:
            raise ValueError(
                "`steps`, `checkpoint_every` and `validate_every` must be those of the run that the checkpoint is of, "
                f"which had {name}={saved.state[name]}. Received: {name}={value}, {saved.path}"
            )


def _variables(model: keras.Model) -> dict[str, list]:
    """Return the variables that training changes: weights, seeds of dropout, optimizer."""
    return {"model": model.variables, "optimizer": model.optimizer.variables}
