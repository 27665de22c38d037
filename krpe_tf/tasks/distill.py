"""Distillation: an encoder learns to give the vectors of a teacher. Needs texts alone, and a trained encoder."""

from dataclasses import dataclass

import numpy as np

from ..data import TEXTS, Array, Batches
from ..models import LayerVectors, TextEmbedder
from ..training import GlobalVectorError
from .documents import PHASE, DocumentSettings, document_batches, epoch_budget
from .settings import setting
from .task import Start, Task
from .teacher import load_teacher

# What makes an exact encoder with absolute positions linear, for any length. Its teacher computes without dropout.
CHANGES = {"feature_map": "orthogonal", "absolute_positions": None, "dropout": 0.0}


@dataclass(frozen=True)
class DistillationSettings(DocumentSettings):
    """Settings of distillation."""

    teacher: str = setting("none", "run folder, or .keras file beside its tokenizer.json, whose encoder to imitate")


def _start(settings) -> Start:
    vectors, tokenizer = load_teacher(settings)
    bias = {"position_bias": "decay"} if vectors.encoder.position_bias is None else {}
    return Start(vectors.encoder, {**CHANGES, **bias}, tokenizer)


def _build(encoder, corpus, settings) -> LayerVectors:
    teacher, tokenizer = load_teacher(settings)
    if corpus.tokenizer.get_config() != tokenizer.get_config():
        raise ValueError(f"`data` must have the tokenizer of the teacher, {settings.teacher}. Received: {corpus}")
    student = LayerVectors(encoder)
    if student.output.shape != teacher.output.shape:
        raise ValueError(
            "`encoder` must leave the teacher's `num_layers`, `hidden_dim` and `length`. "
            f"Received: vectors {student.output.shape} to imitate {teacher.output.shape}"
        )
    return student


def _batches(corpus, split, settings, seed, batch_multiple) -> Batches:
    """Make batches of whole documents, with the teacher's vectors as targets: computed as each batch is made."""
    teacher = load_teacher(settings)[0]
    plain = document_batches(corpus, split, settings, seed, batch_multiple, target="token_ids")

    def make(step: int, process_index: int, process_count: int) -> tuple:
        inputs, _, weights = plain.rows(step, process_index, process_count)
        return inputs, teacher.read(inputs), weights

    signature = plain.signature[0], Array((None, *teacher.output.shape[1:]), "float32"), plain.signature[2]
    return Batches(make, plain.steps_per_epoch, batch_multiple, signature)


def _answer(outputs, texts, tokenizer, classes) -> list[np.ndarray]:
    """Return the vector of each text: the mean of its tokens', which the exported file gives itself."""
    return [output[-1].mean(0) if output.ndim == 3 else output for output in outputs]


def _scores(model, batches, corpus, settings) -> dict[str, float]:
    """Return the mean cosine of the angle between the vectors of whole texts, and those of the teacher."""
    cosines = []
    for inputs, targets, weights in map(batches.__getitem__, range(batches.steps_per_epoch)):
        for *vectors, weight in zip(model.read(inputs), targets, weights[..., None], strict=True):
            if weight.any():
                x, y = (np.sum(each[-1] * weight, axis=0) for each in vectors)
                cosines.append(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
    return {"cosine": float(np.mean(cosines))}


DISTILL = Task(
    name="distill",
    phase=PHASE,
    encoding=TEXTS,
    settings=DistillationSettings,
    optimizer="fine_tune_optimizer",
    length="max_length",
    one_process=True,
    model=LayerVectors,
    start=_start,
    build=_build,
    batches=_batches,
    budget=epoch_budget,
    loss=lambda settings: GlobalVectorError(),
    exported=lambda model: TextEmbedder(model.encoder),
    answer=_answer,
    show=lambda answer: " ".join(f"{value:.4f}" for value in answer),
    scores=_scores,
)
