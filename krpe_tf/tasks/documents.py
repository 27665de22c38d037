"""What tasks on whole documents share: settings, batches in length buckets, epochs with early stopping."""

import logging
from dataclasses import dataclass

from ..checks import check_at_least
from ..data import Batches, Corpus, buckets
from ..training import Budget
from .settings import Settings, complete_optimizer, setting

logger = logging.getLogger(__name__)

PHASE = "fine_tuning"


@dataclass(frozen=True)
class EpochSettings(Settings):
    """Settings of a task that trains for epochs, in batches of about as many tokens."""

    max_length: int = setting(
        8192,
        "tokens per document; longer ones are truncated, for token_classification split; longer pairs are left out",
    )
    epochs: int = setting(4, "passes over the documents at most")
    batch_tokens: int = setting(16_384, "tokens per batch of documents or of pairs, padding included")
    patience: int = setting(3, "epochs without improvement before training stops early")

    def __post_init__(self):  # noqa: D105
        super().__post_init__()
        check_at_least(3, max_length=self.max_length)
        check_at_least(1, epochs=self.epochs, batch_tokens=self.batch_tokens, patience=self.patience)


@dataclass(frozen=True)
class DocumentSettings(EpochSettings):
    """Settings of a task on whole documents."""

    min_length: int = setting(128, "tokens of the shortest length bucket; `max_length` makes all batches of one shape")
    fine_tune_optimizer: dict = setting({}, "optimizer options for the task, see docs/training.md")  # noqa: RUF009

    def __post_init__(self):  # noqa: D105
        super().__post_init__()
        check_at_least(1, min_length=self.min_length)
        complete_optimizer(self, "fine_tune_optimizer", learning_rate=1e-3)


def document_batches(
    corpus: Corpus,
    split: str,
    settings: DocumentSettings,
    seed: int,
    batch_multiple: int,
    target: str = "label",
    split_long: bool = False,
) -> Batches:
    """Make the batches of a split in length buckets, and log what was truncated or split.

    Args:
        corpus, split, settings, seed, batch_multiple: See `Task.batches`.
        target: The field to predict: a class for each document, or one for each token.
        split_long: See `buckets`.
    """
    batches, report = buckets(
        corpus[split],
        settings.max_length,
        settings.batch_tokens,
        tokenizer=corpus.tokenizer,
        min_length=settings.min_length,
        target=target,
        split_long=split_long,
        seed=seed,
        shuffle=split == "train",
        batch_multiple=batch_multiple,
    )
    logger.info("%s: %s", split, report)
    return batches


def epoch_budget(settings: EpochSettings, batches: Batches, phase: str = PHASE) -> Budget:
    """Make the budget of `settings.epochs` epochs, with a validation after each."""
    steps = batches.steps_per_epoch
    return Budget(settings.epochs * steps, validate_every=steps, patience=settings.patience, phase=phase)
