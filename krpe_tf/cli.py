"""The command line: python -m krpe_tf prepare | train | export | predict | demo."""

import argparse
import dataclasses
import json
import logging
import os
import sys

TRAIN_SETTINGS = {
    "preset": "size of the encoder: tiny, small or base",
    "encoder": "arguments of the encoder that replace the preset's: dropout=0 ...",
    "vocabulary_size": "WordPiece tokens at most",
    "max_length": "tokens; longer documents are cut",
    "pretrain_steps": "masked-LM steps first, or 0",
    "pretrain_length": "tokens of a masked-LM window",
    "pretrain_batch_size": "windows a masked-LM batch",
    "pretrain_optimizer": "of masked LM, see docs/training.md: learning_rate=0.002 clip_norm=1 ...",
    "epochs": "passes over the documents, at most",
    "batch_tokens": "tokens a batch of documents",
    "patience": "epochs without improvement before training stops",
    "fine_tune_optimizer": "of the classifier, see docs/training.md: learning_rate=0.001 clip_norm=1 ...",
    "validation_fraction": "share that is held out",
    "checkpoint_every": "steps from one checkpoint to the next",
    "keep_checkpoints": "how many stay while training goes on",
    "seed": "of everything",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 where the disk failed, 2 for wrong input, 130 if interrupted."""
    # Before TensorFlow loads: its start-up notes would bury what a command says.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        options.command(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "; called the same way, `train` goes on from its newest checkpoint, if it has one"
        print("stopped" + (hint if options.command is _train else ""), file=sys.stderr)
        return 130
    return 0


def _prepare(options):
    from .data import prepare

    prepared = prepare(
        options.source,
        options.output,
        vocabulary_size=options.vocabulary_size,
        labelled=False if options.unlabelled else None,
        text_column=options.text_column,
        label_column=options.label_column,
        validation_fraction=options.validation_fraction,
        num_shards=options.num_shards,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    for split in ("train", "validation"):
        print(f"{options.output}: {split}: {prepared.documents(split):,} documents, {prepared.tokens(split):,} tokens")
    print(f"{options.output}: a vocabulary of {prepared.tokenizer.vocabulary_size:,} tokens")


def _train(options):
    import keras

    from .training import make_distribution

    # Before anything computes, as JAX wants it, be it while a module is imported.
    distribution = make_distribution(options.distribution, options.coordinator, options.processes, options.process)
    if keras.backend.backend() == "jax":
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # It only makes batches here, and would take the GPUs' memory.

    from .data import is_prepared, load_labelled_texts, load_prepared
    from .runs import load_config, train_run

    settings = load_config(options.config) if options.config else {}
    given = {name: value for name, value in vars(options).items() if name in TRAIN_SETTINGS}
    for name in ("encoder", "pretrain_optimizer", "fine_tune_optimizer"):
        if name in given:
            given[name] = {**settings.get(name, {}), **_named_values(name, given[name])}
    if is_prepared(options.data):
        data = load_prepared(options.data)
    else:
        data = load_labelled_texts(options.data, options.text_column, options.label_column)
    train_run(data, options.output, restart=options.restart, distribution=distribution, **{**settings, **given})
    if not distribution.is_chief:
        return
    labels = " labels.json," if data.classes else ""
    print(f"{options.output}: model.keras, tokenizer.json,{labels} training.json; logs/ is for TensorBoard")


def _named_values(option: str, pairs: list[str]) -> dict:
    """NAME=VALUE arguments as a dict; a value that is no JSON is a string."""
    values = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(f"{option} must be given as NAME=VALUE. Received: {pair!r}")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def _export(options):
    from .export.report import summary
    from .files import companion
    from .runs import export_run

    report = export_run(
        options.run,
        lengths=options.lengths,
        quantization=options.quantization,
        bias_tolerance=options.bias_tolerance,
        measure=options.measure,
    )
    print(f"{options.run}: saved_model/, model.tflite")
    for line in summary(report):
        print(f"  {line}")
    print(f"{companion(report.path, 'report.md')} says more")


def _predict(options):
    from .runs import predict_run

    texts, names = list(options.text), [" ".join(text.split())[:40] for text in options.text]
    for path in options.file:
        try:
            with open(path, encoding="utf-8") as file:
                texts.append(file.read())
        except OSError as error:
            raise ValueError(f"--file must be a readable file ({error.strerror}). Received: {path!r}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"--file must be valid UTF-8 ({error.reason}). Received: {path!r}") from error
        names.append(path)
    for name, answer in zip(names, predict_run(options.run, texts), strict=True):
        print("  ".join(f"{label} {probability:.3f}" for label, probability in answer.items()) + f"  <- {name}")


def _demo(options):
    from .demo import run_demo

    run_demo(options.output, quick=options.quick)


def _parser() -> argparse.ArgumentParser:
    from .runs import RunSettings

    parser = argparse.ArgumentParser(prog="krpe_tf", description="Train, export and use long-document classifiers.")
    commands = parser.add_subparsers(required=True, metavar="prepare | train | export | predict | demo")

    prepare = commands.add_parser("prepare", help="turn texts into a vocabulary and shards of token ids to train from")
    prepare.set_defaults(command=_prepare)
    prepare.add_argument(
        "source", help="a folder of .txt files, in a subfolder per label or not, or a .csv or .jsonl file"
    )
    prepare.add_argument("--output", required=True, help="the folder to write")
    prepare.add_argument("--text-column", default="text", help="of a .csv or .jsonl file (default: text)")
    prepare.add_argument("--label-column", default="label", help="of a .csv or .jsonl file (default: label)")
    prepare.add_argument("--unlabelled", action="store_true", help="leave labels aside")
    prepare.add_argument("--vocabulary-size", type=int, default=8192, help="WordPiece tokens at most (default: 8192)")
    prepare.add_argument("--validation-fraction", type=float, default=0.05, help="share held out (default: 0.05)")
    prepare.add_argument("--num-shards", type=int, help="of each split (default: 8, more for over 512 MiB of text)")
    prepare.add_argument("--seed", type=int, default=0, help="of orders and of what is held out (default: 0)")
    prepare.add_argument("--overwrite", action="store_true", help="replace what prepare wrote there before")

    train = commands.add_parser(
        "train",
        help="train a classifier on your own documents",
        description="Trains a classifier on your own documents. The same command goes on with a run that was killed.",
        argument_default=argparse.SUPPRESS,  # So that only what is given overrides the configuration file.
    )
    train.set_defaults(command=_train, text_column="text", label_column="label", config=None, restart=False)
    train.set_defaults(distribution="none", coordinator=None, processes=None, process=None)
    train.add_argument(
        "data",
        help="a .csv or .jsonl file, a folder with one subfolder of .txt files per label, or what prepare wrote; "
        "without labels there is masked LM alone",
    )
    train.add_argument("--output", required=True, help="the run folder to write")
    train.add_argument("--restart", action="store_true", help="drop the unfinished run in the folder, and start over")
    train.add_argument("--distribution", help="none, data or model=K, see docs/distribution.md (default: none)")
    train.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where several processes train")
    train.add_argument("--processes", type=int, metavar="N", help="how many there are")
    train.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    train.add_argument("--config", metavar="FILE", help="JSON of settings, see docs/training.md; options override it")
    train.add_argument("--text-column", help="of a .csv or .jsonl file (default: text)")
    train.add_argument("--label-column", help="of a .csv or .jsonl file (default: label)")
    # Not those of an instance: it would make optimizers, and JAX must not compute before its processes have met.
    defaults = {field.name: field.default for field in dataclasses.fields(RunSettings)}
    for name, text in TRAIN_SETTINGS.items():
        default = defaults[name]
        if default is dataclasses.MISSING:  # a dict
            train.add_argument(f"--{name.replace('_', '-')}", nargs="+", metavar="NAME=VALUE", help=text)
        else:
            text = f"{text} (default: {default})"
            train.add_argument(f"--{name.replace('_', '-')}", type=type(default), help=text)

    export = commands.add_parser(
        "export", help="export a run to SavedModel and LiteRT; replaces what it exported before"
    )
    export.set_defaults(command=_export)
    export.add_argument("run", help="a folder that train wrote")
    export.add_argument(
        "--lengths",
        type=lambda text: None if text == "any" else int(text),
        nargs="+",
        default=[512, 2048, 8192],
        metavar="N",
        help='tokens, one signature each; "any" for one that takes any length (default: 512 2048 8192)',
    )
    export.add_argument(
        "--quantization", choices=["float16", "int8", "int8_static"], help="of dense layers (default: none)"
    )
    export.add_argument(
        "--bias-tolerance",
        type=float,
        help="replace position biases within this bound, see docs/export.md (default: not)",
    )
    export.add_argument("--no-measure", dest="measure", action="store_false", help="leave out milliseconds and memory")

    predict = commands.add_parser("predict", help="classify texts with a run; uses model.tflite once exported")
    predict.set_defaults(command=_predict)
    predict.add_argument("run", help="a folder that train wrote")
    predict.add_argument("text", nargs="*", default=[], help="texts")
    predict.add_argument("--file", action="append", default=[], help="a file that holds one text; may be repeated")

    demo = commands.add_parser("demo", help="the whole path on presidential messages")
    demo.set_defaults(command=_demo)
    demo.add_argument("--output", default="build/demo", help="the folder to write (default: build/demo)")
    demo.add_argument("--quick", action="store_true", help="the same path with a tiny model, to see that it runs")
    return parser
