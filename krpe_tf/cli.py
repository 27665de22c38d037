"""The command line: python -m krpe_tf prepare | train | export | web | predict | generate | demo."""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import select
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a disk error, 2 for invalid input, 130 if interrupted."""
    options = _parser().parse_args(arguments)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_MessageFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("absl", "tensorflow"):  # What these say of their files and names would stand between a command's own.
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        options.command(options)
        sys.stdout.flush()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 0
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "; run the same command to resume" if options.command in (_train, _demo) else ""
        print(f"stopped{hint}", file=sys.stderr)
        return 130
    return 0


def _nobody_reads() -> bool:
    """Return whether who read the output, `head` for one, has closed it; if so, what is left goes nowhere."""
    poll = select.poll()
    poll.register(1)
    if closed := any(event & select.POLLERR for _, event in poll.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return closed


class _MessageFormatter(logging.Formatter):
    """Only the message, marked if it is a warning."""

    def format(self, record):
        message = super().format(record)
        return f"warning: {message}" if record.levelno >= logging.WARNING else message


def _prepare(options):
    from .data import prepare
    from .runs import RunSettings, choose_task

    task = None if options.task is None else choose_task(options.task)
    prepared = prepare(
        options.source,
        options.output,
        vocabulary_size=options.vocabulary_size,
        cased=options.cased,
        tokenizer=options.tokenizer or (task and task.learns(RunSettings())),
        labelled=False if options.unlabelled else None,
        validation_fraction=options.validation_fraction,
        num_shards=options.num_shards,
        seed=options.seed,
        overwrite=options.overwrite,
        encoding=task and task.encoding,
        names=_names(options),
    )
    for split in ("train", "validation"):
        print(f"{options.output}: {split}: {prepared.documents(split):,} documents, {prepared.tokens(split):,} tokens")
    print(f"{options.output}: a vocabulary of {prepared.tokenizer.vocabulary_size:,} tokens")


def _train(options):
    from .runs import RunSettings, load_config, train_run
    from .tasks import layout_map
    from .training import make_distribution

    # JAX wants it before anything computes.
    distribution = make_distribution(
        options.distribution, options.coordinator, options.processes, options.process, layout_map
    )
    if not distribution.is_chief:
        logging.getLogger("krpe_tf").setLevel(logging.ERROR)  # Process 0 says the same.
    _leave_gpus_to_keras()
    settings = load_config(options.config) if options.config else {}
    fields = {field.name for field in dataclasses.fields(RunSettings)}
    given = {name: value for name, value in vars(options).items() if name in fields}
    for name, value in given.items():
        if isinstance(value, list):
            given[name] = {**settings.get(name, {}), **_named_values(name, value)}
    train_run(
        options.data,
        options.output,
        task=options.task,
        names=_names(options),
        restart=options.restart or options.from_checkpoint or False,
        distribution=distribution,
        **{**settings, **given},
    )
    if distribution.is_chief:
        names = ("model.keras", "tokenizer.json", "task.json", "labels.json", "training.json")
        found = ", ".join(name for name in names if os.path.isfile(os.path.join(options.output, name)))
        logs = "; logs/ is for TensorBoard" if os.path.isdir(os.path.join(options.output, "logs")) else ""
        print(f"{options.output}: {found}{logs}")


def _leave_gpus_to_keras():
    """Keep TensorFlow off the GPUs where JAX trains: it would take their memory to tokenize and to write logs."""
    import keras

    if keras.backend.backend() == "jax" and importlib.util.find_spec("tensorflow") is not None:
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")


def _named_values(option: str, pairs: list[str]) -> dict:
    """Parse NAME=VALUE arguments to a dict; a value that is not JSON is a string."""
    values = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(f"`{option}` must be given as NAME=VALUE. Received: {pair!r}")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def _export(options):
    from .export import GeneratorReport, generator_summary, summary
    from .files import companion
    from .runs import export_run

    report = export_run(
        options.run,
        lengths=options.lengths,
        quantization=options.quantization,
        bias_tolerance=options.bias_tolerance,
        measure=options.measure,
    )
    written = [name for name in ("saved_model", "model.tflite", "model.litertlm") if name in os.listdir(options.run)]
    print(f"{options.run}: {', '.join(written)}")
    for line in (generator_summary if isinstance(report, GeneratorReport) else summary)(report):
        print(f"  {line}")
    print(f"details: {companion(report.path, 'report.md')}")


def _web(options):
    from .runs import web_run, web_server

    sizes = web_run(options.run, options.folder, litertjs=options.litertjs)
    print(f"{options.folder}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB, for any static server")
    if options.serve is not None:
        with web_server(options.folder, options.serve) as server:
            print(f"http://127.0.0.1:{server.server_address[1]}/ until Ctrl-C", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()


def _predict(options):
    from .runs import predict_run, show_answers

    texts = [*options.text, *map(_read_file, options.file)]
    names = [*(" ".join(text.split())[:40] for text in options.text), *options.file]
    for name, line in zip(names, show_answers(options.run, predict_run(options.run, texts)), strict=True):
        print(f"{line}  <- {name}")


def _read_file(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"`--file` must be a readable file ({error.strerror}). Received: {path!r}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"`--file` must be valid UTF-8 ({error.reason}). Received: {path!r}") from error


def _generate(options):
    from .runs import generate_run

    if sys.stderr.isatty():
        _silence_libraries()
    prompt = options.prompt if options.file is None else _read_file(options.file) + options.prompt
    names = ("max_tokens", "sampler", "temperature", "top_p", "top_k", "seed")
    text = generate_run(options.run, prompt, **{name: getattr(options, name) for name in names})
    said = options.prompt  # With the first token, for which one may wait.
    for part in text:
        print(said + part, end="", flush=True)
        said = ""
    print(said)
    speed = f", then {text.tokens_per_second:,.0f} tokens/s" if text.tokens > 1 else ""
    print(f"{text.tokens} tokens: the first in {text.first_seconds:.2f} s{speed}", file=sys.stderr)


def _silence_libraries():
    """Leave the terminal to Python: the libraries in C++ write there whatever one sets, in the middle of a text."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _demo(options):
    from .demo import run_demo

    run_demo(options.output, quick=options.quick)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="krpe-tf", description="Train, export and use models of long documents.", epilog=EXIT_CODES
    )
    commands = parser.add_subparsers(
        required=True, metavar="prepare | train | export | web | predict | generate | demo"
    )
    for add in (_add_prepare, _add_train, _add_export, _add_web, _add_predict, _add_generate, _add_demo):
        add(commands)
    return parser


EXIT_CODES = "Exit codes: 0 success, 1 disk error (nothing is left half-written), 2 invalid input, 130 interrupted."


def _add_prepare(commands):
    from .tasks import TASKS

    prepare = commands.add_parser("prepare", help="turn texts into a vocabulary and token ids on disk to train from")
    prepare.set_defaults(command=_prepare)
    prepare.add_argument(
        "source", help="a folder of .txt files, with or without a subfolder per label, or a .csv, .jsonl or .conll file"
    )
    prepare.add_argument("--output", required=True, help="folder to write")
    prepare.add_argument("--task", help=f"task to prepare for: {', '.join(TASKS)} (default: by the source's labels)")
    _add_columns(prepare)
    prepare.add_argument("--unlabelled", action="store_true", help="ignore labels")
    prepare.add_argument("--vocabulary-size", type=int, default=8192, help="tokens to learn at most (default: 8192)")
    prepare.add_argument(
        "--tokenizer",
        choices=["wordpiece", "sentencepiece", "bytes"],
        help="what to learn (default: sentencepiece for causal_lm, else wordpiece)",
    )
    prepare.add_argument("--cased", action="store_true", help="keep upper case and accents in the vocabulary to learn")
    prepare.add_argument(
        "--validation-fraction",
        type=float,
        default=0.05,
        help="share of the documents to hold out for validation (default: 0.05)",
    )
    prepare.add_argument("--num-shards", type=int, help="deprecated, without effect")
    prepare.add_argument("--seed", type=int, default=0, help="random seed for data order and split (default: 0)")
    prepare.add_argument("--overwrite", action="store_true", help="replace an earlier output of prepare")


def _add_train(commands):
    from .runs import RunSettings
    from .tasks import TASKS

    train = commands.add_parser(
        "train",
        help="train a model on your own documents",
        description="Train a model on your own documents. Run the same command again to resume a run that was stopped.",
        argument_default=argparse.SUPPRESS,  # So that only what is given overrides the configuration file.
    )
    train.set_defaults(command=_train, task=None, config=None, restart=False, from_checkpoint=None)
    train.set_defaults(distribution="none", coordinator=None, processes=None, process=None)
    train.add_argument(
        "data",
        help="a .csv, .jsonl or .conll file, a folder of .txt files (a subfolder per label), or what prepare wrote",
    )
    train.add_argument("--output", required=True, help="run folder to write")
    train.add_argument(
        "--task",
        help=f"{', '.join(TASKS)} (default: text_classification, or the task that DATA was prepared for)",
    )
    start = train.add_mutually_exclusive_group()
    start.add_argument("--restart", action="store_true", help="discard the unfinished run in the folder and start over")
    start.add_argument(
        "--from",
        dest="from_checkpoint",
        metavar="CHECKPOINT",
        help="resume from this checkpoint of the unfinished run, with changed settings if any",
    )
    train.add_argument("--distribution", help="none, data or model=K, see docs/distribution.md (default: none)")
    train.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, where several processes train")
    train.add_argument("--processes", type=int, metavar="N", help="number of processes")
    train.add_argument("--process", type=int, metavar="I", help="index of this process, from 0")
    train.add_argument(
        "--config", metavar="FILE", help="JSON file of settings, see docs/training.md; options override it"
    )
    _add_columns(train)
    for field in dataclasses.fields(RunSettings):
        option, text = f"--{field.name.replace('_', '-')}", field.metadata["help"]
        if field.default is dataclasses.MISSING:  # a dict
            train.add_argument(option, nargs="+", metavar="NAME=VALUE", help=text)
        elif isinstance(field.default, bool):
            text = f"{text} (default: {field.default})"
            train.add_argument(option, action=argparse.BooleanOptionalAction, help=text)
        else:
            train.add_argument(option, type=type(field.default), help=f"{text} (default: {field.default})")


def _columns() -> list[str]:
    """Return the columns that tasks read."""
    from .tasks import TASKS

    return list(dict.fromkeys(column for task in TASKS.values() for column in task.encoding.columns))


def _add_columns(command):
    for column in _columns():
        text = f"name of the {column} column in a .csv or .jsonl file (default: {column})"
        command.add_argument(f"--{column}-column", default=None, help=text)


def _names(options) -> dict[str, str]:
    """Return what the file calls its columns, by column, where it is another name."""
    return {column: name for column in _columns() if (name := getattr(options, f"{column}_column"))}


def _add_export(commands):
    export = commands.add_parser("export", help="export a run to SavedModel and LiteRT, replacing earlier exports")
    export.set_defaults(command=_export)
    export.add_argument("run", help="a folder that train wrote")
    export.add_argument(
        "--lengths",
        type=_length,
        nargs="+",
        metavar="N",
        help='tokens per signature; "any" for one signature of any length (default: 512 2048 8192); not of causal_lm',
    )
    export.add_argument(
        "--quantization", choices=["float16", "int8", "int8_static"], help="quantize dense layers (default: none)"
    )
    export.add_argument(
        "--bias-tolerance",
        type=float,
        help="approximate position biases within this bound, see docs/export.md (default: exact)",
    )
    export.add_argument("--no-measure", dest="measure", action="store_false", help="skip measuring time and memory")


def _length(text: str) -> int | None:
    try:
        return None if text == "any" else int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'must be numbers of tokens, or "any". Received: {text!r}') from error


def _add_web(commands):
    web = commands.add_parser("web", help="write a page that runs an exported run in the browser")
    web.set_defaults(command=_web)
    web.add_argument("run", help="a folder that train and export wrote")
    web.add_argument("folder", help="folder to write, for a static server")
    web.add_argument(
        "--litertjs", metavar="FOLDER", help="where npm has installed @litertjs/core (default: npm fetches it)"
    )
    web.add_argument(
        "--serve", nargs="?", type=int, const=8000, metavar="PORT", help="serve the page on this machine (port 8000)"
    )


def _add_predict(commands):
    predict = commands.add_parser("predict", help="answer for texts with a run; uses model.tflite once exported")
    predict.set_defaults(command=_predict)
    predict.add_argument("run", help="a folder that train wrote")
    predict.add_argument("text", nargs="*", default=[], help="texts")
    predict.add_argument("--file", action="append", default=[], help="a file that holds one text; may be repeated")


def _add_generate(commands):
    generate = commands.add_parser(
        "generate", help="continue a text with a run of causal_lm; uses model.tflite once exported"
    )
    generate.set_defaults(command=_generate)
    generate.add_argument("run", help="a folder that train wrote")
    generate.add_argument("prompt", nargs="?", default="", help="what the text begins with (default: nothing)")
    generate.add_argument("--file", help="a file that the prompt begins with; its text is not printed")
    generate.add_argument("--max-tokens", type=int, default=200, help="tokens to generate at most (default: 200)")
    generate.add_argument("--sampler", default="top_p", help="greedy, random, top_k or top_p (default: top_p)")
    generate.add_argument("--temperature", type=float, help="below 1: likelier tokens likelier (default: 0.8)")
    generate.add_argument("--top-p", type=float, help="share of the probability that is drawn from (default: 0.9)")
    generate.add_argument("--top-k", type=int, help="number of tokens that is drawn from (default: 40 for top_k)")
    generate.add_argument("--seed", type=int, help="integer for the same text again (default: another each time)")


def _add_demo(commands):
    demo = commands.add_parser("demo", help="train, export and measure on presidential messages; may be resumed")
    demo.set_defaults(command=_demo)
    demo.add_argument("--output", default="build/demo", help="folder to write (default: build/demo)")
    demo.add_argument("--quick", action="store_true", help="the same steps with a tiny model, as a check that they run")
