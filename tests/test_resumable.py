"""A run that was stopped anywhere and resumed is, step by step and bit by bit, the run that was never stopped."""

import itertools
import logging

import keras
import numpy as np
import pytest
from blobs import STEPS, Blobs, Interrupt, Watch, assert_same, fit, held_out, make_model, values
from keras import ops

from krpe_tf import training
from krpe_tf.models import Encoder, MaskedLM
from krpe_tf.training import (
    Budget,
    Checkpoints,
    DivergedError,
    compile_classifier,
    compile_masked_lm,
    fit_resumably,
    make_optimizer,
)


def test_training_learns_and_takes_every_step(tmp_path):
    watch = Watch()
    history = fit(make_model(), Checkpoints(tmp_path), watch)
    assert list(watch.losses) == list(range(1, STEPS + 1))
    assert history["step"] == [3, 6, 9, 11]
    assert history["val_step"] == [6, 11]
    assert len(history["loss"]) == len(history["accuracy"]) == 4
    assert len(history["val_loss"]) == 2
    assert history["val_loss"][1] < history["val_loss"][0] < np.log(3)


@pytest.mark.parametrize("stop", [2, 9])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, caplog, stop):
    whole_watch, cut_watch, resumed_watch = Watch(), Watch(stop), Watch()
    whole, resumed = make_model(), make_model()
    start = values(whole.variables)
    expected = fit(whole, Checkpoints(tmp_path / "whole"), whole_watch)

    cut = make_model()
    for variable, value in zip(cut.variables, start, strict=True):
        variable.assign(value)
    with pytest.raises(Interrupt):
        fit(cut, Checkpoints(tmp_path / "cut"), cut_watch)
    if stop < 3:  # Before the first checkpoint, what a process starts with is all there is.
        for variable, value in zip(resumed.variables, start, strict=True):
            variable.assign(value)
    with caplog.at_level(logging.INFO):
        history = fit(resumed, Checkpoints(tmp_path / "cut"), resumed_watch)
    last = (stop - 1) // 3 * 3  # It stops before the end of the interval is reached, and a checkpoint saved.
    assert (f"resuming training at step {last} from 00" in caplog.text) == (last > 0)
    assert list(resumed_watch.losses) == list(range(last + 1, STEPS + 1))
    assert cut_watch.losses | resumed_watch.losses == whole_watch.losses
    assert history == expected
    assert_same(resumed, whole)


@pytest.mark.parametrize(
    "kept",
    [
        lambda model: {"model": model.weights, "optimizer": model.optimizer.variables},
        lambda model: {"model": model.variables, "optimizer": model.optimizer.variables[:2]},
    ],
    ids=["without seeds of dropout", "without moments"],
)
def test_the_comparison_notices_what_a_checkpoint_lacks(tmp_path, monkeypatch, kept):
    whole, resumed = Watch(), Watch()
    keras.utils.set_random_seed(1)
    fit(make_model(), Checkpoints(tmp_path / "whole"), whole)
    monkeypatch.setattr("krpe_tf.training.checkpoint_callback._variables", kept)
    checkpoints = Checkpoints(tmp_path / "cut")
    keras.utils.set_random_seed(1)
    with pytest.raises(Interrupt):
        fit(make_model(), checkpoints, Watch(4))
    fit(make_model(), checkpoints, resumed)
    assert resumed.losses[5] != whole.losses[5]


@pytest.mark.parametrize("stop", [None, 5])
def test_early_stopping_resumes_and_the_best_weights_come_back(tmp_path, stop):
    # Validation with other labels gets worse as training gets better.
    arguments = {"validation": held_out(swapped=True), "validate_every": 2, "checkpoint_every": 2, "patience": 2}
    checkpoints = Checkpoints(tmp_path)
    if stop:
        with pytest.raises(Interrupt):
            fit(make_model(0.2), checkpoints, Watch(stop), **arguments)
    model = make_model(0.2)
    history = fit(model, checkpoints, **arguments)
    best = int(np.argmin(history["val_loss"]))
    assert history["val_step"] == list(range(2, 2 * (best + 3) + 1, 2))
    assert history["val_step"][-1] < STEPS
    loss = model.evaluate(*arguments["validation"], verbose=0, return_dict=True)["loss"]
    assert loss == history["val_loss"][best]
    # Asked once more, it is finished, and at its best again.
    again = make_model(0.2)
    assert fit(again, checkpoints, **arguments) == history
    for a, b in zip(values(again.weights), values(model.weights), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("validate_every", "checkpoint_every", "steps", "validated", "saved"),
    [
        (None, 100, [11], [11], [11]),
        (None, 4, [4, 8, 11], [11], [4, 8, 11]),
        (5, 3, [3, 6, 9, 11], [6, 11], [3, 6, 9, 11]),
        (2, 5, [2, 4, 6, 8, 10, 11], [2, 4, 6, 8, 10, 11], [4, 8, 11]),
    ],
)
def test_intervals(tmp_path, validate_every, checkpoint_every, steps, validated, saved):
    checkpoints = Checkpoints(tmp_path, keep=20)
    model = make_model()
    history = fit(model, checkpoints, validate_every=validate_every, checkpoint_every=checkpoint_every)
    assert history["step"] == steps
    assert history["val_step"] == validated
    assert [int(path.name.split(".")[0].rpartition("-")[2]) for path in checkpoints.paths] == saved
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == STEPS


def test_without_checkpoints_and_validation():
    history = fit(make_model(), None, validation=None)
    assert set(history) == {"step", "loss", "accuracy"}


def test_a_broken_batch_stops_the_run_and_names_the_interval(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    said = r"must stay finite.*Received: loss=nan of phase 'training' in steps 7 to 9$"
    with pytest.raises(DivergedError, match=said) as raised:
        fit(make_model(), checkpoints, broken_step=7)
    assert (raised.value.phase, raised.value.step) == ("training", 9)
    saved = checkpoints.restore()
    assert saved.state["step"] == 6
    assert all(np.isfinite(array).all() for array in saved.arrays.values())
    # With the data mended the run resumes.
    assert fit(make_model(), checkpoints)["step"] == [3, 6, 9, 11]


def test_no_step_waits_for_its_loss(monkeypatch):
    """Keras runs callbacks of batches in a thread only if none of them needs to be waited for."""
    lists = []
    configure = keras.callbacks.CallbackList._configure_async_dispatch
    monkeypatch.setattr(
        keras.callbacks.CallbackList,
        "_configure_async_dispatch",
        lambda self, callbacks: (lists.append(self), configure(self, callbacks)),
    )
    history = fit(make_model(), None)
    assert history["step"] == [6, 11]
    assert lists
    assert all(each._async_train == (keras.backend.backend() == "jax") for each in lists)


def test_a_learning_rate_that_diverges_stops_the_run(tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e9), keras.losses.MeanSquaredError())
    with pytest.raises(DivergedError, match=r"Received: loss=(inf|nan) of phase 'training' in steps \d+ to \d+"):
        fit(model, Checkpoints(tmp_path), validation=None)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = make_model()
    model.compile(keras.optimizers.SGD(np.inf), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    checkpoints = Checkpoints(tmp_path)
    # The loss of the first step is that of the weights before it.
    with pytest.raises(DivergedError, match=r"`arrays` must be finite.* of phase 'training' at step 1$"):
        fit(model, checkpoints, checkpoint_every=1, validation=None)
    assert checkpoints.restore() is None


def test_phases_share_their_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    first = make_model()
    first_history = fit(first, checkpoints, phase="first")
    again = make_model()
    watch = Watch()
    assert fit(again, checkpoints, watch, phase="first") == first_history
    assert not watch.losses
    assert_same(again, first)

    with pytest.raises(Interrupt):
        fit(make_model(), checkpoints, Watch(7), phase="second")
    untouched = make_model()
    start = values(untouched.variables)
    assert fit(untouched, checkpoints, phase="first") == first_history
    for a, b in zip(values(untouched.variables), start, strict=True):
        np.testing.assert_array_equal(a, b)
    fit(make_model(), checkpoints, watch, phase="second")
    assert list(watch.losses) == [7, 8, 9, 10, 11]
    assert set(checkpoints.restore().state["histories"]) == {"first", "second"}


def test_where_the_second_phase_has_no_whole_checkpoint_it_begins_anew_after_the_first(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    fit(make_model(), checkpoints, phase="first")
    with pytest.raises(Interrupt):
        fit(make_model(), checkpoints, Watch(4), phase="second")
    checkpoints.paths[-1].write_bytes(b"")
    watch = Watch()
    fit(make_model(), checkpoints, watch, phase="second")
    assert list(watch.losses) == list(range(1, STEPS + 1))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    fit(make_model(), checkpoints)
    inputs = keras.Input((8,))
    other = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    compile_classifier(other, make_optimizer(0.1, STEPS))
    with pytest.raises(ValueError, match=r"`model` must be the one that the checkpoint is of.*Received: 2 variables"):
        fit(other, checkpoints)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint_every": 0}, r"`checkpoint_every` must.*Received: checkpoint_every=0"),
        ({"validate_every": 0}, r"`validate_every` must.*Received: validate_every=0"),
        ({"validation_steps": 0}, r"`validation_steps` must.*Received: validation_steps=0"),
        ({"patience": 0}, r"`patience` must.*Received: patience=0"),
        ({"patience": 1, "validation": None}, r"`patience` needs a validation. Received: patience=1"),
        ({"phase": "fine tuning"}, r'`phase` must be letters, digits and "_". Received: phase=\'fine tuning\''),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(make_model(), None, **arguments)


@pytest.mark.parametrize("other", [{"checkpoint_every": 2}, {"validate_every": 4}])
def test_other_intervals_than_those_of_the_checkpoint_are_refused(tmp_path, other):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(Interrupt):
        fit(make_model(), checkpoints, Watch(8))
    with pytest.raises(ValueError, match=r"`checkpoint_every` and .*, which had interval=3. Received: interval=2"):
        fit(make_model(), checkpoints, **other)
    model, budget = make_model(), Budget(STEPS + 1, validate_every=6, checkpoint_every=3)
    with pytest.raises(ValueError, match=r"which had steps=11. Received: steps=12"):
        training.fit(model, Blobs(), budget, checkpoints=checkpoints)


def test_the_arguments_of_0_1_train_the_same(tmp_path):
    class Old:
        dataset = Blobs.training_data
        broken_step = -1

    models = make_model(), make_model()
    for variable, value in zip(models[1].variables, values(models[0].variables), strict=True):
        variable.assign(value)
    expected = fit(models[0], Checkpoints(tmp_path / "new"), phase="first", patience=2)
    arguments = {"validation": held_out(), "validation_every": 6, "checkpoint_every": 3, "patience": 2}
    more = {"phase": "first", "process_index": 0, "process_count": 1, "verbose": 0}
    history = fit_resumably(models[1], Old(), STEPS, checkpoints=Checkpoints(tmp_path / "old"), **arguments, **more)
    assert history == expected
    assert_same(*models)
    with pytest.raises(TypeError, match="unexpected arguments validate"):
        fit_resumably(models[1], Old(), STEPS, validate=3)


def test_batches_are_asked_for_this_process_and_so_many_steps():
    asked = []

    class Data(Blobs):
        def training_data(self, *arguments):
            asked.append(arguments)
            return super().training_data(*arguments)

        def validation_data(self, process_index, process_count, steps=None):
            asked.append((process_index, process_count, steps))
            return held_out()

    training.fit(make_model(), Data(), Budget(STEPS, validation_steps=4), validation=Data())
    assert sorted(asked) == [(0, 0, 1), (0, 1, 4)]


def test_a_validation_that_is_not_finite_stops_the_run(tmp_path):
    x, label = held_out()
    broken = x * np.float32(np.nan), label
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(DivergedError, match=r"Received: val_loss=nan of phase 'training' at step 6"):
        fit(make_model(), checkpoints, validation=broken, patience=1)
    assert checkpoints.restore().state["step"] == 3


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="tests/test_kill_and_resume.py shows it there")
def test_masked_lm_with_dropout_everywhere_resumes_exactly(tmp_path):
    class Masked:
        def training_data(self, start_step=0, process_index=0, process_count=1):
            for step in itertools.count(start_step):
                random = np.random.default_rng(step)
                ids = random.integers(0, 50, (4, 64)).astype("int32")
                positions = random.integers(0, 64, (4, 9)).astype("int32")
                inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids), "mask_positions": positions}
                yield inputs, np.take_along_axis(ids, positions, axis=1), np.ones((4, 9), "float32")

    def train(folder, stop=None):
        keras.utils.set_random_seed(0)
        model = MaskedLM(Encoder.from_preset("tiny", vocabulary_size=50, seed=1), at_positions=True)
        compile_masked_lm(model, make_optimizer(0.01, 8), jit_compile=True)
        watch = Watch(stop)
        try:
            budget = Budget(8, checkpoint_every=3)
            training.fit(model, Masked(), budget, checkpoints=Checkpoints(folder), callbacks=[watch])
        except Interrupt:
            assert stop
        return model, watch.losses

    whole, losses = train(tmp_path / "whole")
    _, before = train(tmp_path / "cut", stop=5)
    resumed, after = train(tmp_path / "cut")
    assert list(after) == [4, 5, 6, 7, 8]
    assert before | after == losses
    assert_same(resumed, whole)
