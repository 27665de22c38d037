"""The tasks of the arena as prepared folders: every document is bytes, every byte a token.

What is no text is a document of bytes too: of a grey picture its 1,024 pixels row by row, of ListOps a byte for each
token. So `train` takes all of them alike, and one tokenizer, `ByteTokenizer`, names all ids.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import _listops
import _pathfinder
import _published
import numpy as np

from krpe_tf.data import PreparedCorpus, load_corpus, prepare_arrays
from krpe_tf.text import ByteTokenizer

TOKENIZER = ByteTokenizer()
# Byte b is this id more.
FIRST_ID = TOKENIZER.vocabulary_size - 256
Counts = tuple[int, int, int]


@dataclass(frozen=True)
class ArenaTask:
    """A task.

    Attributes: `title`; `classes`; `sizes`, how many documents the published training, validation and test parts have;
    `make`, `(counts, packages)` -> of each part, of so many documents, these as uint8 arrays and their labels.
    """

    title: str
    classes: tuple[str, ...]
    sizes: Counts
    make: Callable[[Counts, Path], list[tuple[Sequence[np.ndarray], np.ndarray]]]


def _generated(generate: Callable) -> Callable[[Counts, Path], list[tuple]]:
    def make(counts: Counts, packages: Path) -> list[tuple]:
        documents, labels = generate(sum(counts), seed=0)
        borders = itertools.pairwise(np.cumsum([0, *counts]))
        return [(documents[start:stop], labels[start:stop]) for start, stop in borders]

    return make


def _image_parts(counts: Counts, packages: Path) -> list[tuple]:
    return _held_out(*(_published.grey_pictures(part, packages) for part in ("train", "test")), counts)


def _text_parts(counts: Counts, packages: Path) -> list[tuple]:
    parts = []
    for rows in _published.reviews(packages):
        # The order of the package is by label.
        texts, labels = zip(*(rows[place] for place in np.random.default_rng(0).permutation(len(rows))), strict=True)
        documents = [np.frombuffer(text.encode(), "uint8") for text in texts]
        parts.append((documents, np.array([label == "pos" for label in labels], "int32")))
    return _held_out(*parts, counts)


def _held_out(training: tuple, test: tuple, counts: Counts) -> list[tuple]:
    """Return the first documents to train on, the last ones of the same to validate by, and the first to test on."""
    places = (training, slice(counts[0])), (training, slice(-counts[1], None)), (test, slice(counts[2]))
    return [(documents[place], labels[place]) for (documents, labels), place in places]


DIGITS = tuple("0123456789")
TASKS = {
    "listops": ArenaTask("ListOps", DIGITS, (96_000, 2000, 2000), _generated(_listops.generate)),
    "text": ArenaTask("Text", ("neg", "pos"), (22_377, 2500, 25_000), _text_parts),
    "image": ArenaTask("Image", _published.CLASSES, (45_000, 5000, 10_000), _image_parts),
    "pathfinder": ArenaTask(
        "Pathfinder", ("apart", "connected"), (160_000, 20_000, 20_000), _generated(_pathfinder.generate)
    ),
}


def prepare_task(name: str, folder: Path, training: int | None = None, held_out: int | None = None) -> None:
    """Write the parts of a task, `name` and `name_test` in `folder`, unless they are there, of these sizes.

    Args:
        name: A name of `TASKS`.
        folder: Where the two folders are; packages are kept in its folder "packages".
        training: So many training documents; None for the published number.
        held_out: The same of the validation and the test part.
    """
    task, test = TASKS[name], folder / f"{name}_test"
    wanted = zip(task.sizes, (training, held_out, held_out), strict=True)
    counts = tuple(size if most is None else min(most, size) for size, most in wanted)
    if (folder / name).is_dir() and test.is_dir():
        corpus, tested = load_task(name, folder)
        if counts == (corpus.documents("train"), corpus.documents("validation"), tested.documents("train")):
            return
    parts = [(list(map(as_ids, documents)), labels) for documents, labels in task.make(counts, folder / "packages")]
    prepare_arrays(test, {"train": parts[2]}, task.classes, TOKENIZER, overwrite=True)
    splits = dict(zip(("train", "validation"), parts[:2], strict=True))
    prepare_arrays(folder / name, splits, task.classes, TOKENIZER, overwrite=True)


def as_ids(document: np.ndarray) -> np.ndarray:
    """Return the ids of bytes, uint16, between a start and an end, as `TOKENIZER` encodes texts."""
    bare = np.ravel(document).astype("uint16") + np.uint16(FIRST_ID)
    return np.pad(bare, 1, constant_values=(TOKENIZER.start_id, TOKENIZER.end_id))


def load_task(name: str, folder: Path) -> tuple[PreparedCorpus, PreparedCorpus]:
    """Open the two folders of a task: the one to train on, and the one whose "train" is the test part."""
    return load_corpus(folder / name), load_corpus(folder / f"{name}_test")
