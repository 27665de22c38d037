"""Trains a run, from texts to a run folder."""

import contextlib
import json
import logging
import os
from pathlib import Path

import keras

from ..data import LabelledTexts, PreparedTexts, split_holdout
from ..files import locked, make_directory
from ..models import Encoder
from ..models.presets import preset_arguments
from ..text import Tokenizer, WordPieceTokenizer, train_wordpiece
from ..training import ONE_DEVICE, Distribution, DivergedError
from .folder import save_run
from .phases import classifier_model, fit_classifier, fit_masked_lm, masked_lm_model
from .run_data import RunData, labelled_run_data, prepared_identity, prepared_run_data
from .settings import RunSettings
from .state import RunState, fingerprint

logger = logging.getLogger(__name__)


def train_run(
    data: LabelledTexts | PreparedTexts,
    output: str | os.PathLike,
    *,
    restart: bool = False,
    distribution: Distribution = ONE_DEVICE,
    **settings,
) -> dict:
    """Trains a model from texts to a run folder: masked LM, then a classifier. Without labels, masked LM alone.

    Called again with the same arguments after it was stopped, it goes on from the newest checkpoint; what comes out is
    what would have come without the stop. checkpoints/ in the run folder goes when the run is finished; a finished run
    that is trained again starts anew.

    Args:
        data: labelled texts, or what `prepare` wrote. `vocabulary_size` and `validation_fraction` are for the former.
        output: the run folder.
        restart: drop the unfinished run in the folder, and start over.
        distribution: devices and processes, from `make_distribution`. All processes call with the same arguments, on a
            disk that they share; the chief writes.
        **settings: those of `RunSettings`, by name.

    Returns:
        What training.json holds: settings and histories.

    Raises:
        ValueError: for an output that cannot be written, bad texts or settings, or settings or texts that are not those
            of the unfinished run in the folder.
        DivergedError: a ValueError: the loss or the weights are not finite. The last checkpoint is from before.
        OSError: if the disk is full or fails. The checkpoints before that stay.
    """
    labelled = isinstance(data, LabelledTexts)
    if not labelled and not isinstance(data, PreparedTexts):
        raise ValueError(f"data must be LabelledTexts or PreparedTexts. Received: {type(data).__name__}")
    settings = RunSettings.from_names(settings)
    if settings.pretrain_steps:
        distribution.check_batch_size(pretrain_batch_size=settings.pretrain_batch_size)
    sizes = {**preset_arguments(settings.preset), **settings.encoder}
    distribution.check_encoder(sizes["num_heads"], sizes["hidden_dim"], sizes["intermediate_dim"])
    output = Path(output)
    with distribution.chief_first():
        if distribution.is_chief:
            make_directory(output)
    with locked(output) if distribution.is_chief else contextlib.nullcontext():
        identity = [*data.texts, *data.labels] if labelled else prepared_identity(data)
        with distribution.chief_first():
            state = RunState(
                output,
                settings,
                fingerprint(identity),
                restart,
                chief=distribution.is_chief,
                num_replicas=distribution.num_replicas,
            )
        if distribution.is_chief and not state.resumed and (output / "model.keras").is_file():
            logger.info("%s: a finished run is there; training starts anew and replaces it at the end", output)
        if labelled:
            train, validation = split_holdout(data, settings.validation_fraction, settings.seed)
            with distribution.chief_first():
                tokenizer = state.tokenizer(lambda: _learn_vocabulary(train.texts, settings.vocabulary_size))
            run_data = labelled_run_data(tokenizer, train, validation, settings, state.batch_multiple)
        else:
            tokenizer = data.tokenizer
            run_data = prepared_run_data(data, settings, state.batch_multiple)
        try:
            with distribution.scope():
                model, histories = _train(run_data, tokenizer.vocabulary_size, output, settings, state, distribution)
        except DivergedError as error:
            state.diverged(error)
            raise
        max_length = settings.pretrain_length if run_data.classes is None else settings.max_length
        with distribution.chief_first():
            if not distribution.is_chief:
                return json.loads((output / "training.json").read_text(encoding="utf-8"))
            summary = save_run(output, model, tokenizer, run_data.classes, max_length, histories, settings.to_json())
            state.finish()
        return summary


def _train(
    data: RunData,
    vocabulary_size: int,
    output: Path,
    settings: RunSettings,
    state: RunState,
    distribution: Distribution,
):
    """Trains both phases; returns the model that the run is for, and the histories."""
    # All models are made before any is trained: what a resumed run makes is then the same.
    keras.utils.set_random_seed(settings.seed)
    given = {**settings.encoder, "vocabulary_size": vocabulary_size, "seed": settings.seed}
    encoder = Encoder.from_preset(settings.preset, **given)
    masked_lm = classifier = None
    if data.documents:
        steps = settings.epochs * data.documents.batches.steps_per_epoch
        classifier = classifier_model(encoder, len(data.classes), steps, settings.fine_tune_optimizer)
    if data.masked_lm:
        masked_lm = masked_lm_model(encoder, settings.pretrain_steps, settings.pretrain_optimizer)

    histories = {}
    arguments = {
        "checkpoints": state.checkpoints,
        "checkpoint_every": settings.checkpoint_every,
        "directory": output,
        "process_index": distribution.process_index,
        "process_count": distribution.process_count,
        "verbose": "auto" if distribution.is_chief else 0,
    }
    if masked_lm:
        logger.info("pretraining %s parameters with masked LM", f"{encoder.count_params():,}")
        histories["pretraining"] = fit_masked_lm(masked_lm, data.masked_lm, settings.pretrain_steps, **arguments)
    if classifier:
        distribution.wait()  # Until the chief has written what the others look for.
        histories["fine_tuning"] = fit_classifier(
            classifier, data.documents, settings.epochs, settings.patience, **arguments
        )
    return classifier or masked_lm, histories


def _learn_vocabulary(texts: list[str], size: int) -> Tokenizer:
    logger.info("learning a vocabulary of up to %d tokens from %d texts", size, len(texts))
    return WordPieceTokenizer(train_wordpiece(texts, size))
