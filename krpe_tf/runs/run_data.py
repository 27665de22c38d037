"""What a run trains on: batches of both phases, from labelled texts in memory or from prepared shards."""

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data import Batches, LabelledTexts, classification_batches, masked_lm_batches
from ..text import Tokenizer
from .settings import RunSettings

if TYPE_CHECKING:
    import tensorflow as tf

    from ..data import PreparedTexts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhaseData:
    """What a phase trains on and is validated by.

    Attributes: `batches`, to train on; `validation`, whose first epoch validates, None for no validation;
    `validation_batches`, how many of its batches at most, None for all.
    """

    batches: Batches
    validation: Batches | None
    validation_batches: int | None = None

    def validation_dataset(self, process_index: int = 0, process_count: int = 1) -> "tf.data.Dataset | None":
        """This process's rows of the validation batches, the same each time."""
        if self.validation is None:
            return None
        dataset = self.validation.epoch(process_index, process_count)
        return dataset if self.validation_batches is None else dataset.take(self.validation_batches)


@dataclass(frozen=True)
class RunData:
    """Both phases of a run. `masked_lm` is None without pretraining; `documents` and `classes` without labels."""

    masked_lm: PhaseData | None
    documents: PhaseData | None
    classes: list[str] | None


def masked_lm_data(
    tokenizer: Tokenizer,
    texts: list[str],
    validation_texts: list[str],
    *,
    length: int,
    batch_size: int,
    seed: int,
    batch_multiple: int = 1,
) -> PhaseData:
    """The data of masked LM; for the arguments see `masked_lm_batches`."""
    train, validation = (
        masked_lm_batches(
            tokenizer,
            part,
            length,
            batch_size,
            seed=seed,
            shuffle=shuffle,
            short_batch=True,
            batch_multiple=batch_multiple,
        )
        for part, shuffle in ((texts, True), (validation_texts, False))
    )
    return PhaseData(train, validation, 16)


def classification_data(
    tokenizer: Tokenizer,
    train: LabelledTexts,
    validation: LabelledTexts,
    *,
    max_length: int,
    batch_tokens: int,
    seed: int,
    batch_multiple: int = 1,
) -> PhaseData:
    """The data of classification, see `classification_batches`; logs what had to be cut."""
    class_ids = {label: index for index, label in enumerate(train.classes)}
    made = []
    for name, part, shuffle in (("training", train, True), ("validation", validation, False)):
        labels = [class_ids[label] for label in part.labels]
        batches, cut = classification_batches(
            tokenizer,
            part.texts,
            labels,
            max_length,
            batch_tokens,
            seed=seed,
            shuffle=shuffle,
            batch_multiple=batch_multiple,
        )
        logger.info("%s: %s", name, cut)
        made.append(batches)
    return PhaseData(*made)


def labelled_run_data(
    tokenizer: Tokenizer,
    train: LabelledTexts,
    validation: LabelledTexts,
    settings: RunSettings,
    batch_multiple: int = 1,
) -> RunData:
    """The data of a run on labelled texts in memory, split already.

    Args:
        tokenizer, train, validation: what makes token ids, and the texts.
        settings: those of the run.
        batch_multiple: what divides the rows of every batch: the number of devices.
    """
    masked_lm = None
    if settings.pretrain_steps:
        masked_lm = masked_lm_data(
            tokenizer,
            train.texts,
            validation.texts,
            length=settings.pretrain_length,
            batch_size=settings.pretrain_batch_size,
            seed=settings.seed,
            batch_multiple=batch_multiple,
        )
    documents = classification_data(
        tokenizer,
        train,
        validation,
        max_length=settings.max_length,
        batch_tokens=settings.batch_tokens,
        seed=settings.seed,
        batch_multiple=batch_multiple,
    )
    return RunData(masked_lm, documents, train.classes)


def prepared_run_data(prepared: "PreparedTexts", settings: RunSettings, batch_multiple: int = 1) -> RunData:
    """The data of a run on what `prepare` wrote; without labels there is masked LM alone.

    Args:
        prepared: the shards.
        settings: those of the run.
        batch_multiple: what divides the rows of every batch: the number of devices.
    """
    splits = [("train", True), ("validation", False)] if prepared.documents("validation") else [("train", True)]
    masked_lm = documents = None
    if settings.pretrain_steps:
        made = [
            prepared.masked_lm_batches(
                settings.pretrain_length, settings.pretrain_batch_size, settings.seed, shuffle=shuffle, split=split
            )
            for split, shuffle in splits
        ]
        masked_lm = PhaseData(made[0], made[1] if made[1:] else None, 16)
    if prepared.classes is not None:
        made = []
        for split, shuffle in splits:
            batches, cut = prepared.classification_batches(
                settings.max_length,
                settings.batch_tokens,
                seed=settings.seed,
                shuffle=shuffle,
                split=split,
                batch_multiple=batch_multiple,
            )
            logger.info("%s: %s", split, cut)
            made.append(batches)
        documents = PhaseData(made[0], made[1] if made[1:] else None)
    if masked_lm is None and documents is None:
        raise ValueError(
            "pretrain_steps must be at least 1 for texts without labels: masked LM is all there is to train. "
            f"Received: pretrain_steps={settings.pretrain_steps}"
        )
    return RunData(masked_lm, documents, prepared.classes)


def prepared_identity(prepared: "PreparedTexts") -> list[str]:
    """Strings that tell one prepared folder from another."""
    return [json.dumps(prepared.manifest, sort_keys=True), json.dumps(prepared.tokenizer.get_config())]
