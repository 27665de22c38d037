"""Train a run, from data to a run folder: one path for every task."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from ..data import (
    Batches,
    Corpus,
    Documents,
    LabelledTexts,
    Source,
    deal_documents,
    encode_documents,
    is_prepared,
    load_corpus,
    open_source,
)
from ..files import locked, make_directory, write_json
from ..models import Encoder, preset_arguments
from ..tasks import Task
from ..text import Tokenizer
from ..training import (
    ONE_DEVICE,
    Budget,
    Distribution,
    DivergedError,
    compile_model,
    fit,
    make_optimizer,
)
from .folder import load_run, save_run
from .recipe import PATH, Data, check_columns, check_tokenizer, choose_task, make_recipe, unused_settings
from .settings import RunSettings
from .state import RunState

logger = logging.getLogger(__name__)

# Settings that a corpus has decided.
OF_A_CORPUS = {"vocabulary_size", "cased", "validation_fraction", "tokenizer"}


# Long: what the command line offers, and what only Python has.
def train_run(
    data: Data | str | os.PathLike | Sequence[str | os.PathLike],
    output: str | os.PathLike,
    *,
    task: str | None = None,
    names: Mapping[str, str] | None = None,
    validation: LabelledTexts | Source | None = None,
    tokenizer: Tokenizer | str | None = None,
    initial_encoder: Encoder | None = None,
    restart: bool | str | os.PathLike = False,
    distribution: Distribution = ONE_DEVICE,
    **settings,
) -> dict:
    """Train a model from data to a run folder: pretraining with masked LM, then the task.

    Called again with the same arguments after it was stopped, it resumes from the newest checkpoint, and the result is
    that of a run that was never stopped. checkpoints/ in the run folder is removed when the run is finished; a finished
    run that is trained again starts over.

    Args:
        data: Labelled texts, a source, a corpus, or the path of one: a folder that `prepare` wrote, a .csv, .tsv or
            .jsonl file, or a folder of .txt files; for translation also the paths of two aligned files.
            `vocabulary_size`, `cased` and `validation_fraction` do not apply to a corpus.
        output: The run folder.
        task: A name of `krpe_tf.tasks.TASKS`. None for the task of the columns that a corpus, a source or labelled
            texts have, masked LM where those are of no task, and text classification for a path.
        validation: Data to validate by; None to hold out `validation_fraction` of `data`. A corpus has its own.
        tokenizer: Makes the token ids; None to learn a vocabulary. A corpus has its own. A string is the setting
            `tokenizer`: the kind to learn.
        initial_encoder: Training starts from the weights of this encoder, whose shapes must be those of the run's.
        restart: True: drop the unfinished run in the folder, and start over. The name of one of its checkpoints: resume
            from there, with these settings even if they differ from the run's.
        distribution: Devices and processes, from `make_distribution`. All processes call with the same arguments, on a
            disk that they share; the chief writes.
        **settings: Those of `RunSettings`, by name.

    Returns:
        What training.json holds: settings, histories, and the scores of a task that has some.

    Raises:
        ValueError: For an output that cannot be written, bad data or settings, or a task, settings or data that are not
            those of the unfinished run in the folder.
        DivergedError: A ValueError: the loss or the weights are not finite. The last checkpoint is from before.
        OSError: If the disk is full or fails. The checkpoints before that stay.
    """
    if isinstance(tokenizer, str):
        settings["tokenizer"], tokenizer = tokenizer, None
    given, settings = set(settings), RunSettings.from_names(settings)
    data, task = _open(data, task, names, validation, tokenizer)
    if isinstance(data, Corpus) and (unused := sorted(given & OF_A_CORPUS)):
        logger.warning("%s has its own vocabulary and validation set; without effect: %s", data, ", ".join(unused))
    if unused := unused_settings(task, given):
        logger.warning("without effect on the task %s: %s", task.name, ", ".join(unused))
    start = task.start(settings) if task.start else None
    tokenizer = tokenizer or (start and start.tokenizer)
    recipe = make_recipe(task, settings, data.tokenizer if isinstance(data, Corpus) else tokenizer)
    _check_distribution(distribution, recipe, settings, start)
    if isinstance(data, Corpus):
        documents = None
        if task.encoding.label is not None:
            data.log_labels()
    else:
        held_out = settings.validation_fraction if validation is None else validation
        documents = deal_documents(data, task.encoding, held_out, settings.seed)
    output = Path(output)
    with distribution.chief_first():
        if distribution.is_chief:
            make_directory(output)
    with locked(output) if distribution.is_chief else contextlib.nullcontext():
        encoders = initial_encoder, start and start.encoder
        identity = fingerprint(_identity(data, validation, documents, tokenizer, encoders))
        with distribution.chief_first():
            state = RunState(output, task, settings, identity, restart, distribution)
            tokenizer = tokenizer or state.tokenizer or task.learns(settings)
            sizes = settings.vocabulary_size, settings.cased
            corpus = data if documents is None else encode_documents(documents, tokenizer, *sizes)
            del documents  # The texts: what is trained on are their arrays.
            corpus.log_unknown()
            given = settings, settings.seed, state.batch_multiple
            batches = {
                phase: {split: phase.batches(corpus, split, *given) for split in corpus.splits} for phase in recipe
            }
            budgets = {phase: _budget(phase, settings, **batches[phase]) for phase in recipe}
            if state.drops_checkpoints:  # What cannot be trained must not cost the run that is there.
                with distribution.scope() if distribution.process_count == 1 else contextlib.nullcontext():
                    _models(budgets, corpus, settings, initial_encoder, start)
            state.begin(corpus.tokenizer, {phase.phase: budget for phase, budget in budgets.items()})
        if distribution.is_chief and not state.resumed and (output / "model.keras").is_file():
            logger.info("%s holds a finished run; training starts over and replaces it at the end", output)
        with distribution.scope():
            models = _models(budgets, corpus, settings, initial_encoder, start)
            if task.causal and not models[task].can_decode:
                logger.warning("this model will not write: `generate` and `export` need another `feature_map` or bias")
            histories = _train_phases(models, batches, budgets, state, distribution)
            model = models[task].in_float32()
        with distribution.chief_first():
            if not distribution.is_chief:
                return json.loads((output / "training.json").read_text(encoding="utf-8"))
            summary = _save(state, model, corpus, batches[task].get("validation"), histories, settings, task)
            state.finish()
        return summary


def _open(data, task: str | None, names, validation, tokenizer) -> tuple[Data, Task]:
    """Open the data of `train_run`, choose the task, and check that all that is given fits it."""
    if isinstance(data, PATH) and is_prepared(data):
        data = load_corpus(data)
    task = choose_task(task, data)
    if isinstance(data, (*PATH, tuple, list)):
        data = open_source(data, task.encoding.columns, names, argument="data", optional=task.encoding.optional)
    else:
        for column, name in (names or {}).items():
            of = "a prepared corpus" if isinstance(data, Corpus) else "what is no path"
            raise ValueError(
                f"`{column}_column` must be left out: {of} has its columns already. Received: {column}_column={name!r}"
            )
    if validation is not None and isinstance(data, Corpus):
        raise ValueError("`validation` must be None for a corpus, which has its own. Received: a validation set")
    if not isinstance(validation, LabelledTexts | Source | None):
        raise ValueError(f"`validation` must be LabelledTexts, a Source or None. Received: {type(validation).__name__}")
    if validation is not None:
        check_columns(task, validation=validation)
    check_tokenizer(task, tokenizer)
    return data, task


def _identity(data, validation, documents: Documents | None, tokenizer, encoders) -> Iterable[str]:
    """Yield strings that tell what one run trains on from what another does; `documents` are the data, dealt."""
    if documents is None:
        yield data.fingerprint
    elif isinstance(data, LabelledTexts) and validation is None:  # As in 0.1, whose unfinished runs resume.
        yield from (*data.texts, *data.labels)
        if documents.survey.copies:
            yield "equal texts together"  # Unless they were on both sides.
    elif validation is None:  # The settings say which are held out.
        yield "equal texts together"
        yield from (json.dumps(row, sort_keys=True) for row, _ in documents.rows)
    else:
        yield from (json.dumps([split, row], sort_keys=True) for row, split in documents.rows)
    if tokenizer is not None:
        yield json.dumps(tokenizer.get_config(), sort_keys=True)
    for encoder in filter(None, encoders):
        yield from (np.asarray(weight).tobytes().hex() for weight in encoder.get_weights())


def fingerprint(strings: Iterable[str]) -> str:
    """Return a hash that two sequences of strings share only if they are equal."""
    digest = hashlib.sha256()
    for string in strings:
        content = string.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _check_distribution(distribution: Distribution, recipe: tuple[Task, ...], settings: RunSettings, start) -> None:
    for phase in recipe:
        if phase.one_process and distribution.process_count > 1:
            raise ValueError(
                f"the task {phase.name!r} trains in one process. Received: {distribution.process_count} processes"
            )
    for name in filter(None, (phase.batch_size for phase in recipe)):
        distribution.check_batch_size(**{name: getattr(settings, name)})
    sizes = {**(start.encoder.get_config() if start else preset_arguments(settings.preset)), **settings.encoder}
    distribution.check_encoder(sizes["num_heads"], sizes["hidden_dim"], sizes["intermediate_dim"])


def _budget(phase: Task, settings: RunSettings, train: Batches, validation: Batches | None = None) -> Budget:
    budget = dataclasses.replace(phase.budget(settings, train), checkpoint_every=settings.checkpoint_every)
    return budget if validation is not None else dataclasses.replace(budget, patience=None)


def _models(budgets: dict[Task, Budget], corpus: Corpus, settings: RunSettings, initial_encoder, start) -> dict:
    """Make and compile the models of all phases before any is trained, as a resumed run does."""
    keras.utils.set_random_seed(settings.seed)
    *_, task = budgets
    causal = {"causal": True} if task.causal else {}
    given = {**causal, **settings.encoder, "vocabulary_size": corpus.tokenizer.vocabulary_size, "seed": settings.seed}
    if start is None:
        backbone = task.backbone.make(settings.preset, **given)
    else:
        backbone = Encoder.from_encoder(start.encoder, **{**start.changes, **given})
    if initial_encoder is not None:
        backbone.set_weights(initial_encoder.get_weights())
    models = {phase: phase.build(backbone, corpus, settings) for phase in budgets}
    for phase, model in models.items():
        optimizer = make_optimizer(steps=budgets[phase].steps, **getattr(settings, phase.optimizer))
        loss = phase.loss and phase.loss(settings)
        compile_model(model, optimizer, weighted_metrics=phase.metrics(corpus), loss=loss)
    return models


def _train_phases(models: dict, batches: dict, budgets: dict, state: RunState, distribution: Distribution) -> dict:
    """Train all phases, and return their histories."""
    with_logs = importlib.util.find_spec("tensorflow") is not None
    if not with_logs:
        logger.info("TensorFlow is not installed: no logs for TensorBoard")
    histories = {}
    for phase, model in models.items():
        distribution.wait()  # Until the chief has written the checkpoint that the others look for.
        logger.info("%s: %s, %s parameters", phase.phase, phase.name, f"{model.count_params():,}")
        try:
            histories[phase.phase] = fit(
                model,
                batches[phase]["train"],
                budgets[phase],
                batches[phase].get("validation"),
                state.checkpoints,
                distribution,
                _tensorboard(state.output / "logs" / phase.phase) if distribution.is_chief and with_logs else (),
            )
        except DivergedError:
            newest = state.checkpoints.paths[-1:]
            logger.info(
                "the same settings would diverge again: lower `learning_rate` or `clip_norm` of `%s`, and resume with "
                "--from CHECKPOINT%s or start over with --restart",
                phase.optimizer,
                f" (the newest is {newest[0].name})" if newest else "",
            )
            raise
    return histories


def _save(state: RunState, model, corpus: Corpus, validation: Batches | None, histories, settings, task: Task) -> dict:
    """Write the run folder, with the scores of a task that has some; return what training.json holds."""
    output, length = state.output, getattr(settings, task.length)
    summary = save_run(output, model, corpus.tokenizer, corpus.classes, length, histories, settings.to_json(), task)
    if task.scores is not None and validation is not None:
        try:
            summary["scores"] = task.scores(load_run(output)[0], validation, corpus, settings)
        except Exception:
            state.finish()  # The run folder is whole but for the scores, and resumed it would raise the same.
            raise
        scores = ", ".join(f"{name} {value:.4f}" for name, value in summary["scores"].items())
        logger.info("the whole validation set: %s", scores)
        write_json(output / "training.json", summary)
    return summary


def _tensorboard(directory: Path) -> list[keras.callbacks.Callback]:
    """Return the callback that writes logs for TensorBoard, through TensorFlow."""
    callback = keras.callbacks.TensorBoard(str(directory), write_graph=False)
    callback.async_safe = True  # It writes once an interval; of single steps it reads nothing.
    return [callback]
