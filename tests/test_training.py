import keras
import numpy as np
import pytest

from krpe_tf.training import GlobalCrossEntropy, Perplexity, class_probabilities, make_optimizer


def test_rate_rises_linearly_then_falls_to_zero():
    optimizer = make_optimizer(0.01, steps=100, warmup_fraction=0.2)
    rate = [float(optimizer._learning_rate(step)) for step in range(101)]
    np.testing.assert_allclose(rate[:21], 0.01 * np.arange(21) / 20, atol=1e-7)
    assert all(np.diff(rate[20:]) < 0)
    np.testing.assert_allclose(rate[60], 0.005, rtol=1e-4)
    np.testing.assert_allclose(rate[100], 0, atol=1e-7)


def test_linear_decay_rises_and_falls_linearly():
    optimizer = make_optimizer(0.01, steps=100, warmup_fraction=0.2, decay="linear")
    rate = [float(optimizer._learning_rate(step)) for step in range(111)]
    expected = np.interp(range(111), [0, 20, 100, 110], [0, 0.01, 0, 0])
    np.testing.assert_allclose(rate, expected, atol=1e-8)
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert float(restored._learning_rate(60)) == rate[60]


def test_inverse_square_root_decay():
    optimizer = make_optimizer(0.01, steps=100, warmup_fraction=0.2, decay="inverse_sqrt")
    rate = [float(optimizer._learning_rate(step)) for step in range(111)]
    steps = np.arange(1, 111)
    np.testing.assert_allclose(rate[1:], np.where(steps < 20, 0.01 * steps / 20, 0.01 * (20 / steps) ** 0.5), rtol=1e-6)
    assert rate[0] == 0
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert float(restored._learning_rate(60)) == rate[60]


def test_weight_decay_leaves_biases_and_norms_alone():
    inputs = keras.Input((4,))
    x = keras.layers.LayerNormalization(name="norm")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(x))
    start = {v.path: keras.ops.convert_to_numpy(v) for v in model.trainable_variables}
    optimizer = make_optimizer(0.1, steps=10, warmup_fraction=0, weight_decay=0.5)
    optimizer.build(model.trainable_variables)
    # A zero gradient leaves weight decay alone; the second step is the first with a rate above zero.
    for _ in range(3):
        optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables])
    changed = {
        v.path.split("/")[-1]
        for v in model.trainable_variables
        if np.any(keras.ops.convert_to_numpy(v) != start[v.path])
    }
    assert changed == {"kernel"}


def test_gradient_is_clipped_by_its_global_norm():
    assert make_optimizer(0.1, steps=10, clip_norm=0.5).global_clipnorm == 0.5


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"learning_rate": 0.0, "steps": 5}, "learning_rate"),
        ({"learning_rate": 0.1, "steps": 0}, "steps"),
        ({"learning_rate": 0.1, "steps": 5, "warmup_fraction": 1.0}, "warmup_fraction"),
        ({"learning_rate": 0.1, "steps": 5, "decay": "none"}, "decay"),
        ({"learning_rate": 0.1, "steps": 5, "beta_2": 1.0}, "beta_2"),
        ({"learning_rate": 0.1, "steps": 5, "epsilon": 0.0}, "epsilon"),
        ({"learning_rate": 0.1, "steps": 5, "clip_norm": -1.0}, "clip_norm"),
        ({"learning_rate": 0.1, "steps": 5, "weight_decay": -0.1}, "weight_decay"),
    ],
)
def test_bad_optimizer_arguments(arguments, name):
    with pytest.raises(ValueError, match=rf"`{name}` must.*Received: {name}="):
        make_optimizer(**arguments)


def test_class_probabilities_of_large_logits():
    np.testing.assert_allclose(class_probabilities([[1000.0, 1000.0], [0.0, np.log(3)]]), [[0.5, 0.5], [0.25, 0.75]])


def test_label_smoothing_and_perplexity_against_the_definition():
    random = np.random.default_rng(0)
    loss, metric, total, count = GlobalCrossEntropy(label_smoothing=0.1), Perplexity(), 0.0, 0
    for rows in (1, 3):
        logits = random.normal(0, 3, (rows, 4, 5)).astype("float32")
        labels, weights = random.integers(0, 5, (rows, 4)), (random.random((rows, 4)) < 0.7).astype("float32")
        exact = logits.astype("float64")
        nats = np.log(np.exp(exact).sum(-1, keepdims=True)) - exact
        smoothed = ((np.eye(5)[labels] * 0.9 + 0.02) * nats).sum(-1)
        assert float(loss(labels, logits, weights)) == pytest.approx((smoothed * weights).sum() / weights.sum(), 1e-5)
        metric.update_state(labels, logits, weights)
        total += (np.take_along_axis(nats, labels[..., None], -1)[..., 0] * weights).sum()
        count += weights.sum()
    assert float(metric.result()) == pytest.approx(np.exp(total / count), rel=1e-5)
    again = GlobalCrossEntropy.from_config(loss.get_config())
    assert float(again(labels, logits, weights)) == float(loss(labels, logits, weights))
    with pytest.raises(ValueError, match=r"`label_smoothing` must be a number in \[0, 1\)"):
        GlobalCrossEntropy(label_smoothing=1)
