"""The command line: python -m krpe_tf COMMAND, one of `COMMANDS`."""

import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import select
import sys

from .arguments import column_names, make_parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a disk error, 2 for invalid input, 130 if interrupted."""
    options = make_parser().parse_args(arguments)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_MessageFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("absl", "tensorflow"):  # What these say of their files and names would stand between a command's own.
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        COMMANDS[options.command](options)
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
        hint = "; run the same command to resume" if options.command in ("train", "demo") else ""
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
        _one_or_more(options.source),
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
        names=column_names(options),
    )
    for split in ("train", "validation"):
        print(f"{options.output}: {split}: {prepared.documents(split):,} documents, {prepared.tokens(split):,} tokens")
    print(f"{options.output}: a vocabulary of {prepared.tokenizer.vocabulary_size:,} tokens")


def _one_or_more(paths: list[str]) -> str | list[str]:
    return paths[0] if len(paths) == 1 else paths


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
        _one_or_more(options.data),
        options.output,
        task=options.task,
        names=column_names(options),
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
    from .export import WriterReport, generator_summary, summary
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
    for line in (generator_summary if isinstance(report, WriterReport) else summary)(report):
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


def _read_lines(path: str) -> list[str]:
    """Read lines as training does: `splitlines` would also divide them at form feeds and the like."""
    content = _read_file(path)
    return [line.removesuffix("\r") for line in content.removesuffix("\n").split("\n")] if content else []


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


SEARCH_OPTIONS = ("sampler", "num_beams", "length_penalty", "temperature", "top_p", "top_k", "max_tokens", "seed")


def _translate(options):
    from .runs import translate_run

    texts = [*options.text, *(line for path in options.file for line in _read_lines(path))]
    if not texts:
        raise ValueError("`text` must be given, or a `--file` that has lines. Received: neither")
    search = {name: getattr(options, name) for name in SEARCH_OPTIONS}
    for translation in translate_run(options.run, texts, **search):
        print(" ".join(translation.splitlines()))  # A line for each, whatever a model writes.


def _evaluate(options):
    from .runs import evaluate_run

    search = {name: getattr(options, name) for name in SEARCH_OPTIONS}
    names = column_names(options)
    found = evaluate_run(options.run, _one_or_more(options.data), names=names, tokenize=options.tokenize, **search)
    for name, (score, signature) in zip(("BLEU", "chrF"), found.values(), strict=True):
        print(f"{name} {score:.2f}  {signature}")


def _silence_libraries():
    """Leave the terminal to Python: the libraries in C++ write there whatever one sets, in the middle of a text."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _demo(options):
    from .demo import run_demo

    run_demo(options.output, quick=options.quick)


COMMANDS = {
    "prepare": _prepare,
    "train": _train,
    "export": _export,
    "web": _web,
    "predict": _predict,
    "generate": _generate,
    "translate": _translate,
    "evaluate": _evaluate,
    "demo": _demo,
}
