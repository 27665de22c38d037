"""A byte-level causal language model on presidential messages: windows, models, and one training run."""

import functools
import time

import keras
import numpy as np
from _runs import finite
from keras_hub.layers import RotaryEmbedding, SinePositionEncoding

from krpe_tf import KernelizedRPEAttention
from krpe_tf.data import Batches, Ragged, shifting, windows
from krpe_tf.models import CausalLM, Encoder
from krpe_tf.models.blocks import (
    BlockOptions,
    feed_forward_block,
    make_norm,
    make_token_embedding,
    make_token_inputs,
)
from krpe_tf.text import ByteTokenizer
from krpe_tf.training import BitsPerByte, compile_model, make_optimizer

TOKENIZER = ByteTokenizer()
SIZES = ("num_layers", "num_heads", "hidden_dim", "intermediate_dim")
SOFTMAX = "softmax, same bias"
# By model: arguments of the encoder. The bias is the default, `DecayBias`, one for all layers.
ENCODERS = {
    **{f"orthogonal, m = {m}": {"num_features": m} for m in (16, 32, 64)},
    "taylor": {"feature_map": "taylor"},
    SOFTMAX: {"feature_map": "softmax"},
    f"{SOFTMAX}, not normalised": {"feature_map": "softmax", "normalize": False},
    "orthogonal, m = 32, gate": {"use_gate": True},
    **{f"{name}, m = 32": {"feature_map": name} for name in ("positive", "spherical", "trigonometric")},
}


class RotaryAttention(keras.layers.MultiHeadAttention):
    """Keras' attention with rotary positions in queries and keys (arXiv 2104.09864)."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.rotary = RotaryEmbedding()

    def _compute_attention(self, query, key, *arguments, **options):
        return super()._compute_attention(self.rotary(query), self.rotary(key), *arguments, **options)


def rotary_attention(width: int, options: BlockOptions) -> keras.layers.Layer:
    """Make the attention of the softmax that is used today."""
    return RotaryAttention(options.num_heads, width, kernel_initializer=options.initializer.clone())


def linear_attention(width: int, options: BlockOptions) -> keras.layers.Layer:
    """Make the attention of the Linear Transformer (arXiv 2006.16236)."""
    initializer = options.initializer.clone()
    return KernelizedRPEAttention(
        options.num_heads, width, feature_map="elu", position_bias=None, kernel_initializer=initializer
    )


# By model: its attention, and whether sinusoidal positions are added to the embeddings.
BASELINES = {
    "softmax, rotary positions": (rotary_attention, False),
    "linear transformer": (linear_attention, True),
}


def make_model(settings: dict) -> keras.Model:
    """Return the model of a run, not compiled."""
    sizes = {name: settings[name] for name in SIZES}
    if settings["model"] in BASELINES:
        return make_baseline(*BASELINES[settings["model"]], sizes, settings.get("stddev", 0.02))
    arguments = {**sizes, **ENCODERS[settings["model"]], "dropout": 0.0, "causal": True, "seed": settings["seed"]}
    return CausalLM(Encoder(len(TOKENIZER.vocabulary), **arguments))


def make_baseline(make_attention, sinusoidal: bool, sizes: dict, stddev: float) -> keras.Model:
    """Return a causal LM of the blocks of `Encoder` with another attention in them."""
    sizes = {**sizes}
    num_layers = sizes.pop("num_layers")
    initializer = keras.initializers.TruncatedNormal(stddev=stddev)
    options = BlockOptions(**sizes, dropout=0.0, seed=None, dtype=keras.config.dtype_policy(), initializer=initializer)
    inputs = make_token_inputs(None)
    embedding = make_token_embedding(len(TOKENIZER.vocabulary), options)
    x = embedding(inputs["token_ids"])
    if sinusoidal:
        # As large as the embeddings are at the start: a sine has a standard deviation of 1 / sqrt(2).
        x = x + stddev * 2**0.5 * SinePositionEncoding()(x)
    for index in range(num_layers):
        y = make_norm(f"layer_{index}_attention_norm")(x)
        x = x + make_attention(options.hidden_dim // options.num_heads, options)(y, y, use_causal_mask=True)
        x = feed_forward_block(x, f"layer_{index}_feed_forward", options)
    return keras.Model(inputs, embedding(make_norm("final_norm")(x), reverse=True))


@functools.lru_cache(maxsize=1)
def _compiled(name: str, items: tuple) -> keras.Model:
    settings = dict(items)
    model = make_model({**settings, "model": name, "seed": 0})
    rest = {name: settings[name] for name in ("warmup_fraction", "weight_decay", "clip_norm")}
    optimizer = make_optimizer(settings["learning_rate"], settings["steps"], **rest)
    compile_model(model, optimizer, weighted_metrics=[BitsPerByte(TOKENIZER.token_bytes)])
    return model


def compiled(settings: dict) -> keras.Model:
    """Return the compiled model of a run as it starts: the models of all seeds are one, so it is traced once."""
    items = {name: value for name, value in settings.items() if isinstance(value, (int, float, str))}
    for name in ("seed", "suite", "model"):
        items.pop(name, None)
    model = _compiled(settings["model"], tuple(items.items()))
    keras.utils.set_random_seed(settings["seed"])
    model.set_weights(make_model(settings).get_weights())
    for variable in model.optimizer.variables:
        variable.assign(keras.ops.zeros_like(variable))
    return model


def encode(texts: tuple[list[str], list[str]], longest: int, count: int) -> tuple[Ragged, Ragged]:
    """Return the training documents, and `count` windows of the others: `longest` bytes, and one before them.

    The windows are spread evenly over the documents that are held out.
    """
    training, rest = (TOKENIZER.encode(part) for part in texts)
    pieces = [ids[start : start + longest + 1] for ids in rest for start in range(0, len(ids) - longest, longest)]
    places = np.linspace(0, len(pieces) - 1, count).astype(int)
    return Ragged.join(training), Ragged.join([pieces[place] for place in places])


def batches(documents: Ragged, length: int, rows: int, seed: int | None) -> Batches:
    """Return batches whose every byte is predicted once; in the order of the documents where there is no seed."""
    order = {"shuffle": False} if seed is None else {"seed": seed}
    transform = shifting(TOKENIZER.pad_id)
    return windows(documents, length + 1, rows, pad_id=TOKENIZER.pad_id, transform=transform, overlap=1, **order)


def train(settings: dict, documents: tuple[Ragged, Ragged]) -> dict:
    """Train one model from scratch.

    The curve holds, every `validate_every` steps, the step, the bits per byte of training since the last one, and those
    of a quarter of the held-out bytes; `final` has those of all, by length of window. None for what is not finite.

    Returns:
        Its settings, its bits per byte and its seconds, which are of wall time under whatever else ran, and of CPU.
    """
    start, start_cpu = time.perf_counter(), time.process_time()
    model, length, size = compiled(settings), settings["length"], settings["batch_size"]
    lengths = [multiple * length for multiple in settings["multiples"]]
    # As many bytes a batch as in training.
    held_out = {n: batches(documents[1], n, max(1, size * length // n), seed=None) for n in lengths}
    every = settings["validate_every"]
    history = model.fit(
        batches(documents[0], length, size, settings["seed"]).training_data(),
        epochs=settings["steps"] // every,
        steps_per_epoch=every,
        validation_data=held_out[length].validation_data(steps=max(1, held_out[length].steps_per_epoch // 4)),
        shuffle=False,  # The windows come in random order.
        verbose=0,
    ).history
    pairs = zip(history["bits_per_byte"], history["val_bits_per_byte"], strict=True)
    curve = [[(index + 1) * every, *map(finite, pair)] for index, pair in enumerate(pairs)]
    final = {str(n): finite(_bits_per_byte(model, part)) for n, part in held_out.items()}
    return {
        **settings,
        "curve": curve,
        "final": final,
        "weights": model.count_params(),
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - start_cpu, 1),
    }


def _bits_per_byte(model: keras.Model, part: Batches) -> float:
    return model.evaluate(part.validation_data(), verbose=0, return_dict=True)["bits_per_byte"]
