"""A run: one folder with a trained classifier and all that is needed to use it.

model.keras  tokenizer.json  labels.json  training.json  logs/        written by `train_run`
model.tflite  model.report.json  model.report.md  saved_model/        written by `export_run`
"""

import json
import logging
import os
import shutil
from pathlib import Path

import keras
import numpy as np

from ._checks import check_at_least, check_one_of
from .data import LabelledTexts, classification_dataset, split_holdout
from .export import LiteRTModel, LiteRTReport, export_saved_model, export_tflite
from .export._files import companion
from .export.litert import COMPANIONS, check_lengths
from .models import Encoder, MaskedLM, TextClassifier
from .models.presets import PRESETS
from .sentencepiece_tokenizer import load_tokenizer
from .text import Tokenizer, WordPieceTokenizer, check_texts, masked_lm_dataset, train_wordpiece
from .training import class_probabilities, compile_classifier, compile_masked_lm, make_callbacks, make_optimizer

logger = logging.getLogger(__name__)


def write_json(path: str | os.PathLike, content) -> None:
    """Writes JSON whole or not at all."""
    temporary = Path(f"{os.fspath(path)}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def make_directory(path: str | os.PathLike) -> Path:
    """Makes a folder that can be written to.

    Raises:
        ValueError: if that is not possible.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"output must be a writable folder ({error.strerror}). Received: output={str(path)!r}"
        ) from error
    return path


def pretrain(
    encoder: Encoder,
    tokenizer: Tokenizer,
    texts: list[str],
    validation_texts: list[str],
    *,
    steps: int,
    length: int = 512,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    epochs: int = 5,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Pretrains an encoder with masked LM, and returns the history of losses, one a part.

    Args:
        encoder: trained in place.
        tokenizer, texts, validation_texts, length, batch_size, seed: see `masked_lm_dataset`.
        steps: optimizer steps in all.
        learning_rate: the peak.
        epochs: parts of the run, each closed by a validation.
    """
    train, validation = (
        masked_lm_dataset(tokenizer, part, length, batch_size, seed=seed, shuffle=shuffle, short_batch=True)
        for part, shuffle in ((texts, True), (validation_texts, False))
    )
    model = MaskedLM(encoder, at_positions=True)
    compile_masked_lm(model, make_optimizer(learning_rate, steps), jit_compile=False)
    history = model.fit(
        train.repeat(),
        epochs=epochs,
        steps_per_epoch=max(1, steps // epochs),
        validation_data=validation.take(16),
        shuffle=False,
        callbacks=[keras.callbacks.TerminateOnNaN()],
    )
    return history.history


def fine_tune(
    classifier: TextClassifier,
    tokenizer: Tokenizer,
    train: LabelledTexts,
    validation: LabelledTexts,
    *,
    max_length: int,
    directory: str | os.PathLike,
    epochs: int = 4,
    learning_rate: float = 1e-3,
    batch_tokens: int = 16_384,
    patience: int = 3,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Trains a classifier on whole documents, in place, and returns the history; logs what had to be cut.

    Args:
        classifier, tokenizer: the model, and what makes its token ids.
        train, validation: labelled texts; class ids are places in `train.classes`.
        max_length: tokens; a longer document is cut, and counted.
        directory: for logs and checkpoints, see `make_callbacks`.
        epochs, learning_rate, patience: see `make_callbacks` and `make_optimizer`.
        batch_tokens, seed: see `classification_dataset`.
    """
    class_ids = {label: index for index, label in enumerate(train.classes)}
    datasets = []
    for name, part, shuffle in (("training", train, True), ("validation", validation, False)):
        labels = [class_ids[label] for label in part.labels]
        dataset, cut = classification_dataset(
            tokenizer, part.texts, labels, max_length, batch_tokens, seed=seed, shuffle=shuffle
        )
        logger.info("%s: %s", name, cut)
        datasets.append(dataset)
    steps = epochs * int(datasets[0].cardinality())
    compile_classifier(classifier, make_optimizer(learning_rate, steps))
    history = classifier.fit(
        datasets[0],
        epochs=epochs,
        validation_data=datasets[1],
        shuffle=False,
        callbacks=make_callbacks(directory, patience=patience),
    )
    return history.history


def train_run(
    labelled: LabelledTexts,
    output: str | os.PathLike,
    *,
    preset: str = "small",
    vocabulary_size: int = 8192,
    max_length: int = 8192,
    pretrain_steps: int = 400,
    epochs: int = 4,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> dict:
    """Trains a classifier on labelled texts, from a vocabulary to a run folder.

    Args:
        labelled: the texts and labels.
        output: the run folder.
        preset: size of the encoder, see `Encoder.from_preset`.
        vocabulary_size: WordPiece tokens to learn, at most.
        max_length: tokens of the longest document; longer ones are cut, and counted.
        pretrain_steps: masked-LM steps before, 0 for none.
        epochs: passes over the labelled texts, at most: training stops early when validation stops improving.
        validation_fraction: share of the texts that is held out.
        seed: of everything.

    Returns:
        What training.json holds: settings and histories.

    Raises:
        ValueError: for an output that cannot be written, or bad texts or settings.
    """
    check_at_least(0, pretrain_steps=pretrain_steps, seed=seed)
    check_at_least(1, epochs=epochs, vocabulary_size=vocabulary_size)
    check_at_least(3, max_length=max_length)
    check_one_of(tuple(PRESETS), preset=preset)
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must lie between 0 and 1. Received: validation_fraction={validation_fraction}"
        )
    output = make_directory(output)
    keras.utils.set_random_seed(seed)
    train, validation = split_holdout(labelled, validation_fraction, seed)
    logger.info("learning a vocabulary of up to %d tokens from %d texts", vocabulary_size, len(train.texts))
    tokenizer = WordPieceTokenizer(train_wordpiece(train.texts, vocabulary_size))
    encoder = Encoder.from_preset(preset, vocabulary_size=tokenizer.vocabulary_size, seed=seed)
    histories = {}
    if pretrain_steps:
        logger.info("pretraining %s parameters with masked LM", f"{encoder.count_params():,}")
        histories["pretraining"] = pretrain(
            encoder, tokenizer, train.texts, validation.texts, steps=pretrain_steps, batch_size=8, seed=seed
        )
    classifier = TextClassifier(encoder, len(train.classes))
    histories["fine_tuning"] = fine_tune(
        classifier, tokenizer, train, validation, max_length=max_length, directory=output, epochs=epochs, seed=seed
    )
    return save_run(output, classifier, tokenizer, train.classes, max_length, histories)


def save_run(
    output: Path,
    classifier: TextClassifier,
    tokenizer: Tokenizer,
    labels: list[str],
    max_length: int,
    histories,
) -> dict:
    """Writes the files of a trained run and returns what training.json holds. Exports of an earlier model go."""
    if (output / "model.tflite").exists() or (output / "saved_model").exists():
        logger.info("%s: what an earlier run exported is of another model, and goes", output)
    for name in ("model.tflite", "model_float16.tflite", "model_int8.tflite"):
        for path in (output / name, *(companion(output / name, suffix) for suffix in COMPANIONS)):
            path.unlink(missing_ok=True)
    shutil.rmtree(output / "saved_model", ignore_errors=True)
    classifier.save(output / "model.keras")
    tokenizer.save(output / "tokenizer.json")
    write_json(output / "labels.json", labels)
    summary = {"max_length": max_length, "parameters": classifier.count_params(), "histories": histories}
    write_json(output / "training.json", summary)
    return summary


def load_run(run: str | os.PathLike) -> tuple[TextClassifier, Tokenizer, list[str]]:
    """The model, the tokenizer and the labels of a run folder.

    Raises:
        ValueError: if a file of the run is missing or damaged.
    """
    run = Path(run)
    _check_run(run, "model.keras", "tokenizer.json", "labels.json", "training.json")
    model = keras.saving.load_model(run / "model.keras")
    return model, load_tokenizer(run / "tokenizer.json"), _labels(run)


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

    Args:
        run: the run folder.
        lengths, quantization, sample_texts, bias_tolerance, measure: see `export_tflite`.

    Returns:
        The report of `export_tflite`, which writes it beside model.tflite too.
    """
    run = Path(run)
    model, tokenizer, _ = load_run(run)
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
        ValueError: for a folder without a run, bad texts, or, once exported, a text longer than the file's largest
            signature. A run that has not been exported takes any length.
    """
    run = Path(run)
    texts = check_texts(texts)
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
