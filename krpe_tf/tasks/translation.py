"""Translation: an encoder reads a source, a decoder writes its target. Needs pairs of both."""

import importlib.util
import logging
from dataclasses import dataclass

import keras
import numpy as np

from ..checks import check_at_least, check_rate
from ..data import PAIRS, pair_buckets, pair_lengths, pair_shapes
from ..models import EncoderDecoder, preset_arguments
from ..training import GlobalCrossEntropy, Perplexity
from .documents import EpochSettings, epoch_budget
from .settings import argument_names, complete_optimizer, setting
from .task import OF_A_RUN, Backbone, Task
from .translator import score, translate

logger = logging.getLogger(__name__)

PHASE = "training"

# Arguments of the model that a run does not choose: one vocabulary is that of both sides, and batches have many shapes.
FIXED = {"source_vocabulary_size", "source_length", "length"}

# How many validation pairs are translated for the scores, at most.
SCORED = 200

# The most shapes of batches: a byte for each pair says which it has.
MOST_SHAPES = 255

# What encoder and decoder have each, by the name that it has of an `Encoder`.
OF_BOTH = {
    "num_layers": ("num_encoder_layers", "num_decoder_layers"),
    "feature_map": ("encoder_feature_map", "decoder_feature_map", "cross_feature_map"),
    "position_bias": ("encoder_position_bias", "decoder_position_bias"),
}


@dataclass(frozen=True)
class TranslationSettings(EpochSettings):
    """Settings of translation."""

    batch_shapes: int = setting(12, "shapes of translation batches at most, each a length of source and target")
    label_smoothing: float = setting(0.1, "share of a target token's probability that translation spreads over all")
    translation_optimizer: dict = setting({}, "optimizer options for translation, see docs/training.md")  # noqa: RUF009

    def __post_init__(self):  # noqa: D105
        super().__post_init__()
        check_at_least(1, batch_shapes=self.batch_shapes)
        if self.batch_shapes > MOST_SHAPES:
            raise ValueError(
                f"`batch_shapes` must be at most {MOST_SHAPES}. Received: batch_shapes={self.batch_shapes}"
            )
        check_rate(label_smoothing=self.label_smoothing)
        complete_optimizer(self, "translation_optimizer", learning_rate=1e-3, decay="inverse_sqrt")


def _make(preset: str, **given) -> EncoderDecoder:
    """Make the model of a preset of `Encoder`, whose sizes are then those of the encoder and of the decoder.

    Args:
        preset: Its name.
        **given: Arguments of `EncoderDecoder`, or names of `OF_BOTH` for those of encoder and decoder at once.
    """
    of_both = {name: given.pop(name) for name in OF_BOTH if name in given}
    sizes = {**preset_arguments(preset), **of_both}
    spread = {each: value for name, value in sizes.items() for each in OF_BOTH.get(name, (name,))}
    return EncoderDecoder(**{**spread, **given})


def _build(model, corpus, settings) -> EncoderDecoder:
    if importlib.util.find_spec("sacrebleu") is None:
        raise ValueError(
            'translation needs the extra `translation`: pip install ".[translation]". '
            "Received: no package sacrebleu, by which its models are scored"
        )
    places = model.absolute_positions
    if places is not None and settings.max_length > places:
        raise ValueError(
            f"`max_length` must be at most `absolute_positions`, {places}. Received: max_length={settings.max_length}"
        )
    return model


def _batches(corpus, split, settings, seed, batch_multiple):
    # Of both splits, so that validation has no shapes of its own.
    lengths = np.concatenate([pair_lengths(corpus[each]) for each in corpus.splits])
    shapes = pair_shapes(lengths, settings.max_length, settings.batch_tokens, settings.batch_shapes)
    batches, report = pair_buckets(
        corpus[split],
        shapes,
        settings.batch_tokens,
        tokenizer=corpus.tokenizer,
        seed=seed,
        shuffle=split == "train",
        batch_multiple=batch_multiple,
    )
    logger.info("%s: %s", split, report)
    return batches


def _scores(model, batches, corpus, settings) -> dict[str, float]:
    """Return BLEU and chrF of greedy translations of validation pairs, spread evenly over those of the batches."""
    fields, tokenizer = corpus["validation"], corpus.tokenizer
    fitting = np.flatnonzero((pair_lengths(fields) <= settings.max_length).all(axis=1))
    places = fitting[np.unique(np.linspace(0, len(fitting) - 1, min(len(fitting), SCORED)).astype("int64"))]
    sources, targets = ([tokenizer.decode(fields[name][i]) for i in places] for name in ("source_ids", "target_ids"))
    found = score(translate(model, tokenizer, sources, "greedy"), targets)
    return {name: value for name, (value, _) in found.items()}


TRANSLATION = Task(
    name="translation",
    phase=PHASE,
    encoding=PAIRS,
    settings=TranslationSettings,
    optimizer="translation_optimizer",
    length="max_length",
    tokenizers=("sentencepiece", "bytes"),
    translates=True,
    backbone=Backbone(
        _make,
        frozenset((argument_names(EncoderDecoder) | {*OF_BOTH, "dtype"}) - OF_A_RUN - FIXED),
    ),
    model=EncoderDecoder,
    build=_build,
    batches=_batches,
    budget=lambda settings, batches: epoch_budget(settings, batches, PHASE),
    loss=lambda settings: GlobalCrossEntropy(label_smoothing=settings.label_smoothing),
    metrics=lambda corpus: [keras.metrics.SparseCategoricalAccuracy(name="accuracy"), Perplexity()],
    scores=_scores,
    page="translator",
)
