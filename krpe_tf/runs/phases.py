"""The two phases of a run, masked LM and classification: their compiled models and their training."""

import math
import os
from pathlib import Path

import keras

from ..data import LabelledTexts
from ..models import Encoder, MaskedLM, TextClassifier
from ..text import Tokenizer
from ..training import Checkpoints, compile_classifier, compile_masked_lm, fit_resumably, make_optimizer
from .run_data import PhaseData, classification_data, masked_lm_data


def masked_lm_model(encoder: Encoder, steps: int, optimizer: dict) -> MaskedLM:
    """A compiled `MaskedLM` over `encoder`; `optimizer` holds arguments of `make_optimizer`."""
    model = MaskedLM(encoder, at_positions=True)
    compile_masked_lm(model, make_optimizer(steps=steps, **optimizer), jit_compile=keras.backend.backend() == "jax")
    return model


def classifier_model(encoder: Encoder, num_classes: int, steps: int, optimizer: dict) -> TextClassifier:
    """A compiled `TextClassifier` over `encoder`; `optimizer` holds arguments of `make_optimizer`."""
    classifier = TextClassifier(encoder, num_classes)
    compile_classifier(classifier, make_optimizer(steps=steps, **optimizer))
    return classifier


def fit_masked_lm(
    model: MaskedLM,
    data: PhaseData,
    steps: int,
    parts: int = 5,
    directory: str | os.PathLike | None = None,
    **arguments,
) -> dict[str, list]:
    """Trains a compiled `MaskedLM`; for `arguments` see `fit_resumably`.

    Args:
        model, data: the model and its data.
        steps: optimizer steps in all.
        parts: how many validations, at equal distances.
        directory: gets logs/pretraining/ for TensorBoard; None for no logs.
    """
    return _fit("pretraining", model, data, steps, math.ceil(steps / parts), directory, **arguments)


def fit_classifier(
    classifier: TextClassifier,
    data: PhaseData,
    epochs: int,
    patience: int,
    directory: str | os.PathLike | None = None,
    **arguments,
) -> dict[str, list]:
    """Trains a compiled `TextClassifier`, with a validation after each epoch; for `arguments` see `fit_resumably`.

    Args:
        classifier, data: the model and its data.
        epochs: passes over the data, at most.
        patience: epochs without improvement before stopping. The best one's weights are restored at the end. Without
            validation data it does not matter.
        directory: gets logs/fine_tuning/ for TensorBoard; None for no logs.
    """
    steps = data.batches.steps_per_epoch
    patience = None if data.validation is None else patience
    return _fit("fine_tuning", classifier, data, epochs * steps, steps, directory, patience=patience, **arguments)


def _fit(
    phase, model, data: PhaseData, steps, validation_every, directory, process_index=0, process_count=1, **arguments
):
    logs = Path(directory) / "logs" / phase if directory is not None and process_index == 0 else None
    return fit_resumably(
        model,
        data.batches,
        steps,
        phase=phase,
        validation=data.validation_dataset(process_index, process_count),
        validation_every=validation_every,
        callbacks=[] if logs is None else [keras.callbacks.TensorBoard(str(logs), write_graph=False)],
        process_index=process_index,
        process_count=process_count,
        **arguments,
    )


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
    checkpoints: Checkpoints | None = None,
) -> dict[str, list[float]]:
    """Pretrains an encoder with masked LM, and returns the history of losses, see `fit_resumably`.

    Args:
        encoder: trained in place.
        tokenizer, texts, validation_texts, length, batch_size, seed: see `masked_lm_batches`.
        steps: optimizer steps in all.
        learning_rate: the peak.
        epochs: parts of the run, each closed by a validation.
        checkpoints: where to; None for none.
    """
    data = masked_lm_data(tokenizer, texts, validation_texts, length=length, batch_size=batch_size, seed=seed)
    model = masked_lm_model(encoder, steps, {"learning_rate": learning_rate})
    return fit_masked_lm(model, data, steps, epochs, checkpoints=checkpoints)


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
    checkpoints: Checkpoints | None = None,
) -> dict[str, list[float]]:
    """Trains a classifier on whole documents, in place, and returns the history; logs what had to be cut.

    Args:
        classifier, tokenizer: the model, and what makes its token ids.
        train, validation: labelled texts; class ids are places in `train.classes`.
        max_length: tokens; a longer document is cut, and counted.
        directory: gets logs/fine_tuning/ for TensorBoard.
        epochs, patience: see `fit_classifier`.
        learning_rate: the peak.
        batch_tokens, seed: see `classification_batches`.
        checkpoints: where to; None for none.
    """
    data = classification_data(
        tokenizer, train, validation, max_length=max_length, batch_tokens=batch_tokens, seed=seed
    )
    steps = epochs * data.batches.steps_per_epoch
    compile_classifier(classifier, make_optimizer(learning_rate, steps))
    return fit_classifier(classifier, data, epochs, patience, directory, checkpoints=checkpoints)
