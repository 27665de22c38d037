"""What a task is: one description from the columns of a source to what `predict` prints."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from ..data import Batches, Corpus, Encoding
from ..models import Encoder
from ..text import Tokenizer
from ..training import Budget
from .settings import Settings, argument_names


class Backbone(NamedTuple):
    """What the model of a task is built on, made from a preset and the setting `encoder`.

    Attributes: `make`, `(preset, **arguments)` -> it; `arguments`, the names that the setting may hold.
    """

    make: Callable[..., keras.Model]
    arguments: frozenset[str]


# Arguments that a run has settings of its own for.
OF_A_RUN = {"vocabulary_size", "seed"}

ENCODER = Backbone(Encoder.from_preset, frozenset(argument_names(Encoder) - OF_A_RUN | {"dtype"}))


class Start(NamedTuple):
    """A trained encoder whose arguments, but for `changes`, and weights the encoder of a run starts from.

    Attributes: `encoder`; `changes`, arguments of `Encoder` by name; `tokenizer`, that of both.
    """

    encoder: Encoder
    changes: dict[str, Any]
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Task:
    """All that training, export and prediction need to know of a task.

    `runs` trains, exports and uses any task from this description alone: a new one is a file in this folder and a line
    in `TASKS`. Functions get `settings` as an instance of the class `settings` here.

    Attributes:
        name: Names the task on the command line and in task.json of a run folder.
        phase: Names its training in logs, checkpoints and histories.
        encoding: The columns that a source must have, and how its rows become arrays.
        settings: Dataclass of its settings. The help text of a field is that of its option of `train`.
        optimizer: The setting that holds arguments of `make_optimizer`.
        length: The setting that holds how many tokens it trains on at most.
        batch_size: The setting that holds the rows of a batch, which the devices must divide; None where `batches` sees
            to that.
        tokenizers: The kinds of tokenizer that it may learn, see `learn_tokenizer`; by default the first.
        causal: Whether its model continues text: its encoder is then causal, its tokenizer gives the text back,
            `export` writes a generator, and `generate` runs it.
        translates: Whether its model writes a target for a source: its tokenizer gives the text back, `export` writes a
            translator, and `translate` and `evaluate` run it.
        one_process: Whether it trains in one process alone.
        backbone: What its model is built on.
        model: The class of its model; brings `get_layout_map`.
        build: `(backbone, corpus, settings)` -> the model, not compiled.
        start: `(settings)` -> the `Start` of the run's encoder. None: it is a preset's, and starts at random.
        loss: `(settings)` -> the loss; None for cross-entropy.
        batches: `(corpus, split, settings, seed, batch_multiple)` -> the `Batches` of a split, shuffled for "train".
        budget: `(settings, batches)` -> steps, validations and patience.
        exported: `(model)` -> the model to export.
        answer: `(outputs, texts, tokenizer, classes)` -> one answer a text. `outputs` holds the model's output for each
            text alone; `tokenizer.encode(texts)` are the ids that they were computed from. None: `predict` is refused.
        show: `(answer)` -> the line that `predict` prints.
        metrics: `(corpus)` -> what is measured beside loss and accuracy while it trains and validates.
        scores: `(model, batches, corpus, settings)` -> scores by name of the trained model on the validation batches.
            They are logged and kept in training.json. None: losses and metrics of the history say it all.
        page: The page in which a browser runs an exported model, of `krpe_tf.runs.web`; None: there is none.
        pretraining: The task that may train the encoder first.
    """

    name: str
    phase: str
    encoding: Encoding
    settings: type[Settings]
    optimizer: str
    length: str
    model: type[keras.Model]
    build: Callable[[keras.Model, Corpus, Any], keras.Model]
    batches: Callable[[Corpus, str, Any, int, int], Batches]
    budget: Callable[[Any, Batches], Budget]
    batch_size: str | None = None
    tokenizers: tuple[str, ...] = ("wordpiece",)
    causal: bool = False
    translates: bool = False
    one_process: bool = False
    backbone: Backbone = ENCODER
    start: Callable[[Any], Start] | None = None
    loss: Callable[[Any], keras.losses.Loss] | None = None
    exported: Callable[[keras.Model], keras.Model] = lambda model: model
    answer: Callable[[list[np.ndarray], list[str], Tokenizer, list[str] | None], list] | None = None
    show: Callable[[Any], str] = str
    metrics: Callable[[Corpus], list[keras.metrics.Metric]] = lambda corpus: []
    scores: Callable[[keras.Model, Batches, Corpus, Any], dict[str, float]] | None = None
    page: str | None = None
    pretraining: "Task | None" = None

    @property
    def writes(self) -> bool:
        """Whether its model writes text, so that its tokenizer must give texts back."""
        return self.causal or self.translates

    def learns(self, settings: Settings) -> str:
        """Return which tokenizer these settings have it learn, see `learn_tokenizer`."""
        return self.tokenizers[0] if settings.tokenizer == "auto" else settings.tokenizer
