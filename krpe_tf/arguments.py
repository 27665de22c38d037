"""The arguments of the command line: options and help of `train` are made from the settings."""

import argparse
import dataclasses

EXIT_CODES = "Exit codes: 0 success, 1 disk error (nothing is left half-written), 2 invalid input, 130 interrupted."


def make_parser() -> argparse.ArgumentParser:
    """Make the parser; `command` of what it returns is the name of the command."""
    parser = argparse.ArgumentParser(
        prog="krpe-tf", description="Train, export and use models of long documents.", epilog=EXIT_CODES
    )
    names = "prepare | train | export | web | predict | generate | translate | evaluate | demo"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)
    for add in (_add_prepare, _add_train, _add_export, _add_web, _add_predict, _add_generate):
        add(commands)
    for add in (_add_translate, _add_evaluate, _add_demo):
        add(commands)
    return parser


def _add_prepare(commands):
    from .tasks import TASKS

    prepare = commands.add_parser("prepare", help="turn texts into a vocabulary and token ids on disk to train from")
    prepare.add_argument(
        "source",
        nargs="+",
        help="a folder of .txt files, with or without a subfolder per label, or a .csv, .tsv, .jsonl or .conll file; "
        "for translation also two files, sources and targets line by line",
    )
    prepare.add_argument("--output", required=True, help="folder to write")
    prepare.add_argument("--task", help=f"task to prepare for: {', '.join(TASKS)} (default: by the source's labels)")
    _add_columns(prepare)
    prepare.add_argument("--unlabelled", action="store_true", help="ignore labels")
    prepare.add_argument("--vocabulary-size", type=int, default=8192, help="tokens to learn at most (default: 8192)")
    prepare.add_argument(
        "--tokenizer",
        choices=["wordpiece", "sentencepiece", "bytes"],
        help="what to learn (default: sentencepiece for causal_lm and translation, else wordpiece)",
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
    train.set_defaults(task=None, config=None, restart=False, from_checkpoint=None)
    train.set_defaults(distribution="none", coordinator=None, processes=None, process=None)
    train.add_argument(
        "data",
        nargs="+",
        help="a .csv, .tsv, .jsonl or .conll file, a folder of .txt files (a subfolder per label), or what prepare "
        "wrote; for translation also two files, sources and targets line by line",
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

    encodings = [task.encoding for task in TASKS.values()]
    return list(dict.fromkeys(column for each in encodings for column in (*each.columns, *each.optional)))


def _add_columns(command):
    for column in _columns():
        _add_column(command, column)


def _add_column(command, column: str):
    text = f"name of the {column} column in a .csv, .tsv or .jsonl file (default: {column})"
    command.add_argument(f"--{column}-column", default=None, help=text)


def column_names(options: argparse.Namespace) -> dict[str, str]:
    """Return what the file calls its columns, by column, where it is another name."""
    return {column: name for column in _columns() if (name := getattr(options, f"{column}_column", None))}


def _add_export(commands):
    export = commands.add_parser("export", help="export a run to SavedModel and LiteRT, replacing earlier exports")
    export.add_argument("run", help="a folder that train wrote")
    export.add_argument(
        "--lengths",
        type=_length,
        nargs="+",
        metavar="N",
        help='tokens per signature; "any" for one of any length (default: 512 2048 8192); of translation those of '
        "sources (default: 64 512 2048); not of causal_lm",
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
    predict.add_argument("run", help="a folder that train wrote")
    predict.add_argument("text", nargs="*", default=[], help="texts")
    predict.add_argument("--file", action="append", default=[], help="a file that holds one text; may be repeated")


def _add_generate(commands):
    generate = commands.add_parser(
        "generate", help="continue a text with a run of causal_lm; uses model.tflite once exported"
    )
    generate.add_argument("run", help="a folder that train wrote")
    generate.add_argument("prompt", nargs="?", default="", help="what the text begins with (default: nothing)")
    generate.add_argument("--file", help="a file that the prompt begins with; its text is not printed")
    generate.add_argument("--max-tokens", type=int, default=200, help="tokens to generate at most (default: 200)")
    generate.add_argument("--sampler", default="top_p", help="greedy, random, top_k or top_p (default: top_p)")
    generate.add_argument("--temperature", type=float, help="below 1: likelier tokens likelier (default: 0.8)")
    generate.add_argument("--top-p", type=float, help="share of the probability that is drawn from (default: 0.9)")
    generate.add_argument("--top-k", type=int, help="number of tokens that is drawn from (default: 40 for top_k)")
    generate.add_argument("--seed", type=int, help="integer for the same text again (default: another each time)")


def _add_translate(commands):
    translate = commands.add_parser(
        "translate", help="translate texts with a run of translation; uses model.tflite once exported"
    )
    translate.add_argument("run", help="a folder that train wrote")
    translate.add_argument("text", nargs="*", default=[], help="texts")
    translate.add_argument("--file", action="append", default=[], help="a file of a text in each line; may be repeated")
    _add_search(translate)


def _add_evaluate(commands):
    evaluate = commands.add_parser("evaluate", help="translate the sources of pairs; print BLEU and chrF by sacrebleu")
    evaluate.add_argument("run", help="a folder that train wrote")
    evaluate.add_argument("data", nargs="+", help="pairs that were not trained on, in files as train takes them")
    for column in ("source", "target", "document"):
        _add_column(evaluate, column)
    evaluate.add_argument("--tokenize", default="13a", help="how BLEU finds words: 13a, intl, zh, ... (default: 13a)")
    _add_search(evaluate)


def _add_search(command):
    from .runs import SEARCH

    beams, penalty = SEARCH["num_beams"], SEARCH["length_penalty"]
    command.add_argument("--sampler", default="beam", help="beam, greedy, random, top_k or top_p (default: beam)")
    command.add_argument("--num-beams", type=int, help=f"translations that beam follows at a time (default: {beams})")
    command.add_argument("--length-penalty", type=float, help=f"of beam: more favours longer ones (default: {penalty})")
    command.add_argument("--temperature", type=float, help="see generate (default: 0.8)")
    command.add_argument("--top-p", type=float, help="see generate (default: 0.9)")
    command.add_argument("--top-k", type=int, help="see generate (default: 40 for top_k)")
    command.add_argument("--max-tokens", type=int, help="tokens of a translation at most (default: by its source)")
    command.add_argument("--seed", type=int, help="integer for the same random translation again")


def _add_demo(commands):
    demo = commands.add_parser("demo", help="train, export and measure on presidential messages; may be resumed")
    demo.add_argument("--output", default="build/demo", help="folder to write (default: build/demo)")
    demo.add_argument("--quick", action="store_true", help="the same steps with a tiny model, as a check that they run")
