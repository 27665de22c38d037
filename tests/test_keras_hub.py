"""Encoders converted from KerasHub's T5 and BERT against KerasHub."""

import keras
import numpy as np
import pytest
from definition import to_numpy
from keras_hub.models import BertBackbone, RoformerV2Backbone, T5Backbone

from krpe_tf.models import CausalLM, Encoder
from krpe_tf.position_bias import alibi_slopes

# KerasHub's own layers warn of masks and of state while they are built.
pytestmark = pytest.mark.filterwarnings("ignore:Layer '.*' (.*|\n)*:UserWarning")

SIZES = {"vocabulary_size": 50, "num_layers": 3, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 48}

BACKBONES = {
    "t5": {"activation": "relu", "use_gated_activation": False},
    "t5.1.1, whose heads have a width of their own": {"activation": "gelu", "key_value_dim": 16},
    "one layer of one head": {"num_layers": 1, "num_heads": 1, "layer_norm_epsilon": 1e-3},
    "an embedding of its own for the output": {"tie_embedding_weights": False, "key_value_dim": 5},
}


def backbone(kind=T5Backbone, **arguments):
    keras.utils.set_random_seed(3)
    made = kind(**{**SIZES, **arguments})
    for place, weight in enumerate(made.weights):  # Off their start: norms that do something, and buckets that differ.
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.1, seed=place))
    return made


def rows(n):
    """Return ids and a mask of three rows: full, half and one token long."""
    ids = np.random.default_rng(n).integers(0, 50, (3, n)).astype("int32")
    return ids, (np.arange(n) < np.array([[n], [n // 2], [1]])).astype("int32")


@pytest.mark.parametrize("name", BACKBONES)
def test_the_exact_kernel_computes_what_keras_hub_computes(name):
    source = backbone(**BACKBONES[name])
    encoder = Encoder.from_keras_hub(source)
    for n in (2, 7, 300):  # Past the distance of 128, from which on the bias is constant.
        ids, mask = rows(n)
        expected = source(
            {
                "encoder_token_ids": ids,
                "encoder_padding_mask": mask,
                "decoder_token_ids": ids[:, :2],
                "decoder_padding_mask": mask[:, :2],
            }
        )["encoder_sequence_output"]
        found = encoder({"token_ids": ids, "padding_mask": mask})
        scale = np.abs(to_numpy(expected)).max()
        np.testing.assert_allclose(to_numpy(found)[mask == 1], to_numpy(expected)[mask == 1], atol=1e-5 * scale)


@pytest.mark.parametrize("arguments", [{}, {"num_layers": 1, "num_heads": 1, "num_segments": 1}])
def test_the_exact_kernel_computes_what_bert_computes(arguments):
    source = backbone(BertBackbone, max_sequence_length=20, **arguments)
    encoder = Encoder.from_keras_hub(source)
    for n in (2, 7, 20):
        ids, mask = rows(n)
        inputs = {"token_ids": ids, "padding_mask": mask}
        expected = to_numpy(source({**inputs, "segment_ids": np.zeros_like(ids)})["sequence_output"])
        np.testing.assert_allclose(to_numpy(encoder(inputs))[mask == 1], expected[mask == 1], atol=1e-5)


def test_bert_is_saved_and_takes_a_bias_for_its_positions(tmp_path):
    source = backbone(BertBackbone, max_sequence_length=20)
    ids, mask = rows(7)
    inputs = {"token_ids": ids, "padding_mask": mask}
    exact = Encoder.from_keras_hub(source)
    exact.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(inputs)), to_numpy(exact(inputs)))
    few = Encoder.from_keras_hub(source, absolute_positions=7)
    np.testing.assert_array_equal(to_numpy(few(inputs)), to_numpy(exact(inputs)))
    # Where all places have one vector, it may as well be the tokens'.
    places = source.position_embedding.position_embeddings
    places.assign(np.broadcast_to(to_numpy(places)[:1], places.shape))
    changes = {"absolute_positions": None, "activation": "gelu"}
    none = Encoder.from_keras_hub(source, **changes)
    expected = Encoder.from_keras_hub(source, activation="gelu")
    np.testing.assert_allclose(to_numpy(none(inputs)), to_numpy(expected(inputs)), atol=1e-5)
    # A new bias starts without peaks, for heads that have learned where to look.
    for name in ("decay", "bucketed"):
        bias = Encoder.from_keras_hub(source, **changes, position_bias=name).position_biases[0]
        found = to_numpy(bias.log_weights(np.arange(-7, 8)))
        np.testing.assert_allclose(found, -alibi_slopes(4)[:, None] * abs(np.arange(-7, 8)), rtol=1e-5)
    # From the encoder itself, as from the backbone.
    again = Encoder.from_encoder(expected, **changes, position_bias="decay", feature_map="orthogonal", num_features=8)
    linear = Encoder.from_keras_hub(source, **changes, position_bias="decay", feature_map="orthogonal", num_features=8)
    assert to_numpy(again({"token_ids": ids[:1], "padding_mask": mask[:1]})).shape == (1, 7, 32)
    for ours, theirs in zip(again.weights, linear.weights, strict=True):
        if not ours.path.endswith("projection"):
            np.testing.assert_allclose(to_numpy(ours), to_numpy(theirs), atol=1e-6)


def test_absolute_positions_refuse_what_they_cannot_count():
    encoder = Encoder(**SIZES, absolute_positions=6, causal=True)
    ids, mask = rows(7)
    with pytest.raises(ValueError, match=r"reads rows of at most 6 tokens. Received: 7 tokens"):
        encoder({"token_ids": ids, "padding_mask": mask})
    with pytest.raises(ValueError, match=r"reads rows of at most 6 tokens. Received: 7 tokens"):
        Encoder(**SIZES, absolute_positions=6, length=7)
    ids, mask = rows(6)
    with pytest.raises(ValueError, match=r"takes no `segment_ids`: places count from the start of a row"):
        encoder({"token_ids": ids, "padding_mask": mask, "segment_ids": ids})
    with pytest.raises(ValueError, match=r"its state counts no places. Received: absolute_positions=6"):
        encoder.initial_state(1)
    assert not CausalLM(encoder).can_decode
    with pytest.raises(ValueError, match=r"`absolute_positions` must be an integer of at least 1.*=0"):
        Encoder(**SIZES, absolute_positions=0)


def test_what_is_converted_is_saved_and_becomes_linear(tmp_path):
    source = backbone()
    ids, mask = rows(7)
    inputs = {"token_ids": ids, "padding_mask": mask}
    exact = Encoder.from_keras_hub(source, length=7, seed=1)
    exact.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(inputs)), to_numpy(exact(inputs)))
    linear = Encoder.from_keras_hub(source, feature_map="orthogonal", num_features=32, length=7, seed=1)
    for ours, theirs in zip(linear.weights, exact.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
    # With `normalize` the norms of queries matter no more.
    before = Encoder.from_keras_hub(source, normalize=True, seed=1)(inputs)
    for weight in source.weights:
        if "query_projector" in weight.path:
            weight.assign(weight * 3)
    after = Encoder.from_keras_hub(source, normalize=True, seed=1)(inputs)
    np.testing.assert_allclose(to_numpy(before)[mask == 1], to_numpy(after)[mask == 1], atol=1e-4)


@pytest.mark.parametrize("normalize_first", [True, False])
def test_a_step_writes_what_the_converted_block_computes(normalize_first):
    arguments = {"norm": "rms", "use_gated_activation": True, "use_bias": False, "key_dim": 3, "activation": "relu"}
    arguments["normalize_first"] = normalize_first
    encoder = Encoder(**SIZES, **arguments, causal=True, dropout=0.0)
    model = CausalLM(encoder)
    ids, mask = rows(7)
    expected = to_numpy(model({"token_ids": ids, "padding_mask": np.ones_like(mask)}))
    state, found = model.initial_state(3), []
    for place in range(7):
        logits, state = model.step(ids[:, place : place + 1], state)
        found.append(to_numpy(logits))
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, atol=1e-5)


def test_what_cannot_be_converted_is_refused():
    with pytest.raises(ValueError, match=r"`backbone` must be a .*T5Backbone or Bert.* Received: RoformerV2Backbone"):
        Encoder.from_keras_hub(RoformerV2Backbone(50, 1, 2, 8, 8, 4))
    with pytest.raises(ValueError, match=r"leave these arguments free: feature_map, .* Received: num_heads=2"):
        Encoder.from_keras_hub(backbone(), num_heads=2)
    with pytest.raises(ValueError, match=r"leave these arguments free: .*, name. Received: absolute_positions=9"):
        Encoder.from_keras_hub(backbone(), absolute_positions=9)
    with pytest.raises(ValueError, match=r"at most the backbone's, 20. Received: absolute_positions=21"):
        Encoder.from_keras_hub(backbone(BertBackbone, num_layers=1, max_sequence_length=20), absolute_positions=21)
    for name, value in (
        ("norm", "batch"),
        ("norm_epsilon", 0),
        ("key_dim", 0),
        ("value_dim", 0),
        ("normalize_first", 2),
    ):
        with pytest.raises(ValueError, match=f"`{name}`.* Received: {name}="):
            Encoder(**SIZES, **{name: value})
