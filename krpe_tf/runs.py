"""A run: one folder with a trained classifier and all that is needed to use it.

checkpoints/                                                          while `train_run` goes on
model.keras  tokenizer.json  labels.json  training.json  logs/        written by `train_run`
model.tflite  model.report.json  model.report.md  saved_model/        written by `export_run`
"""

import contextlib
import json
import logging
import os
import shutil
from pathlib import Path

import keras
import numpy as np

from ._folders import locked, make_directory, write_json
from .data import LabelledTexts, split_holdout
from .distribution import ONE_DEVICE, Distribution
from .export import LiteRTModel, LiteRTReport, export_saved_model, export_tflite
from .export._files import companion, staged
from .export.litert import COMPANIONS, check_lengths
from .models import Encoder, MaskedLM, TextClassifier
from .models.presets import preset_arguments
from .phases import classifier_model, fit_classifier, fit_masked_lm, masked_lm_model
from .prepared import PreparedTexts
from .resumable import DivergedError
from .run_data import RunData, labelled_run_data, prepared_identity, prepared_run_data
from .run_state import RunState, fingerprint
from .sentencepiece_tokenizer import load_tokenizer
from .settings import RunSettings
from .text import Tokenizer, WordPieceTokenizer, check_texts, train_wordpiece
from .training import class_probabilities

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


def save_run(
    output: Path,
    model: TextClassifier | MaskedLM,
    tokenizer: Tokenizer,
    labels: list[str] | None,
    max_length: int,
    histories: dict,
    settings: dict | None = None,
) -> dict:
    """Writes the files of a trained run and returns what training.json holds. Exports of an earlier model go."""
    if (output / "model.tflite").exists() or (output / "saved_model").exists():
        logger.info("%s: what an earlier run exported is of another model, and goes", output)
    for name in ("model.tflite", "model_float16.tflite", "model_int8.tflite"):
        for path in (output / name, *(companion(output / name, suffix) for suffix in COMPANIONS)):
            path.unlink(missing_ok=True)
    shutil.rmtree(output / "saved_model", ignore_errors=True)
    with staged(output / "model.keras", overwrite=True) as target:
        model.save(target)
    tokenizer.save(output / "tokenizer.json")
    if labels is None:
        (output / "labels.json").unlink(missing_ok=True)
    else:
        write_json(output / "labels.json", labels)
    summary = {"max_length": max_length, "parameters": model.count_params(), "histories": histories}
    if settings is not None:
        summary["settings"] = settings
    write_json(output / "training.json", summary)
    return summary


def load_run(run: str | os.PathLike) -> tuple[TextClassifier | MaskedLM, Tokenizer, list[str] | None]:
    """The model, the tokenizer and the labels of a run folder; None for the labels of a run with masked LM alone.

    Raises:
        ValueError: if a file of the run is missing or damaged.
    """
    run = Path(run)
    _check_run(run, "model.keras", "tokenizer.json", "training.json")
    model = keras.saving.load_model(run / "model.keras")
    if not isinstance(model, MaskedLM):
        _check_run(run, "labels.json")
    return model, load_tokenizer(run / "tokenizer.json"), None if isinstance(model, MaskedLM) else _labels(run)


def export_run(
    run: str | os.PathLike,
    *,
    lengths=(512, 2048, 8192),
    quantization: str | None = None,
    sample_texts: list[str] | None = None,
    bias_tolerance: float | None = None,
    measure: bool = True,
) -> LiteRTReport:
    """Exports a run's model to saved_model/ and model.tflite in its folder, replacing earlier exports.

    Of a run with masked LM alone it exports the encoder: one vector a token.

    Args:
        run: the run folder.
        lengths, quantization, sample_texts, bias_tolerance, measure: see `export_tflite`.

    Returns:
        The report of `export_tflite`, which writes it beside model.tflite too.
    """
    run = Path(run)
    model, tokenizer, _ = load_run(run)
    if isinstance(model, MaskedLM):
        logger.info("a run without labels: what is exported is the encoder, one vector a token")
        model = model.encoder
    lengths = check_lengths(lengths, None)
    trained = json.loads((run / "training.json").read_text(encoding="utf-8"))["max_length"]
    if max(length or 0 for length in lengths) > trained:
        logger.info("note: lengths past %d were not trained on", trained)
    logger.info("exporting to SavedModel, and comparing it with the Keras model")
    export_saved_model(model, run / "saved_model", tokenizer, sample_texts=sample_texts, overwrite=True)
    names = ", ".join(str(length or "any") for length in lengths)
    logger.info("exporting to LiteRT for lengths %s, and comparing each signature", names)
    return export_tflite(
        model,
        run / "model.tflite",
        lengths,
        quantization,
        tokenizer,
        sample_texts=sample_texts,
        bias_tolerance=bias_tolerance,
        measure=measure,
        overwrite=True,
    )


def predict_run(run: str | os.PathLike, texts: list[str]) -> list[dict[str, float]]:
    """Classifies texts, with model.tflite where the run has been exported and with model.keras otherwise.

    Args:
        run: the run folder.
        texts: raw texts.

    Returns:
        One dict a text: the probability of every label, the most likely first.

    Raises:
        ValueError: for a folder without a run, a run with masked LM alone, bad texts, or, once exported, a text longer
            than the file's largest signature. A run that has not been exported takes any length.
    """
    run = Path(run)
    texts = check_texts(texts)
    if (run / "model.keras").is_file() and not (run / "labels.json").is_file():
        raise ValueError(f"run must be of labelled texts, this one has no labels to choose from. Received: run={run}")
    if (run / "model.tflite").is_file():
        _check_run(run, "labels.json")
        labels, logits = _labels(run), LiteRTModel(run / "model.tflite")(texts)
    else:
        model, tokenizer, labels = load_run(run)
        logits = np.concatenate([np.asarray(model(tokenizer([text]))) for text in texts])
    answers = []
    for row in class_probabilities(logits):
        answers.append({labels[index]: float(row[index]) for index in np.argsort(-row)})
    return answers


def _labels(run: Path) -> list[str]:
    return json.loads((run / "labels.json").read_text(encoding="utf-8"))


def _check_run(run: Path, *names: str) -> None:
    missing = [name for name in names if not (run / name).is_file()]
    if missing:
        raise ValueError(
            f"run must be a folder that `train` wrote, it lacks {', '.join(missing)}. Received: run={str(run)!r}"
        )
