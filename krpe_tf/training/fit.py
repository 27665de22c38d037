"""`model.fit` in intervals that end with a checkpoint, so that a run that was killed goes on as if it had not been."""

import gc
import logging
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from ..checks import check_at_least
from .checkpoints import Checkpoint, Checkpoints, to_numpy

if TYPE_CHECKING:
    import tensorflow as tf

    from ..data import Batches

logger = logging.getLogger(__name__)


class DivergedError(ValueError):
    """The loss or the weights stopped being finite. Attributes: `phase`, `step`."""

    def __init__(self, phase: str, step: int, what: str):
        super().__init__(
            f"loss and weights must stay finite, training has stopped. Received: {what} in {phase} at step {step}"
        )
        self.phase = phase
        self.step = step


def fit_resumably(
    model: keras.Model,
    batches: "Batches",
    steps: int,
    *,
    phase: str = "training",
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int = 100,
    validation: "tf.data.Dataset | None" = None,
    validation_every: int | None = None,
    patience: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    process_index: int = 0,
    process_count: int = 1,
    verbose: str | int = "auto",
) -> dict[str, list]:
    """Trains a compiled model with one `model.fit`, and goes on from the newest checkpoint where there is one.

    What Keras calls an epoch, in its progress bar and in TensorBoard, is here an interval: `validation_every` cut into
    equal parts of at most `checkpoint_every` steps, rounded up to whole steps; uncut without `checkpoints`. A run
    begins and ends at the end of an interval, so that everything in a checkpoint - weights, seeds, optimizer, history,
    early stopping - and the batches to come are those of a run that was never stopped.

    Several phases share one `Checkpoints`: a phase that an earlier run finished returns its history at once. The
    model then holds the phase's last weights, or, where a later phase has begun, is left as it is.

    Args:
        model: compiled; the same as in the run that is resumed.
        batches: its `dataset(start_step, process_index, process_count)` gives the training batches from a step on.
        steps: optimizer steps in all.
        phase: names this part of the run; letters, digits and "_".
        checkpoints: where to; None for none.
        checkpoint_every: steps from one checkpoint to the next, about: checkpoints lie at ends of intervals.
        validation: validation batches, the same each time; None for none.
        validation_every: steps from one validation to the next; `steps` if None. The last step is validated too.
        patience: validations whose loss does not improve before training stops. The weights of the best one are
            restored at the end. None: no early stop, the last weights.
        callbacks: more callbacks. What they remember themselves does not outlive a kill; TensorBoard goes on.
        process_index: which of the processes that train together this is.
        process_count: how many there are.
        verbose: see `model.fit`.

    Returns:
        The history: one value an interval of "step" (its last) and of the loss and metrics (means over it); one value a
        validation of "val_step" and the validation's.

    Raises:
        DivergedError: a ValueError: a loss or the weights are not finite. The last checkpoint is from before.
        ValueError: for numbers out of range, a checkpoint of another model, or of other `steps` or intervals, or
            processes that do not find the same one.
        OSError: if a checkpoint cannot be written; the earlier ones stay.
    """
    validation_every = steps if validation_every is None else validation_every
    check_at_least(1, steps=steps, checkpoint_every=checkpoint_every, validation_every=validation_every)
    if not re.fullmatch(r"\w+", phase):
        raise ValueError(f'phase must be letters, digits and "_". Received: phase={phase!r}')
    if patience is not None:
        check_at_least(1, patience=patience)
        if validation is None:
            raise ValueError(f"patience needs a validation. Received: patience={patience}, validation=None")
    parts = math.ceil(validation_every / checkpoint_every) if checkpoints else 1
    interval = math.ceil(validation_every / parts)
    intervals = math.ceil(steps / interval)
    early_stopping = _EarlyStopping(patience)
    writers = [each for each in callbacks if isinstance(each, keras.callbacks.TensorBoard)]
    keeper = _Keeper(phase, steps, interval, max(1, checkpoint_every // interval), checkpoints, early_stopping, writers)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)

    saved = checkpoints.restore() if checkpoints else None
    if checkpoints and process_count > 1:
        _check_all_found(saved)
    if saved is not None:
        keeper.histories = saved.state["histories"]
        if saved.state["phase"] == phase:
            keeper.restore(model, saved)
            if not keeper.finished:
                logger.info("%s goes on after step %d, from %s", phase, keeper.step, saved.path.name)
        elif phase in keeper.histories:
            return keeper.history
    if not keeper.finished:
        model.fit(
            batches.dataset(keeper.step, process_index, process_count),
            epochs=intervals,
            initial_epoch=keeper.step // interval,
            steps_per_epoch=interval,
            validation_data=validation,
            validation_freq=[*range(parts, intervals, parts), intervals],
            shuffle=False,
            callbacks=[early_stopping, *callbacks, keeper],
            verbose=verbose,
        )
        # Else an iterator over the batches may outlive the interpreter, which TensorFlow reports as an error.
        gc.collect()
    if early_stopping.best_weights is not None:
        for weight, best in zip(model.weights, early_stopping.best_weights, strict=True):
            weight.assign(best)
    return keeper.history


class _EarlyStopping(keras.callbacks.Callback):
    """Keras' own takes each interval without a validation for a mistake, and cannot gather weights from processes."""

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


class _Keeper(keras.callbacks.Callback):
    """Counts steps, watches the loss, writes the history, and saves and restores checkpoints."""

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
        return self.histories.setdefault(self.phase, {})

    def on_train_batch_end(self, batch, logs=None):
        # The mean over an interval keeps what is not finite, so no step is missed.
        step = self.step + batch + 1
        if not np.isfinite(logs["loss"]):
            raise DivergedError(self.phase, step, f"loss={logs['loss']}")
        if step >= self.steps:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        self.step = min((epoch + 1) * self.interval, self.steps)
        self.finished = self.model.stop_training
        validated = any(name.startswith("val_") for name in logs)
        if validated and not np.isfinite(logs["val_loss"]):
            raise DivergedError(self.phase, self.step, f"val_loss={logs['val_loss']}")
        for name, value in {"step": self.step, **({"val_step": self.step} if validated else {}), **logs}.items():
            self.history.setdefault(name, []).append(value)
        if self.checkpoints and (self.finished or (epoch + 1) % self.save_every == 0):
            self.save()

    def save(self):
        self.flush_logs()
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

    def flush_logs(self):
        """Else a kill would lose what TensorBoard still holds back of the steps before this checkpoint."""
        for tensorboard in self.tensorboards:
            import tensorflow as tf

            try:
                for writer in tensorboard._writers.values():
                    writer.flush()
            except tf.errors.OpError as error:
                raise OSError(f"logs cannot be written ({error.message}); the earlier checkpoints stay") from error

    def restore(self, model: keras.Model, saved: Checkpoint):
        for name in ("steps", "interval"):
            if saved.state[name] != getattr(self, name):
                raise ValueError(
                    "steps, checkpoint_every and validation_every must be those of the run that the checkpoint is of, "
                    f"which had {name}={saved.state[name]}. Received: {name}={getattr(self, name)}, {saved.path}"
                )
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
                    f"model must be the one that the checkpoint is of, its {group} has other variables. "
                    f"Received: {len(shapes)} variables for {len(found)} arrays of {saved.path}"
                )
            for variable, array in zip(variables, groups[group], strict=True):
                variable.assign(array)


def _check_all_found(saved: Checkpoint | None):
    """Raises a ValueError unless every process has found the same checkpoint."""
    from jax.experimental import multihost_utils

    numbers = np.ravel(multihost_utils.process_allgather(np.array(saved.number if saved else 0)))
    if len(set(numbers.tolist())) > 1:
        raise ValueError(
            "checkpoints must be a folder that all processes share, and can read. Received: the newest checkpoint of "
            f"each process has number {', '.join(map(str, numbers))}"
        )


def _variables(model: keras.Model) -> dict[str, list]:
    """The variables that training changes: weights, seeds of dropout, optimizer."""
    return {"model": model.variables, "optimizer": model.optimizer.variables}
