import keras
import numpy as np
import pytest

from krpe_tf import BucketedBias, DecayBias, LearnedBias, LearnedBias2D
from krpe_tf.models import Encoder, MaskedLM, TextClassifier
from krpe_tf.models.presets import PRESETS
from krpe_tf.training import (
    GlobalAdamW,
    GlobalCrossEntropy,
    GlobalLossScaleOptimizer,
    compile_classifier,
    compile_masked_lm,
    make_optimizer,
)

tensorflow_only = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the others have no tf.distribute")


def to_numpy(x):
    return keras.ops.convert_to_numpy(x)


@pytest.mark.parametrize("shape", [(6,), (6, 4)])
def test_loss_is_the_mean_over_what_has_weight(shape):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(*shape, 5)).astype("float32")
    labels = rng.integers(0, 5, shape)
    log_odds = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_odds, labels[..., None], -1)[..., 0]
    loss = GlobalCrossEntropy()
    np.testing.assert_allclose(to_numpy(loss(labels, logits)), nats.mean(), rtol=1e-5)
    for weights in (rng.integers(0, 2, shape), rng.random(shape), rng.random(6)):
        expected = np.average(nats, weights=np.broadcast_to(weights.T, shape[::-1]).T)
        np.testing.assert_allclose(to_numpy(loss(labels, logits, weights.astype("float32"))), expected, rtol=1e-5)
    assert to_numpy(loss(labels, logits, np.zeros(shape, "float32"))) == 0


@pytest.mark.parametrize("task", ["masked_lm", "classifier"])
def test_a_compiled_model_loads_again(tmp_path, task):
    encoder = Encoder.from_preset("tiny", vocabulary_size=20, num_layers=1, dropout=0.0, seed=0)
    optimizer = make_optimizer(0.1, steps=5)
    rng = np.random.default_rng(0)
    inputs = {"token_ids": rng.integers(0, 20, (4, 8)), "padding_mask": np.ones((4, 8), "int32")}
    if task == "masked_lm":
        model = MaskedLM(encoder, at_positions=True)
        compile_masked_lm(model, optimizer)
        inputs["mask_positions"] = rng.integers(0, 8, (4, 3))
        batch = inputs, rng.integers(0, 20, (4, 3)), rng.integers(0, 2, (4, 3)).astype("float32")
    else:
        model = TextClassifier(encoder, 2)
        compile_classifier(model, optimizer)
        batch = inputs, rng.integers(0, 2, 4), np.array([1, 1, 1, 0], "float32")
    model.train_on_batch(*batch)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, GlobalAdamW)

    def check_equal(rtol):
        for m in (model, loaded):
            m.reset_metrics()  # Keras 3.13 averages over the batches before.
        expected, got = (m.test_on_batch(*batch, return_dict=True) for m in (model, loaded))
        assert expected.keys() == got.keys() == {"loss", "accuracy"}
        for name in expected:
            np.testing.assert_allclose(got[name], expected[name], rtol=rtol)

    check_equal(1e-5)
    if keras.backend.backend() == "tensorflow":  # Training goes on as it would have.
        for m in (model, loaded):
            m.train_on_batch(*batch)
        check_equal(1e-4)


def biases(num_heads):
    return {
        "none": None,
        "decay": DecayBias(num_heads),
        "bucketed": BucketedBias(num_heads),
        "learned": LearnedBias(num_heads, max_distance=8),
    }


def changed_by_weight_decay(weights):
    """Names of the weights that steps with a gradient of zero change."""
    start = {v.path: to_numpy(v) for v in weights}
    optimizer = make_optimizer(0.1, steps=10, warmup_fraction=0, weight_decay=0.5)
    optimizer.build(weights)
    # The rate of the first step is zero.
    for _ in range(2):
        optimizer.apply([keras.ops.zeros(v.shape) for v in weights])
    return {v.path for v in weights if np.any(to_numpy(v) != start[v.path])}


@pytest.mark.parametrize("bias", biases(1))
@pytest.mark.parametrize("preset", PRESETS)
def test_weight_decay_pulls_kernels_and_embeddings_alone(preset, bias):
    position_bias = biases(PRESETS[preset]["num_heads"])[bias]
    encoder = Encoder.from_preset(
        preset, vocabulary_size=8, num_layers=1, position_bias=position_bias, share_position_bias=False
    )
    models = MaskedLM(encoder), TextClassifier(encoder, 2)
    weights = list({v.path: v for model in models for v in model.trainable_variables}.values())
    for weight in weights:  # Zeros would not change.
        weight.assign(weight + 1)
    changed = changed_by_weight_decay(weights)
    assert changed == {v.path for v in weights if v.name in ("kernel", "embeddings")}
    assert len(changed) == 9


def test_weight_decay_leaves_a_grid_bias_and_looks_at_no_path():
    grid = LearnedBias2D(2, 3, 3, class_token=True)
    dense = keras.layers.Dense(3, name="near_the_table")  # Names of weights that are left alone, in a path.
    dense.build((None, 2))
    weights = [*grid.trainable_variables, *dense.trainable_variables]
    for weight in weights:
        weight.assign(weight + 1)
    assert changed_by_weight_decay(weights) == {dense.kernel.path}


@tensorflow_only
def test_rows_of_a_gradient_are_added_up_before_they_are_squared_and_clipped():
    import tensorflow as tf

    rows = tf.IndexedSlices(tf.constant([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0]]), [1, 1, 0], [3, 2])
    after = []
    ours, dense, keras_own = (
        (GlobalAdamW, rows),
        (GlobalAdamW, tf.convert_to_tensor(rows)),
        (keras.optimizers.AdamW, rows),
    )
    for make, gradient in (ours, dense, keras_own):
        table = keras.Variable(np.zeros((3, 2), "float32"), name="embeddings")
        optimizer = make(0.1, epsilon=1.0, global_clipnorm=2.0)
        optimizer.build([table])
        for _ in range(2):
            optimizer.apply([gradient], [table])
        after.append(to_numpy(table))
    np.testing.assert_array_equal(after[0], after[1])
    assert np.abs(after[0] - after[2]).max() > 1e-2 * np.abs(after[0]).max()
    assert np.count_nonzero(after[0]) == 1


def test_an_overflow_skips_the_step():
    weight = keras.Variable(np.ones(2, "float32"), name="kernel")
    optimizer = GlobalLossScaleOptimizer(GlobalAdamW(0.1), initial_scale=8.0)
    optimizer.build([weight])
    if keras.backend.backend() == "jax":

        def step(gradient):
            state = [v.value for v in optimizer.variables]
            (value,), state = optimizer.stateless_apply(state, [keras.ops.array(gradient)], [weight.value])
            for variable, new in zip(optimizer.variables, state, strict=True):
                variable.assign(new)
            weight.assign(value)
    else:

        def step(gradient):
            optimizer.apply([keras.ops.array(gradient)], [weight])

    step([np.inf, 1.0])
    assert (to_numpy(weight) == 1).all()
    assert float(to_numpy(optimizer.dynamic_scale)) == 4
    step([1.0, 1.0])
    assert (to_numpy(weight) < 1).all()


def test_half_precision_scales_the_loss():
    encoder = Encoder.from_preset("tiny", num_layers=1, dtype="mixed_float16")
    model = MaskedLM(encoder)
    compile_masked_lm(model, make_optimizer(0.1, steps=5))
    assert isinstance(model.optimizer, GlobalLossScaleOptimizer)
    compile_masked_lm(model, make_optimizer(0.1, steps=5), auto_scale_loss=False)
    assert isinstance(model.optimizer, GlobalAdamW)
