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
        "# Which period is a presidential message from?",
        *_accuracy(report),
        "## On the device",
        *_device(report, exports),
        "## Time for one document",
        _times(report["milliseconds_per_document"]),
        *(part for name, caption in CAPTIONS.items() for part in (f"![{caption}]({name})", caption)),
        f"Made in {report['seconds']} seconds{' after an interruption' if report['resumed'] else ''}.",
    ]
    return "\n\n".join(parts) + "\n"


def _accuracy(report: dict) -> list[str]:
    accuracy, counts = report["accuracy"], report["messages"]
    behind = accuracy["tfidf"] - accuracy["model"]
    standing = f"{abs(behind):.3f} {'below' if behind > 0 else 'above'} TF-IDF" if behind else "level with TF-IDF"
    model = f"this model, {report['parameters'] / 1e6:.2g} M parameters"
    steps, twin_steps = (report["histories"][name]["step"][-1] for name in ("fine_tuning", "twin_fine_tuning"))
    rows = [
        [model, f"{report['max_length']:,}", f"**{accuracy['model']:.3f}**"],
        ["its softmax twin", f"{report['twin_max_length']:,}", f"{accuracy['softmax_twin']:.3f}"],
        ["TF-IDF and logistic regression", "all", f"{accuracy['tfidf']:.3f}"],
        ["always the most frequent period", "none", f"{accuracy['majority']:.3f}"],
    ]
    return [
        f"{counts['train']} messages to train on, {counts['validation']} to validate, {counts['held_out']} held out; "
        "no president is in two of these. Four periods: 1790-1859, 1860-1911, 1912-1967, 1968-.",
        markdown_table(["on the held-out presidents", "tokens read", "accuracy"], rows),
        f"The model is {standing}, a strong baseline where words alone date a text. The twin has weights of the same "
        f"shapes, starts from the same {report['pretrain_steps']} pretraining steps, and sees the same documents, "
        f"truncated to a length that its quadratic cost allows: in {twin_steps} steps, the model in {steps}.",
    ]


def _device(report: dict, exports: list[LiteRTReport]) -> list[str]:
    lengths = ", ".join(f"{n:,}" for n in exports[0].lengths)
    custom_ops = ", ".join(sorted(exports[0].custom_ops)) or "none"
    held_out = report["messages"]["held_out"]
    agreed = ", ".join(f"{name} on {n} of {held_out}" for name, n in report["label_agreement"].items())
    pages = [companion(each.path, "report.md").name for each in exports]
    pages = ", ".join(f"[{name}]({name})" for name in pages)
    answer = report["answer"]
    return [
        f"model.tflite and its siblings of smaller weights: signatures for {lengths} tokens, no Flex op, custom ops "
        f"{custom_ops}. Errors are against Keras, over the largest output; times and memory are of one document in a "
        "fresh process, Python included.",
        comparison_table(exports),
        f"The label agrees with Keras on the held-out messages, truncated to {report['max_length']:,} tokens: "
        f"{agreed}. More on each file: {pages}.",
        f"For a held-out message given as raw text (“{answer['beginning']}...”), model.tflite predicted "
        f"**{answer['predicted']}**, actual **{answer['actual']}**.",
    ]


def _times(milliseconds: dict[str, dict[int, float]]) -> str:
    rows = [
        [f"{length:,}", f"{ours:,.0f}", f"{twin:,.0f}", f"{twin / ours:.1f}"]
        for (length, ours), twin in zip(
            milliseconds["model"].items(), milliseconds["softmax_twin"].values(), strict=True
        )
    ]
    return markdown_table(["tokens", "this model, ms", "softmax twin, ms", "ratio"], rows)
