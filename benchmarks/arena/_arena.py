"""The contestants of the arena, and one training run."""

import itertools
import time

import keras
import numpy as np
from _arena_tasks import TASKS, TOKENIZER
from _runs import finite
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from krpe_tf.data import Batches, Corpus, Ragged, buckets
from krpe_tf.models import Encoder, TextClassifier
from krpe_tf.models.blocks import BlockOptions, make_token_embedding, make_token_inputs, transformer_stack
from krpe_tf.models.text_embedder import masked_mean
from krpe_tf.training import compile_model, make_optimizer

SIZES = ("num_layers", "num_heads", "hidden_dim", "intermediate_dim")
OURS, TWIN, ABSOLUTE, LINEAR, COUNTS, FIRST = (
    "ours",
    "softmax, same bias",
    "softmax, learned absolute positions",
    "linear transformer, sinusoidal positions",
    "byte counts, logistic regression",
    "first byte alone, its commonest answer",
)
# By model: arguments of the encoder. Both have the default bias, `DecayBias`, one for all layers.
ENCODERS = {OURS: {}, TWIN: {"feature_map": "softmax"}}


def absolute_positions(length: int, width: int) -> keras.layers.Layer:
    """Make learned positions, which begin as small as the embeddings do."""
    return keras.layers.Embedding(
        length, width, embeddings_initializer=keras.initializers.TruncatedNormal(stddev=0.02), name="positions"
    )


def sinusoidal_positions(length: int, width: int) -> keras.layers.Layer:
    """Make the sines and cosines of arXiv 1706.03762, as large as the embeddings are at the start."""
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, width, 2) / width)
    table = 0.02 * 2**0.5 * np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width)
    layer = keras.layers.Embedding(length, width, trainable=False, name="positions")
    layer.build((None, length))
    layer.set_weights([table])
    return layer


# By model: the arguments of its attention, and its positions. Neither has a bias.
BASELINES = {
    ABSOLUTE: ({"feature_map": "softmax", "normalize": False}, absolute_positions),
    LINEAR: ({"feature_map": "elu", "normalize": False}, sinusoidal_positions),
}


def make_model(settings: dict) -> keras.Model:
    """Return the model of a run, not compiled."""
    sizes = {name: settings[name] for name in SIZES}
    classes, name = len(TASKS[settings["task"]].classes), settings["model"]
    if name in ENCODERS:
        encoder = Encoder(TOKENIZER.vocabulary_size, **sizes, **ENCODERS[name], dropout=0.0, seed=settings["seed"])
        return TextClassifier(encoder, classes, pooling=settings["pooling"])
    attention, make_positions = BASELINES[name]
    num_layers = sizes.pop("num_layers")
    policy = keras.config.dtype_policy()
    options = BlockOptions(**sizes, dropout=0.0, seed=settings["seed"], dtype=policy, attention=attention)
    inputs = make_token_inputs(None)
    positions = make_positions(settings["max_length"], options.hidden_dim)
    places = keras.ops.cumsum(keras.ops.ones_like(inputs["token_ids"]), axis=1) - 1
    x = make_token_embedding(TOKENIZER.vocabulary_size, options)(inputs["token_ids"]) + positions(places)
    x = transformer_stack(x, inputs["padding_mask"], [None] * num_layers, options)
    pooled = masked_mean(x, inputs["padding_mask"]) if settings["pooling"] == "mean" else x[:, 0]
    return keras.Model(inputs, keras.layers.Dense(classes, name="logits")(pooled))


def batches(corpus: Corpus, settings: dict, seed: int | None, most: int | None = None) -> Batches:
    """Return batches of a corpus's "train": in random order where there is a seed; of its first `most` documents."""
    fields = corpus["train"]
    if most is not None:
        ids = fields["token_ids"]
        fields = {"token_ids": Ragged(ids.values, ids.starts[: most + 1]), "label": fields["label"][:most]}
    order = {"shuffle": False} if seed is None else {"seed": seed}
    found, _ = buckets(
        fields,
        settings["max_length"],
        settings["batch_tokens"],
        tokenizer=TOKENIZER,
        min_length=settings["min_length"],
        **order,
    )
    return found


def train(settings: dict, corpora: tuple[Corpus, Corpus]) -> dict:
    """Train one model from scratch, and test it once, at the end.

    The curve holds, every `log_every` steps, the step and the loss and accuracy of training since the last one.

    Returns:
        Its settings, `accuracy` and `loss` of the test part, and seconds: of wall time under whatever else ran, of CPU.
    """
    if settings["model"] in SIMPLE:
        return fit_simple(settings, corpora)
    start, start_cpu = time.perf_counter(), time.process_time()
    keras.utils.set_random_seed(settings["seed"])
    model = make_model(settings)
    rest = {name: settings[name] for name in ("warmup_fraction", "weight_decay", "clip_norm")}
    compile_model(model, make_optimizer(settings["learning_rate"], settings["steps"], **rest))
    every = settings["log_every"]
    history = model.fit(
        batches(corpora[0], settings, settings["seed"]).training_data(),
        epochs=settings["steps"] // every,
        steps_per_epoch=every,
        shuffle=False,  # The batches come in random order.
        verbose=0,
    ).history
    test = batches(corpora[1], settings, None, settings["test_documents"])
    found = model.evaluate(test.validation_data(), verbose=0, return_dict=True)
    pairs = zip(history["loss"], history["accuracy"], strict=True)
    seconds = time.perf_counter() - start, time.process_time() - start_cpu
    weights = model.count_params()
    keras.utils.clear_session()
    return {
        **settings,
        "curve": [[(index + 1) * every, *map(finite, pair)] for index, pair in enumerate(pairs)],
        "accuracy": finite(found["accuracy"]),
        "loss": finite(found["loss"]),
        "weights": weights,
        "seconds": round(seconds[0], 1),
        "cpu_seconds": round(seconds[1], 1),
    }


def fit_simple(settings: dict, corpora: tuple[Corpus, Corpus]) -> dict:
    """Fit one of the models of `SIMPLE`, and test it; what it returns is what `train` does."""
    start, start_cpu = time.perf_counter(), time.process_time()
    describe_documents, model = SIMPLE[settings["model"]]
    model = clone(model)
    model.fit(*describe_documents(corpora[0], None, settings["max_length"]))
    seen, labels = describe_documents(corpora[1], settings["test_documents"], settings["max_length"])
    return {
        **settings,
        "curve": [],
        "accuracy": finite(model.score(seen, labels)),
        "loss": None,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - start_cpu, 1),
    }


def shares_of_bytes(corpus: Corpus, most: int | None, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the share that each id has of each document's first tokens, and the labels."""
    fields, size = corpus["train"], TOKENIZER.vocabulary_size
    documents = (ids[:longest] for ids in itertools.islice(fields["token_ids"], most))
    return np.array([np.bincount(ids, minlength=size) / len(ids) for ids in documents]), fields["label"][:most]


def first_bytes(corpus: Corpus, most: int | None, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first byte of each document, one of 256 columns, and the labels."""
    ids, labels = corpus["train"]["token_ids"], corpus["train"]["label"][:most]
    first = np.array([document[1] for document in itertools.islice(ids, most)])
    return np.eye(TOKENIZER.vocabulary_size)[first], labels


# By model that knows no order: what it sees of a document, and how that is fitted.
SIMPLE = {
    COUNTS: (shares_of_bytes, make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))),
    FIRST: (first_bytes, MultinomialNB(fit_prior=True)),
}
