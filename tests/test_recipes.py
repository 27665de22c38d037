"""The recipes: their batches and models, a run at sizes that prove nothing, and the page of what was measured."""

import importlib
import json
import math
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

RECIPES = Path(__file__).parent.parent / "benchmarks" / "recipes"
DOCS = RECIPES.parent.parent / "docs"


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES)
    return pytest.importorskip("_masked_lm")


@pytest.fixture
def causal(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES)
    monkeypatch.syspath_prepend(RECIPES.parent)
    return pytest.importorskip("_causal_lm")


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES)
    return importlib.import_module("page")


SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 16, "length": 12, "seed": 0}


def test_batches_hide_what_they_ask_for(recipes):
    data = np.arange(100_000, dtype="int64").astype("uint8")
    inputs, labels, weights = recipes.make_batches(data, length=200, rows=50, mask_rate=0.15, seed=3)
    again, *_ = recipes.make_batches(data, length=200, rows=50, mask_rate=0.15, seed=3)
    ids, positions = inputs["token_ids"], inputs["mask_positions"]
    assert np.array_equal(ids, again["token_ids"])
    assert labels.shape == weights.shape == positions.shape == (50, 30)
    assert (np.diff(positions) > 0).all()
    # The data counts up, so the truth of a window follows from any byte that was left alone.
    asked = np.zeros(ids.shape, bool)
    np.put_along_axis(asked, positions, True, axis=1)
    first = np.argmin(asked, axis=1)[:, None]
    truth = (np.take_along_axis(ids, first, axis=1) + np.arange(200) - first) % 256
    assert np.array_equal(ids[~asked], truth[~asked])
    assert np.array_equal(labels, np.take_along_axis(truth, positions, axis=1))
    assert 0.75 < (ids[asked] == recipes.MASK).mean() < 0.85
    assert 0.07 < (ids[asked] == truth[asked]).mean() < 0.13


@pytest.mark.parametrize("name", ["buckets", "full table", "radius 16 + 2 exponentials,"])
def test_biases_start_where_their_names_say(recipes, name):
    if f"{name} from zeros" in recipes.BIASES:
        assert not keras.ops.any(recipes.BIASES[f"{name} from zeros"](4, 64).log_weights(np.arange(-63, 64)))
    slopes = recipes.BIASES[f"{name} from slopes"](4, 64).log_weights(np.array([-2, -1, 1, 2]))
    expected = -(2.0 ** (-2.0 * np.arange(1, 5)))[:, None] * [2, 1, 1, 2]
    np.testing.assert_allclose(slopes, expected, rtol=1e-6, atol=1e-6)


def test_absolute_positions_are_the_only_order(recipes):
    model = recipes.make_model({**SIZES, "bias": recipes.ABSOLUTE, "attention": "softmax"})
    ids = np.array([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 256]])
    swapped = ids[:, [1, 0, *range(2, 12)]]
    mask, asked = np.ones_like(ids), np.array([[11]])
    here, there = (
        model.predict({"token_ids": x, "padding_mask": mask, "mask_positions": asked}, verbose=0)
        for x in (ids, swapped)
    )
    assert np.abs(here - there).max() > 1e-5
    table = model.encoder.get_layer("absolute_positions").table
    table.assign(keras.ops.zeros_like(table))
    here, there = (
        model.predict({"token_ids": x, "padding_mask": mask, "mask_positions": asked}, verbose=0)
        for x in (ids, swapped)
    )
    np.testing.assert_allclose(here, there, atol=1e-6)


def test_models_of_a_seed_start_from_the_same_weights(recipes):
    seen = {}
    for attention in recipes.ATTENTIONS:
        keras.utils.set_random_seed(0)
        model = recipes.make_model({**SIZES, "bias": recipes.DECAY, "attention": attention})
        seen[attention] = model.trainable_weights
    twin = seen.pop("softmax")
    for weights in seen.values():
        for mine, other in zip(weights, twin, strict=True):
            np.testing.assert_array_equal(mine, other)


@pytest.mark.slow
def test_quick_run_and_its_page(tmp_path, recipes, page):
    output, docs = tmp_path / "output", tmp_path / "docs"
    docs.mkdir()
    (docs / "recipes.md").write_text("before\n<!-- recipes: begin -->\nold\n<!-- recipes: end -->\nafter\n")
    # The second time there is nothing left to run.
    suites = [option for name in ("small", "small", "timing") for option in ("--suite", name)]
    importlib.import_module("masked_lm").main(["--quick", "--output", str(output), *suites])
    lines = [json.loads(line) for line in (output / "masked_lm.jsonl").read_text().splitlines()]
    trained, timing = lines[:-1], lines[-1]
    assert [run["attention"] for run in trained] == ["kernel", "softmax", "kernel, taylor"]
    for run in trained:
        assert [step for step, *_ in run["curve"]] == [2, 4]
        assert all(math.isfinite(loss) and loss > 0 for _, *losses in run["curve"] for loss in losses)
        assert run["final"] > 0
    assert all(seconds > 0 for seconds in timing["seconds"].values())

    page.main(["--output", str(output), "--publish", str(docs)])
    text = (docs / "recipes.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "A quick run" in text
    assert f"| {recipes.DECAY} | softmax | {trained[1]['final']:.3f} |" in text
    assert (docs / "figures" / "recipes" / "small_masked_lm.png").stat().st_size > 10_000


CAUSAL = {**SIZES, "length": 16, "multiples": [1, 4], "held_out_windows": 3, "batch_size": 4}


def test_held_out_bytes_are_the_same_at_every_length(causal):
    texts = [chr(97 + i) * 20 for i in range(3)], ["".join(map(chr, range(33, 33 + 90))), "short", "xyz" * 50]
    training, held_out = causal.encode(texts, longest=64, count=3)
    assert [len(document) for document in training] == [22] * 3
    assert [len(window) for window in held_out] == [65] * 3
    expected = sorted(np.concatenate([window[1:] for window in held_out]))
    for length in (16, 32, 64):
        batches = causal.batches(held_out, length, 4, seed=None)
        labels = [y[w > 0] for _, y, w in (batches[step] for step in range(batches.steps_per_epoch))]
        assert sorted(np.concatenate(labels)) == expected


def test_no_causal_model_sees_what_it_predicts(causal):
    ids = np.random.default_rng(0).integers(3, 259, (1, 16)).astype("int32")
    changed = np.where(np.arange(16) < 9, ids, 258 - ids % 200)
    for name in causal.BASELINES:
        model = causal.make_model({**CAUSAL, "model": name})
        here, there = (
            keras.ops.convert_to_numpy(model({"token_ids": x, "padding_mask": np.ones_like(x)})) for x in (ids, changed)
        )
        np.testing.assert_allclose(here[:, :9], there[:, :9], atol=1e-6)
        assert np.abs(here[:, 9:] - there[:, 9:]).max() > 1e-4
        # The order of what came before matters.
        swapped = ids[:, [1, 0, *range(2, 16)]]
        there = keras.ops.convert_to_numpy(model({"token_ids": swapped, "padding_mask": np.ones_like(ids)}))
        assert np.abs(here[:, 9:] - there[:, 9:]).max() > 1e-7


def test_causal_runs_start_anew_and_do_not_depend_on_the_runs_before(causal):
    settings = {
        **{**CAUSAL, "model": "orthogonal, m = 16", "steps": 4, "validate_every": 2, "learning_rate": 0.01},
        **{"warmup_fraction": 0.1, "weight_decay": 0.01, "clip_norm": 1.0},
    }
    documents = causal.encode((["abcd " * 60, "efgh " * 60], ["abcd " * 60]), longest=64, count=3)
    first, other, again = (causal.train({**settings, "seed": seed}, documents) for seed in (0, 1, 0))
    assert first["final"] == pytest.approx(again["final"])
    assert first["final"] != other["final"]
    assert list(first["final"]) == ["16", "64"]
    assert [step for step, *_ in first["curve"]] == [2, 4]
    assert 0 < first["final"]["16"] < 9


def causal_run(model, seed, bits, **changes):
    final = {"256": bits, "512": bits + 0.1}
    sizes = {"num_layers": 2, "hidden_dim": 96, "num_heads": 4, "length": 256, "multiples": [1, 2]}
    run = {"suite": "small", "model": model, "seed": seed, "learning_rate": 0.01, "steps": 2, "batch_size": 4, **sizes}
    run.update(held_out_windows=3, curve=[[1, 5.0, 5.0], [2, 4.0, bits]], final=final, cpu_seconds=9.0)
    return {**run, "versions": {"tensorflow": "1", "keras": "2"}, **changes}


def test_causal_page_pairs_the_seeds(tmp_path, page):
    runs = [causal_run("softmax, same bias", seed, 2.0 + seed) for seed in (0, 1)]
    runs += [causal_run("orthogonal, m = 16", seed, 2.01 + 1.02 * seed) for seed in (0, 1)]
    runs.append(causal_run("softmax, rotary positions", 0, 9.0, suite="sweep", final={"256": None, "512": None}))
    (tmp_path / "causal_lm.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    page.main(["--output", str(tmp_path)])
    text = (tmp_path / "recipes-lm.md").read_text()
    assert "| orthogonal, m = 16 | 0.01 | 2 | 2.520 ± 0.721 | 2.620 ± 0.721 | +0.020 (+0.010 to +0.030) |" in text
    assert "| softmax, same bias | 0.01 | 2 | 2.500 ± 0.707 | 2.600 ± 0.707 |  |  |" in text
    assert "| softmax, rotary positions | 0.01 | 1 | not finite | not finite |  |  |" in text
    assert (tmp_path / "small_causal_lm.png").stat().st_size > 10_000


def test_every_model_of_the_causal_config_is_known(causal):
    script = importlib.import_module("causal_lm")
    config = json.loads(script.CONFIG.read_text())
    for suite in script.SUITES:
        assert {run["model"] for run in script.runs(suite, config)} <= {*causal.ENCODERS, *causal.BASELINES}


def test_page_without_runs_says_so(tmp_path, page):
    with pytest.raises(
        SystemExit,
        match=r"--output must hold masked_lm\.jsonl or causal_lm\.jsonl or lookup\.jsonl or gradient_noise\.jsonl",
    ):
        page.main(["--output", str(tmp_path)])


def test_page_is_what_the_kept_runs_give(tmp_path, page):
    docs = tmp_path / "docs"
    shutil.copytree(DOCS / "figures" / "recipes", docs / "figures" / "recipes")
    for name in ("recipes.md", "lookup.md"):
        shutil.copy(DOCS / name, docs)
    page.main(["--output", str(docs / "figures" / "recipes"), "--publish", str(docs)])
    for name in ("recipes.md", "lookup.md"):
        assert (docs / name).read_text() == (DOCS / name).read_text()


def test_lookup_asks_for_pairs_that_were_given(recipes):
    lookup = importlib.import_module("_lookup")
    settings = {"pairs": 6, "asked": 3, "num_keys": 20, "num_values": 10}
    one, recall = (make(settings, 50, seed=1) for make in (lookup.attention_data, lookup.recall_data))
    for row, answers in zip(range(50), one["y"], strict=True):
        keys, values, query = (one["x"][name][row].tolist() for name in ("key", "value", "query"))
        given = dict(zip(keys, values, strict=True))
        assert len(given) == 6
        assert [given[key] for key in query] == answers.tolist()
    for ids, labels, weights in zip(recall["x"]["token_ids"], recall["y"], recall["sample_weight"], strict=True):
        given = dict(zip(ids[:12:2].tolist(), ids[1:12:2].tolist(), strict=True))
        assert ids[1:].tolist() == labels[:-1].tolist()
        asked = np.flatnonzero(weights)
        assert asked.tolist() == [12, 14, 16]
        assert [given[key] for key in ids[asked].tolist()] == labels[asked].tolist()


def test_quick_lookup_and_its_page(tmp_path, recipes, page):
    importlib.import_module("lookup").main(["--quick", "--output", str(tmp_path)])
    lines = [json.loads(line) for line in (tmp_path / "lookup.jsonl").read_text().splitlines()]
    names = ["softmax, not normalised", "m = 8", "softmax, not normalised", "m = 16"]
    assert [line["model"] for line in lines] == names
    assert all(0 <= line["final"] <= 1 for line in lines)
    page.main(["--output", str(tmp_path)])
    text = (tmp_path / "lookup.md").read_text()
    assert "A quick run" in text
    assert f"| m = 8 | {lines[1]['final']:.2f} (" in text
    assert (tmp_path / "lookup.png").stat().st_size > 10_000


def test_gradients_of_the_exact_kernel_have_no_noise(tmp_path, recipes, page):
    script = importlib.import_module("gradient_noise")
    script.main(["--quick", "--output", str(tmp_path)])
    (run,) = [json.loads(line) for line in (tmp_path / "gradient_noise.jsonl").read_text().splitlines()]
    assert run["noise"]["queries and keys"] > 0.1
    page.main(["--output", str(tmp_path)])
    assert f"| {run['noise']['queries and keys']:.2f} / " in (tmp_path / "gradient-noise.md").read_text()
    exact = recipes.compiled({**run, "attention": "softmax"})
    batch = next(iter(recipes.datasets(run, (np.arange(999) % 250,) * 2)[1]))
    found = script.measure({**run, "attention": "softmax"}, lambda *_: (exact, batch))["noise"]
    assert max(found.values()) < 1e-5
