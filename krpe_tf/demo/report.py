"""The demo's report: report.json, report.md and three plots."""

from pathlib import Path

import numpy as np
from keras import ops

from ..export import LiteRTReport
from ..export.report import comparison_table
from ..files import companion, write_json

PLOTS = {
    "training.png": "Training: masked-LM pretraining, then fine-tuning of the model and of its softmax twin.",
    "biases.png": "The learned position bias of each head, against where every bias starts.",
    "scaling.png": "Milliseconds for one document against its length.",
}


def write_report(output: Path, report: dict, exports: list[LiteRTReport], position_bias) -> None:
    """Writes report.json, report.md and its plots to `output`.

    Args:
        output: an existing folder.
        report: what `run_demo` gathered.
        exports: the reports of the .tflite files, that of float32 first.
        position_bias: the trained bias layer that the encoder's layers share.
    """
    write_json(output / "report.json", report)
    _plot_training(output / "training.png", report["histories"])
    _plot_biases(output / "biases.png", position_bias)
    _plot_scaling(output / "scaling.png", report["milliseconds_per_document"])
    (output / "report.md").write_text(render(report, exports), encoding="utf-8")


def render(report: dict, exports: list[LiteRTReport]) -> str:
    """The report as Markdown; arguments as those of `write_report`."""
    accuracy, answer = report["accuracy"], report["answer"]
    counts = report["messages"]
    behind = accuracy["tfidf"] - accuracy["model"]
    standing = f"{abs(behind):.3f} {'below' if behind > 0 else 'above'} TF-IDF" if behind else "level with TF-IDF"
    lengths = ", ".join(f"{n:,}" for n in exports[0].lengths)
    custom_ops = ", ".join(sorted(exports[0].custom_ops)) or "none"
    agreed = ", ".join(f"{name} {n}" for name, n in report["label_agreement"].items())
    pages = [companion(each.path, "report.md").name for each in exports]
    pages = ", ".join(f"[{name}]({name})" for name in pages)
    lines = [
        "# Which period is a presidential message from?",
        "",
        f"{counts['train']} messages to train on, {counts['validation']} to validate, {counts['held_out']} held out; "
        "no president is in two of these. Four periods: 1790-1859, 1860-1911, 1912-1967, 1968-.",
        "",
        "| on the held-out presidents | tokens read | accuracy |",
        "| --- | --- | --- |",
        f"| this model, {report['parameters'] / 1e6:.2g} M parameters | {report['max_length']:,} | "
        f"**{accuracy['model']:.3f}** |",
        f"| its softmax twin, as many steps | {report['twin_max_length']:,} | {accuracy['softmax_twin']:.3f} |",
        f"| TF-IDF and logistic regression | all | {accuracy['tfidf']:.3f} |",
        f"| always the most frequent period | none | {accuracy['majority']:.3f} |",
        "",
        f"The model is {standing}, a strong baseline where words alone date a text. The twin has weights of the same "
        f"shapes, starts from the same {report['pretrain_steps']} pretraining steps, and sees the same documents, cut "
        "to a length that its quadratic cost allows.",
        "",
        "## On the device",
        "",
        f"model.tflite and its siblings of smaller weights: signatures for {lengths} tokens, no Flex op, custom ops "
        f"{custom_ops}. Errors are against Keras, over the largest output; times and memory are of one document in a "
        "fresh process, Python included.",
        "",
        comparison_table(exports),
        "",
        f"Of the {counts['held_out']} held-out messages, cut to {report['max_length']:,} tokens, so many get the label "
        f"that Keras gives: {agreed}. More on each file: {pages}.",
        "",
        f"Asked about a held-out message, raw text in (“{answer['beginning']}...”), it said **{answer['said']}**; in "
        f"truth {answer['truth']}.",
        "",
        "## Time for one document",
        "",
        "| tokens | this model, ms | softmax twin, ms | ratio |",
        "| --- | --- | --- | --- |",
    ]
    times = report["milliseconds_per_document"]
    for length, ours in times["model"].items():
        twin = times["softmax_twin"][length]
        lines.append(f"| {length:,} | {ours:,.0f} | {twin:,.0f} | {twin / ours:.1f} |")
    for name, caption in PLOTS.items():
        lines += ["", f"![{caption}]({name})", "", caption]
    lines += ["", f"Made in {report['seconds']} seconds."]
    return "\n".join(lines) + "\n"


def _figure(columns: int = 1):
    # The object interface, not pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * columns, 4), layout="constrained")
    axes = figure.subplots(1, columns)
    for axis in np.atleast_1d(axes):
        axis.grid(alpha=0.3)
    return figure, axes


def _plot_training(path: Path, histories: dict) -> None:
    figure, (left, right) = _figure(2)
    for key, label in (("loss", "training"), ("val_loss", "validation")):
        values = histories["pretraining"][key]
        left.plot(range(1, len(values) + 1), values, marker="o", label=label)
    left.set(title="masked-LM pretraining", xlabel="part of the run", ylabel="loss, nats")
    for name, label in (("fine_tuning", "this model"), ("twin_fine_tuning", "softmax twin")):
        values = histories[name]["val_accuracy"]
        right.plot(range(1, len(values) + 1), values, marker="o", label=label)
    right.set(title="fine-tuning", xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1.02))
    left.legend()
    right.legend()
    figure.savefig(path, dpi=120)


def _plot_biases(path: Path, position_bias) -> None:
    figure, axis = _figure()
    offsets = np.arange(-64, 65)
    start = type(position_bias).from_config(position_bias.get_config())
    learned, started = (ops.convert_to_numpy(bias.log_weights(offsets)) for bias in (position_bias, start))
    for head in range(position_bias.num_heads):
        (line,) = axis.plot(offsets, learned[head], label=f"head {head + 1}")
        axis.plot(offsets, started[head], color=line.get_color(), linestyle=":", linewidth=1)
    axis.set(title="position bias (dotted: start)", xlabel="key position - query position", ylabel="log weight b")
    axis.legend()
    figure.savefig(path, dpi=120)


def _plot_scaling(path: Path, milliseconds: dict) -> None:
    figure, axis = _figure()
    for name, label in (("model", "this model"), ("softmax_twin", "softmax twin")):
        axis.loglog(list(milliseconds[name]), list(milliseconds[name].values()), marker="o", base=2, label=label)
    axis.set(title="one document, on this machine", xlabel="tokens", ylabel="ms")
    axis.legend()
    figure.savefig(path, dpi=120)
