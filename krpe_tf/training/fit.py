"""`model.fit` in intervals that end with a checkpoint, so that a killed run resumes bit for bit."""

import dataclasses
import gc
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from ..checks import check_at_least
from .checkpoint_callback import CheckpointCallback, EarlyStopping
from .checkpoints import Checkpoint, Checkpoints
from .distribution import ONE_DEVICE, Distribution

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """How long a phase trains, and how often it validates and saves.

    Args:
        steps: Optimizer steps in all.
        validate_every: Steps from one validation to the next; `steps` if None. The last step is validated too.
        checkpoint_every: Steps from one checkpoint to the next, approximately: checkpoints lie at ends of intervals.
        patience: Validations whose loss does not improve before training stops; the best weights are restored at the
            end. None: no early stopping, the last weights.
        validation_steps: Batches of a validation at most; None for all.
        phase: Names this part of a run in logs, checkpoints and histories; letters, digits and "_".

    Raises:
        ValueError: For numbers out of range.
    """

    steps: int
    validate_every: int | None = None
    checkpoint_every: int = 100
    patience: int | None = None
    validation_steps: int | None = None
    phase: str = "training"

    def __post_init__(self):  # noqa: D105
        check_at_least(1, steps=self.steps, checkpoint_every=self.checkpoint_every)
        for name in ("validate_every", "patience", "validation_steps"):
            if getattr(self, name) is not None:
                check_at_least(1, **{name: getattr(self, name)})
        if not isinstance(self.phase, str) or not re.fullmatch(r"\w+", self.phase):
            raise ValueError(f'`phase` must be letters, digits and "_". Received: phase={self.phase!r}')

    def divide(self, checkpointed: bool) -> tuple[int, int]:
        """Return how many intervals make a validation, and the steps of one; one interval without checkpoints."""
        validate_every = self.validate_every or self.steps
        parts = math.ceil(validate_every / self.checkpoint_every) if checkpointed else 1
        return parts, math.ceil(validate_every / parts)


def fit(
    model: keras.Model,
    batches,
    budget: Budget,
    validation=None,
    checkpoints: Checkpoints | None = None,
    distribution: Distribution = ONE_DEVICE,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, list]:
    """Train a compiled model with one `model.fit`, resuming from the newest checkpoint if there is one.

    What Keras calls an epoch, in its progress bar and in TensorBoard, is here an interval: `validate_every` divided
    into equal parts of at most `checkpoint_every` steps, rounded up to whole steps; undivided without `checkpoints`.
    A run starts and stops at ends of intervals, so that everything in a checkpoint (weights, seeds, optimizer, history,
    early stopping) and the batches to come are those of a run that was never stopped.

    Several phases share one `Checkpoints`: a phase that an earlier run finished returns its history at once. The model
    then holds the phase's last weights or, where a later phase has begun, is left as it is.

    Args:
        model: Compiled; the same as in the run that is resumed.
        batches: Its `training_data(start_step, process_index, process_count)` returns what `model.fit` takes: the
            batches from a step on. `krpe_tf.data.Batches` are such batches.
        budget: Steps, intervals and patience.
        validation: Its `validation_data(process_index, process_count, steps)` returns validation batches, the same ones
            at every call; or what `model.fit` takes as `validation_data`; None for no validation.
        checkpoints: Where checkpoints are kept; None for no checkpoints.
        distribution: The processes that train together; its chief writes.
        callbacks: More callbacks. What they remember themselves does not outlive a kill; TensorBoard continues.

    Returns:
        The history: one value per interval of "step" (its last) and of the loss and metrics (means over it); one value
        per validation of "val_step" and of the validation's loss and metrics.

    Raises:
        DivergedError: A ValueError: a loss or the weights are not finite. The last checkpoint is from before.
        ValueError: For a `patience` without validation, a checkpoint of another model, or of other steps or intervals,
            or processes that do not find the same checkpoint.
        OSError: If a checkpoint cannot be written; the earlier ones stay.
    """
    verbose = "auto" if distribution.is_chief else 0
    return _fit(model, batches, budget, validation, checkpoints, distribution, callbacks, verbose)


def fit_resumably(
    model: keras.Model, batches, steps: int, *, process_index=0, process_count=1, verbose="auto", **arguments
) -> dict[str, list]:
    """Train as `fit` does, with the arguments of krpe_tf 0.1.

    Args:
        model, batches: See `fit`.
        steps: Optimizer steps in all.
        process_index: Which of the processes that train together this is.
        process_count: How many there are.
        verbose: See `model.fit`.
        **arguments: `checkpoints`, `validation` and `callbacks` of `fit`; `phase`, `checkpoint_every`, `patience` and
            `validation_every` (now `validate_every`) of `Budget`.

    Returns:
        The history, as `fit` does.

    Raises:
        ValueError: As `fit`.
    """
    names = {field.name for field in dataclasses.fields(Budget)} - {"steps", "validation_steps"}
    if "validation_every" in arguments:
        arguments["validate_every"] = arguments.pop("validation_every")
    budget = Budget(steps, **{name: arguments.pop(name) for name in names & set(arguments)})
    processes = Distribution("none", None, process_index, process_count, process_count, process_count)
    passed = {"validation": None, "checkpoints": None, "callbacks": ()}
    unknown = set(arguments) - set(passed)
    if unknown:
        raise TypeError(f"fit_resumably() got unexpected arguments {', '.join(sorted(unknown))}")
    return _fit(model, batches, budget, distribution=processes, verbose=verbose, **{**passed, **arguments})


def _fit(model, batches, budget, validation, checkpoints, distribution, callbacks, verbose):
    if budget.patience is not None and validation is None:
        raise ValueError(f"`patience` needs a validation. Received: patience={budget.patience}, validation=None")
    parts, interval = budget.divide(checkpointed=checkpoints is not None)
    intervals = math.ceil(budget.steps / interval)
    early_stopping = EarlyStopping(budget.patience)
    progress = CheckpointCallback(
        budget.phase,
        budget.steps,
        interval,
        max(1, budget.checkpoint_every // interval),
        checkpoints,
        early_stopping,
        [each for each in callbacks if isinstance(each, keras.callbacks.TensorBoard)],
    )
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if checkpoints and not _resume(model, progress, checkpoints, distribution):
        return progress.history
    if not progress.finished:
        processes = distribution.process_index, distribution.process_count
        # Batches written for 0.1 have `dataset` alone.
        training_data = getattr(batches, "training_data", None) or batches.dataset
        model.fit(
            training_data(progress.step, *processes),
            epochs=intervals,
            initial_epoch=progress.step // interval,
            steps_per_epoch=interval,
            validation_freq=[*range(parts, intervals, parts), intervals],
            shuffle=False,
            callbacks=[early_stopping, *callbacks, progress],
            verbose=verbose,
            **_validation(validation, budget.validation_steps, *processes),
        )
        # Otherwise an iterator over the batches may outlive the interpreter, which TensorFlow reports as an error.
        gc.collect()
    early_stopping.restore_best(model)
    return progress.history


def _resume(model, progress, checkpoints, distribution) -> bool:
    """Restore the newest checkpoint; False if the model is to be left alone, as a later phase has begun."""
    saved = checkpoints.restore()
    if distribution.process_count > 1:
        _check_all_found(saved)
    if saved is None:
        return True
    progress.histories = saved.state["histories"]
    if saved.state["phase"] != progress.phase:
        return progress.phase not in progress.histories
    progress.restore(model, saved)
    if not progress.finished:
        logger.info("resuming %s at step %d from %s", progress.phase, progress.step, saved.path.name)
    return True


def _validation(validation, steps, process_index, process_count) -> dict:
    """Return the arguments of `model.fit` for a validation."""
    if hasattr(validation, "validation_data"):
        return {"validation_data": validation.validation_data(process_index, process_count, steps=steps)}
    return {"validation_data": validation, "validation_steps": steps}


def _check_all_found(saved: Checkpoint | None):
    """Raise a ValueError unless every process has found the same checkpoint."""
    from jax.experimental import multihost_utils

    numbers = np.ravel(multihost_utils.process_allgather(np.array(saved.number if saved else 0)))
    if len(set(numbers.tolist())) > 1:
        raise ValueError(
            "`checkpoints` must be a folder that all processes share and can read. Received: the newest checkpoint of "
            f"each process has number {', '.join(map(str, numbers))}"
        )
