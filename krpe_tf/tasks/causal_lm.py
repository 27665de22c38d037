"""Causal language modelling: predict the next token. Needs texts alone; what it trains writes text."""

import math
from dataclasses import dataclass

from ..checks import check_at_least, check_one_of
from ..data import TEXTS, shifting, windows
from ..models import CausalLM
from ..training import BitsPerByte, Budget, compile_model
from .settings import Settings, complete_optimizer, setting
from .task import Task

VALIDATIONS = 5


@dataclass(frozen=True)
class CausalLMSettings(Settings):
    """Settings of causal LM."""

    steps: int = setting(1000, "causal-LM steps")
    window_length: int = setting(512, "tokens per causal-LM window, each of which predicts the next one")
    batch_size: int = setting(8, "windows per causal-LM batch")
    packing: bool = setting(True, "put several short documents into a causal-LM window, each seen alone")
    validation_steps: int = setting(64, "batches per causal-LM validation while it trains; at the end it takes all")
    optimizer: dict = setting({}, "optimizer options for causal LM, see docs/training.md")  # noqa: RUF009

    def __post_init__(self):  # noqa: D105
        super().__post_init__()
        check_at_least(1, steps=self.steps, batch_size=self.batch_size, validation_steps=self.validation_steps)
        check_at_least(2, window_length=self.window_length)
        check_one_of((False, True), packing=self.packing)
        complete_optimizer(self, "optimizer", learning_rate=2e-3)


def _batches(corpus, split, settings, seed, batch_multiple):
    return windows(
        corpus[split]["token_ids"],
        settings.window_length + 1,
        settings.batch_size,
        pad_id=corpus.tokenizer.pad_id,
        seed=seed,
        shuffle=split == "train",
        batch_multiple=batch_multiple,
        transform=shifting(corpus.tokenizer.pad_id),
        packing=settings.packing,
        overlap=1,
    )


def _budget(settings, batches):
    every = math.ceil(settings.steps / VALIDATIONS)
    return Budget(settings.steps, validate_every=every, validation_steps=settings.validation_steps)


def _scores(model, batches, corpus, settings) -> dict[str, float]:
    """Return the bits that a byte of the validation documents takes, whatever the tokens are."""
    compile_model(model, "sgd", weighted_metrics=CAUSAL_LM.metrics(corpus))
    return {"bits_per_byte": model.evaluate(batches.validation_data(), verbose=0, return_dict=True)["bits_per_byte"]}


CAUSAL_LM = Task(
    name="causal_lm",
    phase="training",
    encoding=TEXTS,
    settings=CausalLMSettings,
    optimizer="optimizer",
    length="window_length",
    batch_size="batch_size",
    tokenizers=("sentencepiece", "bytes"),
    causal=True,
    model=CausalLM,
    build=lambda encoder, corpus, settings: CausalLM(encoder),
    batches=_batches,
    budget=_budget,
    metrics=lambda corpus: [BitsPerByte(corpus.tokenizer.token_bytes)],
    scores=_scores,
    page="generator",
)
