"""Makes the fixtures of this folder with krpe_tf 0.1; tests/test_saved_by_0_1.py loads them.

It needs commit 2ce0f3fc5569ac12c0b6ef4528814368d8eea5ac, and the packages of its test extra:

    git worktree add /tmp/krpe_tf_0_1 2ce0f3fc && cd /tmp/krpe_tf_0_1 && pip install --no-deps --editable .
    python make.py make FOLDER      # a new folder
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

import krpe_tf
from krpe_tf import BucketedBias, DecayBias, KernelizedRPEAttention, LearnedBias, LearnedBias2D
from krpe_tf.checkpoints import Checkpoints
from krpe_tf.data import load_labelled_texts
from krpe_tf.global_batch import GlobalLossScaleOptimizer
from krpe_tf.models import Encoder, TextClassifier, TextEmbedder
from krpe_tf.phases import classifier_model, masked_lm_model
from krpe_tf.run_data import prepared_identity
from krpe_tf.run_state import fingerprint
from krpe_tf.runs import load_run, predict_run, train_run
from krpe_tf.shards import load_prepared, prepare
from krpe_tf.text import WordPieceTokenizer
from krpe_tf.training import compile_classifier, make_optimizer

WORDS = {
    "sea": ["wave", "ship", "salt", "tide", "sail", "harbour", "anchor"],
    "hill": ["rock", "path", "goat", "snow", "peak", "meadow", "shepherd"],
}
ENCODER = {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 16, "num_features": 4}
# A finished and an unfinished run are of these. The encoder's dropout stays as it is by default, with its seeds.
CONFIG = {
    "preset": "tiny",
    "encoder": ENCODER,
    "vocabulary_size": 60,
    "max_length": 32,
    "pretrain_steps": 6,
    "pretrain_length": 16,
    "pretrain_batch_size": 4,
    "epochs": 4,
    "batch_tokens": 256,
    "fine_tune_optimizer": {"learning_rate": 0.008},
    "validation_fraction": 0.25,
    "checkpoint_every": 3,
    "keep_checkpoints": 3,
}
MASKED_LM = {
    "preset": "tiny",
    "encoder": {**ENCODER, "position_bias": "bucketed", "share_position_bias": False},
    "pretrain_steps": 12,
    "pretrain_length": 16,
    "pretrain_batch_size": 4,
    "pretrain_optimizer": {"learning_rate": 0.02, "decay": "linear"},
}
# The run is killed after the second of these, and loses the checkpoint between them.
CHECKPOINTS = {"pretraining": 4, "fine_tuning": 3}
TOKENS = 12  # Of the vocabulary: the first so many logits are kept.
LABELS = np.array([2, 0])
TEXTS = ["the old ship and the salt wave", "snow on the peak and a goat", "a Harbour, a shepherd & the tide"]


# --- Making


def documents(count: int, seed: int):
    """Texts, none like another, with the labels "sea" and "hill" in turn."""
    random = np.random.default_rng(seed)
    for index in range(count):
        label = ("sea", "hill")[index % 2]
        yield (" ".join(random.choice([*WORDS[label], "the", "and", "old"], random.integers(8, 20))), label)


def write_csv(path: Path, rows):
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")


def write_expected(path: Path, content: dict):
    """Writes JSON, a key a line."""
    lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def make(folder: Path):
    if krpe_tf.__version__ != "0.1.0":
        raise SystemExit(f"make needs krpe_tf 0.1.0, this is {krpe_tf.__version__} at {krpe_tf.__file__}")
    folder.mkdir(parents=True)
    make_unfinished(folder / "unfinished")
    make_classifier(folder / "classifier", folder / "unfinished")
    make_masked_lm(folder / "masked_lm")
    make_prepared(folder / "prepared")
    make_keras_files(folder)


def make_unfinished(folder: Path):
    """A run that is killed in fine-tuning; its checkpoints are one of each phase."""
    folder.mkdir()
    write_csv(folder / "documents.csv", documents(24, seed=0))
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n", encoding="utf-8")
    child = subprocess.run([sys.executable, __file__, "train_until_killed", str(folder)], check=False)
    assert child.returncode == -signal.SIGKILL
    shutil.rmtree(folder / "run" / "logs")
    (lost,) = (folder / "run" / "checkpoints").glob("*-pretraining-6.*")
    lost.unlink()
    content = {"texts": TEXTS, "classes": ["hill", "sea"]}
    for phase, arrays in zip(CHECKPOINTS, saved_arrays(folder), strict=True):
        content[phase] = {"step": CHECKPOINTS[phase], "logits": checkpoint_logits(folder, phase, arrays)}
    write_expected(folder / "expected.json", content)


def train_until_killed(folder: Path):
    save = Checkpoints.save

    def save_and_die(self, arrays, state, label):
        save(self, arrays, state, label)
        if label == f"fine_tuning-{CHECKPOINTS['fine_tuning']}":
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = save_and_die
    train_run(load_labelled_texts(folder / "documents.csv"), folder / "run", **CONFIG)


def saved_arrays(folder: Path):
    """The arrays of every checkpoint, the oldest first."""
    for path in Checkpoints(folder / "run" / "checkpoints", chief=False).paths:
        with np.load(path) as file:
            yield dict(file)


def checkpoint_logits(folder: Path, phase: str, arrays: dict) -> list:
    """Logits by a checkpoint's weights: of the classes, or of masked LM at positions 1 and 2."""
    tokenizer = WordPieceTokenizer.load(folder / "run" / "checkpoints" / "tokenizer.json")
    encoder = Encoder.from_preset("tiny", **ENCODER, vocabulary_size=tokenizer.vocabulary_size, seed=0)
    inputs = tokenizer(TEXTS)
    if phase == "pretraining":
        model = masked_lm_model(encoder, 6, {"learning_rate": 2e-3})
        inputs["mask_positions"] = np.full((3, 2), [1, 2], "int32")
    else:
        model = classifier_model(encoder, 2, 12, CONFIG["fine_tune_optimizer"])
    variables = {"model": model.variables, "optimizer": model.optimizer.variables}
    for name, array in arrays.items():
        group, _, index = name.partition("/")
        if group in variables:
            variables[group][int(index)].assign(array)
    logits = np.asarray(model(inputs))
    return rounded(logits[..., :TOKENS] if phase == "pretraining" else logits)


def rounded(array) -> list:
    """float32 as JSON, to seven digits."""
    array = np.asarray(array, "float32")
    return [rounded(row) for row in array] if array.ndim else float(f"{array:.7g}")


def make_classifier(folder: Path, unfinished: Path):
    """The run that `unfinished` would have become."""
    train_run(load_labelled_texts(unfinished / "documents.csv"), folder, **CONFIG)
    shutil.rmtree(folder / "logs")
    write_expected(folder / "expected.json", {"texts": TEXTS, "probabilities": predict_run(folder, TEXTS)})


def make_masked_lm(folder: Path):
    """A run without labels, on a prepared folder of the same words."""
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        (work / "texts").mkdir()
        for index, (text, _) in enumerate(documents(24, seed=1)):
            (work / "texts" / f"{index}.txt").write_text(text, encoding="utf-8")
        sizes = {"vocabulary_size": 60, "validation_fraction": 0.2, "num_shards": 2, "progress": False}
        train_run(prepare(work / "texts", work / "prepared", **sizes), folder, **MASKED_LM)
    shutil.rmtree(folder / "logs")
    inputs = fixed_ids(masked=True)
    model, tokenizer, _ = load_run(folder)
    content = {
        "inputs": {name: array.tolist() for name, array in inputs.items()},
        "logits": rounded(np.asarray(model(inputs))[..., :TOKENS]),
        "encoder": rounded(model.encoder({name: inputs[name] for name in ("token_ids", "padding_mask")})),
        "texts": TEXTS,
        "token_ids": [ids.tolist() for ids in tokenizer.encode(TEXTS)],
    }
    write_expected(folder / "expected.json", content)


def fixed_ids(masked: bool = False) -> dict:
    """Two texts of 7 tokens, the second with 2 of padding."""
    ids = np.random.default_rng(0).integers(5, 40, (2, 7)).astype("int32")
    ids[:, 0] = 2
    mask = np.ones((2, 7), "int32")
    ids[1, 5:] = mask[1, 5:] = 0
    inputs = {"token_ids": ids, "padding_mask": mask}
    return inputs | {"mask_positions": np.array([[1, 3], [2, 4]], "int32")} if masked else inputs


def make_prepared(folder: Path):
    """Labelled texts in two shards of each split."""
    with tempfile.TemporaryDirectory() as work:
        write_csv(Path(work) / "documents.csv", documents(24, seed=2))
        before = os.getcwd()
        os.chdir(work)  # The manifest holds the source's path.
        try:
            prepare(
                "documents.csv", "prepared", vocabulary_size=60, validation_fraction=0.25, num_shards=2, progress=False
            )
        finally:
            os.chdir(before)
        shutil.copytree(Path(work) / "prepared", folder)
    prepared = load_prepared(folder)
    content = {"classes": prepared.classes, "identity": fingerprint(prepared_identity(prepared))}
    for split in ("train", "validation"):
        content[split] = {
            "documents": prepared.documents(split),
            "tokens": prepared.tokens(split),
            "shards": [stored(folder / each["file"]) for each in prepared.manifest["splits"][split]["shards"]],
        }
    write_expected(folder / "expected.json", content)


def stored(path: Path) -> list:
    """[ids, label] of every document of a shard, read by TensorFlow alone."""
    import tensorflow as tf

    examples = map(tf.train.Example.FromString, tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    features = [example.features.feature for example in examples]
    return [[list(each["token_ids"].int64_list.value), each["label"].int64_list.value[0]] for each in features]


def make_keras_files(folder: Path):
    keras.utils.set_random_seed(0)
    ids = fixed_ids()

    x = np.random.default_rng(1).normal(size=(2, 9, 4)).round(3).astype("float32")
    save(folder / "layers.keras", layers_model(), {"x": x})

    # Compiled, and two steps old.
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 4, "intermediate_dim": 8, "num_features": 4}
    options = {"position_bias": LearnedBias(2, 4, name="bias"), "share_position_bias": False, "dropout": 0.0, "seed": 3}
    model = TextClassifier(Encoder(40, **sizes, **options), 3, name="classifier")
    compile_classifier(model, make_optimizer(0.02, 8))
    for _ in range(2):
        model.train_on_batch(ids, LABELS)
    save(folder / "encoder.keras", model, ids, one_more_step=True)

    # In float16, with loss scaling; one bias, of all layers.
    options = {"position_bias": BucketedBias(2, 8, 20, name="bias"), "dropout": 0.0, "causal": True, "seed": 3}
    model = TextClassifier(Encoder(40, **sizes, **options, dtype="mixed_float16"), 3, name="classifier")
    # Not Keras' scale of 2^15: the first steps would overflow and be skipped.
    compile_classifier(model, GlobalLossScaleOptimizer(make_optimizer(0.02, 8, decay="linear"), initial_scale=256.0))
    for _ in range(2):
        model.train_on_batch(ids, LABELS)
    save(folder / "float16.keras", model, ids, one_more_step=True)

    encoder = Encoder(40, **sizes, seed=3)
    save(folder / "embedder.keras", TextEmbedder(encoder), ids)

    # A user's model over an encoder's output: it holds the encoder's layers themselves.
    encoder = Encoder(40, **sizes | {"num_layers": 1}, feature_map="elu", seed=3)
    y = keras.layers.Dense(2, name="users_own")(encoder.output)
    save(folder / "over_an_encoder.keras", keras.Model(encoder.input, y), ids)


def layers_model() -> keras.Model:
    """Attention layers side by side, an output each; "first" and "second" share one bias."""
    x = keras.Input((9, 4), name="x")
    shared = DecayBias(2, radius=3, num_terms=2, name="shared_bias")
    options = {
        "decay": {},
        "bucketed": {"position_bias": BucketedBias(2, 8, 20), "causal": True, "feature_map": "positive"},
        "learned": {"position_bias": LearnedBias(2, 4), "normalize": False, "feature_map": "spherical"},
        "grid": {"position_bias": LearnedBias2D(2, 3, 3), "feature_map": "trigonometric", "value_dim": 3},
        "none": {"position_bias": None, "feature_map": "elu", "use_bias": False, "output_shape": 5},
        "first": {"position_bias": shared, "route": "banded", "dropout": 0.1},
        "second": {"position_bias": shared, "route": "fft", "feature_map": "orthogonal"},
        "softmax": {"position_bias": "bucketed", "feature_map": "softmax", "kernel_initializer": "he_normal"},
    }
    outputs, layers = {}, {}
    for index, (name, each) in enumerate(options.items()):
        layers[name] = KernelizedRPEAttention(2, 2, num_features=4, seed=index, name=name, **each)
        query = outputs["first"] if name == "second" else x
        outputs[name] = layers[name](query, x)
    random = np.random.default_rng(2)
    for layer in layers.values():
        for weight in layer.trainable_weights:
            weight.assign(np.asarray(weight) + random.normal(scale=0.3, size=weight.shape).astype("float32"))
    return keras.Model(x, outputs)


def save(path: Path, model: keras.Model, inputs: dict, one_more_step: bool = False):
    """Saves a model and, as JSON beside it, inputs and outputs, and those after one more training step."""
    model.save(path)
    # Keras does not compress; most of an HDF5 file of small weights is zeros.
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, member in members.items():
            file.writestr(zipfile.ZipInfo(name), member, zipfile.ZIP_DEFLATED)
    content = {
        "inputs": {name: rounded(array) if name == "x" else array.tolist() for name, array in inputs.items()},
        "outputs": outputs_of(model, inputs),
    }
    content["weights"] = len(model.weights)
    if one_more_step:
        content["labels"] = LABELS.tolist()
        content["loss_of_next_step"] = rounded(model.train_on_batch(inputs, LABELS)[0])
        content["outputs_after_it"] = outputs_of(model, inputs)
    write_expected(path.with_suffix(".json"), content)


def outputs_of(model: keras.Model, inputs: dict):
    found = model(inputs["x"] if list(inputs) == ["x"] else inputs)
    return {name: rounded(each) for name, each in found.items()} if isinstance(found, dict) else rounded(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["make", "train_until_killed"], help="the latter is for `make`")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    {"make": make, "train_until_killed": train_until_killed}[options.action](options.folder.resolve())
