"""Masked language modelling: predict tokens that are masked. Needs texts alone; other tasks pretrain with it."""

import logging
import math
from dataclasses import dataclass

from ..checks import check_at_least, check_one_of
from ..data import TEXTS, masking, windows
from ..models import MaskedLM
from ..training import Budget
from .settings import Settings, complete_optimizer, setting
from .task import Task

logger = logging.getLogger(__name__)

VALIDATIONS = 5

VALIDATION_STEPS = 16

# In percent.
MUCH_PADDING = 25


@dataclass(frozen=True)
class MaskedLMSettings(Settings):
    """Settings of masked LM; of pretraining, where another task follows."""

    pretrain_steps: int = setting(400, "masked-LM steps before the task; 0 for none")
    pretrain_length: int = setting(512, "tokens per masked-LM window")
    pretrain_batch_size: int = setting(8, "windows per masked-LM batch")
    pretrain_packing: bool = setting(False, "put several short documents into a masked-LM window, each seen alone")
    pretrain_optimizer: dict = setting({}, "optimizer options for pretraining, see docs/training.md")  # noqa: RUF009

    def __post_init__(self):  # noqa: D105
        super().__post_init__()
        check_at_least(0, pretrain_steps=self.pretrain_steps)
        check_at_least(1, pretrain_batch_size=self.pretrain_batch_size)
        check_at_least(3, pretrain_length=self.pretrain_length)
        check_one_of((False, True), pretrain_packing=self.pretrain_packing)
        complete_optimizer(self, "pretrain_optimizer", learning_rate=2e-3)


def _batches(corpus, split, settings, seed, batch_multiple):
    batches = windows(
        corpus[split]["token_ids"],
        settings.pretrain_length,
        settings.pretrain_batch_size,
        pad_id=corpus.tokenizer.pad_id,
        seed=seed,
        shuffle=split == "train",
        batch_multiple=batch_multiple,
        transform=masking(corpus.tokenizer),
        packing=settings.pretrain_packing,
    )
    places = batches.steps_per_epoch * settings.pretrain_batch_size * settings.pretrain_length
    share = 100 * (1 - corpus.tokens(split) / places)
    hint = (
        ""
        if settings.pretrain_packing or share < MUCH_PADDING or split != "train"  # Else: rows that fill a batch.
        else "; where documents are short, `pretrain_packing` leaves less"
    )
    logger.info("%s: %.3g %% of the masked-LM windows is padding%s", split, max(0, share), hint)
    return batches


def _budget(settings, batches):
    steps = settings.pretrain_steps
    return Budget(
        steps, validate_every=math.ceil(steps / VALIDATIONS), validation_steps=VALIDATION_STEPS, phase="pretraining"
    )


MASKED_LM = Task(
    name="masked_lm",
    phase="pretraining",
    encoding=TEXTS,
    settings=MaskedLMSettings,
    optimizer="pretrain_optimizer",
    length="pretrain_length",
    batch_size="pretrain_batch_size",
    model=MaskedLM,
    build=lambda encoder, corpus, settings: MaskedLM(encoder, at_positions=True),
    batches=_batches,
    budget=_budget,
    exported=lambda model: model.encoder,
)
