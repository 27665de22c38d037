"""The report of an exported generator or translator: what is in the file, its distance from Keras, its costs."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files import companion
from .report import listed_ops, markdown_table, mebibytes, megabytes, weights_name


@dataclass(frozen=True)
class GeneratorCosts:
    """What a file costs in a fresh process, on one thread.

    Attributes: `decode_milliseconds` of a token, the median; `decode_fastest`, the smallest; `prefill_tokens`, how many
    are read a second, by signature that reads a prompt or a source; `peak_mib`, the largest resident memory, Python,
    numpy and LiteRT among it, None where the system does not tell.
    """

    decode_milliseconds: float
    decode_fastest: float
    prefill_tokens: dict[str, float]
    peak_mib: float | None


@dataclass(frozen=True)
class WriterReport:
    """What an export of a model that writes wrote and how it was checked; `dataclasses.asdict` makes it JSON.

    Attributes: `path`; `bytes` of the file; `weight_bytes`, of its constants; `state_bytes`, what one text carries from
    token to token; `vocabulary_size`; `model_dtypes`, what the layers of the model compute in, while those of the file
    do in float32; `quantization`; `signature_ops`, how many ops each signature has; `ops`, by kind and count, all
    signatures together; `outside_xnnpack`, for each signature the ops that LiteRT's delegate for CPUs leaves to the
    interpreter; `highest_rank` of any tensor; `max_error` against the parallel form of the Keras model, over max
    |logits|, for each way of reading; `tolerance`; `costs`, None where the export did not measure.
    """

    path: str
    bytes: int
    weight_bytes: int
    state_bytes: int
    vocabulary_size: int
    model_dtypes: list[str]
    quantization: str | None
    signature_ops: dict[str, int]
    ops: dict[str, int]
    outside_xnnpack: dict[str, dict[str, int]]
    highest_rank: int
    max_error: dict[str, float]
    tolerance: float
    costs: GeneratorCosts | None


@dataclass(frozen=True)
class GeneratorReport(WriterReport):
    """What `export_generator` wrote; see `WriterReport`.

    Attributes: `prefill`, the lengths of the pieces in which a prompt is read.
    """

    prefill: list[int]


@dataclass(frozen=True)
class TranslatorReport(WriterReport):
    """What `export_translator` wrote; see `WriterReport`.

    Attributes: `lengths` of sources; `rows`, how many translations of a source are read at a time; `source_bytes`, what
    is kept of a source.
    """

    lengths: list[int]
    rows: list[int]
    source_bytes: int


def write_generator_report(report: WriterReport, path: Path) -> None:
    """Write a report beside its file, as JSON and as a page."""
    companion(path, "report.json").write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    companion(path, "report.md").write_text(render(report), encoding="utf-8")


def render(report: WriterReport) -> str:
    """Return the report as a Markdown page."""
    parts = [
        f"# {Path(report.path).name}",
        f"{megabytes(report.bytes)}, {megabytes(report.weight_bytes)} of it constants; weights "
        f"{weights_name(report.quantization)}; no op but builtin ones; highest rank "
        f"{report.highest_rank}. {_carries(report)}.",
    ]
    if report.costs is not None:
        parts += [
            "## Cost",
            "In a fresh process, on one thread; its memory holds Python and LiteRT too.",
            _costs(report),
        ]
    parts += [
        "## Errors",
        "Against the parallel form of the Keras model, over the largest logit; up to "
        f"{report.tolerance:.0e} was accepted.",
        markdown_table(["how the text is read", "max error"], [[k, f"{v:.1e}"] for k, v in report.max_error.items()]),
        "## Delegates",
        "XNNPACK, LiteRT's delegate for CPUs, leaves to the interpreter:",
        markdown_table(
            ["signature", "ops", "which"],
            [
                [f"`{name}`", f"{sum(left.values())} of {report.signature_ops[name]}", listed_ops(left)]
                for name, left in report.outside_xnnpack.items()
            ],
        ),
        "## Ops",
        markdown_table(["op", "count"], sorted(report.ops.items(), key=lambda item: (-item[1], item[0]))),
    ]
    return "\n\n".join(parts) + "\n"


def _costs(report: WriterReport) -> str:
    costs = report.costs
    rows = [["`decode`, ms a token", f"{costs.decode_milliseconds:.2f} (fastest {costs.decode_fastest:.2f})"]]
    rows += [[f"`{name}`, tokens a second", f"{rate:,.0f}"] for name, rate in costs.prefill_tokens.items()]
    return markdown_table(["", ""], [*rows, ["peak memory", mebibytes(costs.peak_mib)]])


def _carries(report: WriterReport) -> str:
    carried = f"{report.state_bytes / 1e3:,.0f} KB"
    if isinstance(report, TranslatorReport):
        kept = f"{report.source_bytes / 1e3:,.0f} KB"
        return f"Of a source {kept} are kept, and a translation carries {carried}, at any length"
    return f"A text carries {carried} at any length"


def generator_summary(report: WriterReport) -> list[str]:
    """Return the essentials of a report, a line each, for a terminal."""
    lines = [
        f"{megabytes(report.bytes)}, weights {weights_name(report.quantization)}. {_carries(report)}",
        f"error {max(report.max_error.values()):.1e} against Keras, over {len(report.max_error)} ways of reading",
    ]
    if report.costs is not None:
        costs = report.costs
        read = ", ".join(f"{name} {rate:,.0f} tokens/s" for name, rate in costs.prefill_tokens.items())
        lines.append(
            f"one thread: {costs.decode_milliseconds:.2f} ms a token, {read}, {mebibytes(costs.peak_mib)} at most"
        )
    left = report.outside_xnnpack["decode"]
    return [*lines, f"decode: XNNPACK leaves {listed_ops(left) or 'no op'} to the interpreter"]
