"""The demo's report: report.json, report.md and three plots."""

from pathlib import Path

from ..export import LiteRTReport, comparison_table, markdown_table
from ..files import companion, write_json
from .plots import CAPTIONS, plot_biases, plot_scaling, plot_training


def write_report(output: Path, report: dict, exports: list[LiteRTReport], position_bias) -> None:
    """Write report.json, report.md and its plots to `output`.

    Args:
        output: An existing folder.
        report: What `run_demo` gathered.
        exports: The reports of the .tflite files, that of float32 first.
        position_bias: The trained bias layer that the encoder's layers share.
    """
    write_json(output / "report.json", report)
    plot_training(output / "training.png", report["histories"])
    plot_biases(output / "biases.png", position_bias)
    plot_scaling(output / "scaling.png", report["milliseconds_per_document"])
    (output / "report.md").write_text(render(report, exports), encoding="utf-8")


def render(report: dict, exports: list[LiteRTReport]) -> str:
    """Return the report as Markdown; arguments as those of `write_report`."""
    parts = [
        "# Capitals and punctuation, given back to presidential messages",
        *_scores(report),
        "## The first words of the first held-out message",
        *_passage(report["passage"]),
        "## On the device",
        *_device(report, exports),
        "## Time for one document",
        _times(report["milliseconds_per_document"]),
        *(part for name, caption in CAPTIONS.items() for part in (f"![{caption}]({name})", caption)),
        f"Made in {report['seconds']} seconds{' after an interruption' if report['resumed'] else ''}.",
    ]
    return "\n\n".join(parts) + "\n"


def _scores(report: dict) -> list[str]:
    counts, scores = report["messages"], report["scores"]
    train_length, max_length = f"{report['train_length']:,}", f"{report['max_length']:,}"
    names = {
        "model": (f"this model, {report['parameters'] / 1e6:.2g} M parameters", max_length),
        "model_in_pieces": ("the same", train_length),
        "softmax_twin": ("its softmax twin", train_length),
        "window": ("logistic regression on the words around", "7 words"),
        "most_frequent": ("the most frequent label of each word", "1 word"),
    }
    best = {score: max(each[score] for each in scores.values()) for score in scores["model"]}
    rows = [
        [name, read, *(_bold(scores[key][score], best[score]) for score in best)] for key, (name, read) in names.items()
    ]
    steps = report["histories"]["fine_tuning"]["step"][-1]
    return [
        f"{counts['train']} messages to train on, {counts['validation']} to validate, {counts['held_out']} held out; "
        "no president is in two of these. Of every word the models see the lower case alone, without punctuation, and "
        "say whether it began with a capital and which mark came after it.",
        markdown_table(["on the held-out presidents", "tokens read at once", "words right", *list(best)[1:]], rows),
        f"Words right: the share of {report['held_out_words']:,} words with both right; a text without any capital or "
        "mark has most of them. Punctuation and capitals: F1, of all marks and of all capitals. Model and twin have "
        f"weights of the same shapes and trained for {steps} steps on the same pieces of {train_length} tokens; the "
        f"model then reads {max_length} at once.",
    ]


def _bold(value: float, best: float) -> str:
    return f"**{value:.3f}**" if value == best else f"{value:.3f}"


def _passage(passage: dict[str, str]) -> list[str]:
    names = {
        "bare": "What the models were given",
        "model": "Restored by model.tflite, from this raw text",
        "window": "Restored by logistic regression",
        "original": "The original, without what no model restores (dashes, quotes, capitals inside words)",
    }
    return [f"{name}:\n\n> {passage[key]}" for key, name in names.items()]


def _device(report: dict, exports: list[LiteRTReport]) -> list[str]:
    lengths = ", ".join(f"{n:,}" for n in exports[0].lengths)
    custom_ops = ", ".join(sorted(exports[0].custom_ops)) or "none"
    words = report["held_out_words"]
    agreed = ", ".join(f"{name} on {n:,} of {words:,}" for name, n in report["label_agreement"].items())
    pages = [companion(each.path, "report.md").name for each in exports]
    pages = ", ".join(f"[{name}]({name})" for name in pages)
    return [
        f"model.tflite and its siblings of smaller weights: signatures for {lengths} tokens, no Flex op, custom ops "
        f"{custom_ops}. Errors are against Keras, over the largest output; times and memory are of one document in a "
        "fresh process, Python included.",
        comparison_table(exports),
        f"The label agrees with Keras on the words of the held-out messages, {report['max_length']:,} tokens at once: "
        f"{agreed}. More on each file: {pages}.",
    ]


def _times(milliseconds: dict[str, dict[int, float]]) -> str:
    rows = [
        [f"{length:,}", f"{ours:,.0f}", f"{twin:,.0f}", f"{twin / ours:.1f}"]
        for (length, ours), twin in zip(
            milliseconds["model"].items(), milliseconds["softmax_twin"].values(), strict=True
        )
    ]
    return markdown_table(["tokens", "this model, ms", "softmax twin, ms", "ratio"], rows)
