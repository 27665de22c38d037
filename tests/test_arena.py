"""The Long Range Arena: its generated data against independent truth, a run at sizes that prove nothing, its page."""

import importlib
import json
import shutil
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from krpe_tf.runs import RunSettings, load_config, make_recipe
from krpe_tf.tasks import TEXT_CLASSIFICATION

ARENA = Path(__file__).parent.parent / "benchmarks" / "arena"
DOCS = ARENA.parent.parent / "docs"
MEANINGS = {"<": min, ">": max, "=": lambda values: int(median(values)), "+": lambda values: sum(values) % 10}


@pytest.fixture
def load(monkeypatch):
    for folder in (ARENA.parent, ARENA.parent / "recipes", ARENA):
        monkeypatch.syspath_prepend(folder)
    return importlib.import_module


def read_formula(text, place=0, depth=0):
    """Return what a formula comes to, how deep lists are nested, how many arguments they have, and where it ends."""
    if text[place].isdigit():
        return int(text[place]), depth, set(), place + 1
    meaning, values, deepest, counts = MEANINGS[text[place]], [], depth + 1, set()
    place += 1
    while text[place] != ".":
        value, below, more, place = read_formula(text, place, depth + 1)
        values, deepest, counts = [*values, value], max(deepest, below), counts | more
    return meaning(values), deepest, counts | {len(values)}, place + 1


def test_listops_come_to_what_they_say(load):
    documents, values = load("_listops").generate(120, seed=3)
    again, _ = load("_listops").generate(120, seed=3)
    assert all(map(np.array_equal, documents, again))
    other, _ = load("_listops").generate(1, seed=4)
    assert not np.array_equal(documents[0], other[0])
    texts = [bytes(document).decode() for document in documents]
    assert len(set(texts)) == 120
    found, depths, counts, ends = zip(*map(read_formula, texts), strict=True)
    assert list(found) == values.tolist()
    assert list(ends) == list(map(len, texts))
    assert 500 < min(ends) < 600
    assert 1800 < max(ends) < 2000
    # The published generator begins to count at 1: ten levels are nine lists around a digit.
    assert max(depths) == 9
    assert set.union(*counts) == set(range(2, 11))
    assert set("".join(text[0] for text in texts)) == set(MEANINGS)


def connected(picture):
    """Flood the bright pixels from one dot, over gaps of one dark pixel; return whether it reaches the other."""
    bright, dots = (set(map(tuple, np.argwhere(picture >= least))) for least in (1, 255))
    assert len(dots) == 18
    reached = waiting = {min(dots)}
    while waiting:
        near = {(y + dy, x + dx) for y, x in waiting for dy in range(-2, 3) for dx in range(-2, 3)}
        waiting = (near & bright) - reached
        reached = reached | waiting
    # Of the other dot all pixels or none.
    assert len(dots & reached) in (9, 18)
    return dots <= reached


def test_pathfinder_says_whether_a_path_connects_the_dots(load):
    generate = load("_pathfinder").generate
    pictures, labels = generate(150, seed=1, batch=256)
    again, answers = generate(150, seed=1, batch=256)
    assert np.array_equal(pictures, again)
    assert np.array_equal(labels, answers)
    assert [connected(picture) for picture in pictures] == (labels == 1).tolist()
    assert 50 < labels.sum() < 100
    assert len({picture.tobytes() for picture in pictures}) == 150
    # Long snakes and distractors: 48 dashes of 2 to 4 pixels at most, and dots over two of them.
    assert (pictures > 0).sum(axis=(1, 2)).min() > 60
    assert not pictures[:, [0, -1]][pictures[:, [0, -1]] < 255].any()


def test_the_distance_of_the_dots_does_not_tell_the_answer(load):
    pictures, labels = load("_pathfinder").generate(400, seed=2, batch=1024)
    distances = []
    for picture in pictures:
        pixels = np.argwhere(picture == 255)
        one = np.abs(pixels - pixels[0]).max(axis=1) < 3
        distances.append(np.linalg.norm(pixels[one].mean(axis=0) - pixels[~one].mean(axis=0)))
    order = np.argsort(distances)
    right = np.cumsum(2 * labels[order] - 1)
    # Of the best threshold, in either direction: 1.0 in total would always be right, a guess 0.
    assert np.abs(right - np.arange(1, 401) / 400 * right[-1]).max() / 200 < 0.25


def test_parts_are_documents_of_bytes(tmp_path, load):
    tasks = load("_arena_tasks")
    tasks.prepare_task("listops", tmp_path, training=5, held_out=3)
    corpus, test = tasks.load_task("listops", tmp_path)
    documents, values = load("_listops").generate(11, seed=0)
    found = [(part["token_ids"], part["label"]) for part in (corpus["train"], corpus["validation"], test["train"])]
    texts = [tasks.TOKENIZER.decode(ids) for documents, _ in found for ids in documents]
    assert texts == [bytes(document).decode() for document in documents]
    assert np.array_equal(np.concatenate([labels for _, labels in found]), values)
    assert np.array_equal(found[0][0][0], tasks.TOKENIZER.encode(texts[:1])[0])
    # Parts of a set that is not generated: none in two of them.
    parts = tasks._held_out((np.arange(10), np.arange(10)), (np.arange(20, 25), np.arange(5)), (6, 3, 2))
    assert [part.tolist() for part, _ in parts] == [[0, 1, 2, 3, 4, 5], [7, 8, 9], [20, 21]]


@pytest.mark.slow
def test_quick_run_and_its_page(tmp_path, load):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "long_range_arena.md").write_text("before\n<!-- arena: begin -->\nold\n<!-- arena: end -->\nafter\n")
    # The second time there is nothing left to run.
    for _ in range(2):
        load("arena").main(["--quick", "--task", "listops", "--output", str(tmp_path)])
    runs = [json.loads(line) for line in (tmp_path / "arena.jsonl").read_text().splitlines()]
    assert [run["model"] for run in runs] == json.loads((ARENA / "small.json").read_text())["models"][::2]
    assert [[step for step, *_ in run["curve"]] for run in runs] == [[1, 2], [1, 2], []]
    for run in runs:
        assert 0 <= run["accuracy"] <= 1
        assert run["loss"] is None or run["loss"] > 0
    load("arena_page").main(["--output", str(tmp_path), "--publish", str(docs)])
    text = (docs / "long_range_arena.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "A quick run" in text
    assert f"| {runs[0]['model']} | {100 * runs[0]['accuracy']:.1f} | - | - | - | 1 |" in text
    assert (docs / "figures" / "arena" / "pathfinder.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("task", "rows", "steps"),
    [("listops", 32, 5000), ("text", 32, 20_000), ("image", 256, 35_000), ("pathfinder", 512, 62_400)],
)
def test_published_schedules_are_settings_of_train(load, task, rows, steps):
    settings = RunSettings.from_names(load_config(ARENA / f"published_{task}.json"))
    assert make_recipe(TEXT_CLASSIFICATION, settings) == (TEXT_CLASSIFICATION,)
    assert settings.batch_tokens == rows * settings.max_length
    epoch = load("_arena_tasks").TASKS[task].sizes[0] / rows
    assert 1 <= settings.epochs * epoch / steps <= 1.2  # Epochs are whole.


def test_positions_are_the_only_order_of_the_baselines(load):
    arena = load("_arena")
    sizes = {"num_layers": 1, "num_heads": 1, "hidden_dim": 8, "intermediate_dim": 8, "max_length": 8}
    ids = np.array([[5, 6, 7, 8, 9, 10]])
    inputs, swapped = ({"token_ids": x, "padding_mask": np.ones_like(x)} for x in (ids, ids[:, ::-1]))
    for name in arena.BASELINES:
        model = arena.make_model({**sizes, "model": name, "task": "listops", "seed": 0, "pooling": "mean"})
        table = model.get_layer("positions").embeddings
        assert np.abs(model.predict(inputs, verbose=0) - model.predict(swapped, verbose=0)).max() > 1e-6
        table.assign(0 * table)
        np.testing.assert_allclose(model.predict(inputs, verbose=0), model.predict(swapped, verbose=0), atol=1e-6)


def test_page_is_what_the_kept_runs_give(tmp_path, load):
    docs = tmp_path / "docs"
    shutil.copytree(DOCS / "figures" / "arena", docs / "figures" / "arena")
    shutil.copy(DOCS / "long_range_arena.md", docs)
    load("arena_page").main(["--output", str(docs / "figures" / "arena"), "--publish", str(docs)])
    assert (docs / "long_range_arena.md").read_text() == (DOCS / "long_range_arena.md").read_text()


def test_page_without_runs_says_so(tmp_path, load):
    with pytest.raises(SystemExit, match=r"--output must hold arena\.jsonl"):
        load("arena_page").main(["--output", str(tmp_path)])
