"""The report of a LiteRT export: what the file holds, how far it is from Keras, what it costs to run."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files import companion
from .compression import Certificate
from .delegates import GpuCheck
from .measuring import Measurement


@dataclass(frozen=True)
class LiteRTReport:
    """What `export_tflite` wrote and how it was checked; `dataclasses.asdict` makes it JSON.

    Attributes: `path`; `bytes` of the file; `weight_bytes`, of its constants, the tokenizer's tables too; `lengths`;
    `model_dtypes`, what the layers of the model compute in, while those of the file do in float32; `quantization`;
    `signatures`, the names; `signature_ops`, how many ops each has; `ops` and `custom_ops`, by kind and count, all
    signatures together; `recomputed`, ops that give the same at every call, which the converter did not fold into
    constants; `outside_xnnpack`, for each signature that takes ids the ops that LiteRT's delegate for CPUs leaves to
    the interpreter, by kind and count; `gpu`, what its delegate for GPUs made of the shortest of fixed length, None
    without one, or where this machine has no adapter to ask; `highest_rank` of any tensor; `max_error` and `mean_error`
    of each signature that calls the model, |difference| over max |output|; `tolerance`; `certificates`, with
    `bias_tolerance`: for each bias that was replaced, by its name, how far that can bring the output of one attention,
    as `compress_bias` proves it; `measurements`, each signature that takes ids in fresh processes, None where the
    export did not measure; `dense_measurements`, for a file with transforms the same of the dense route.
    """

    path: str
    bytes: int
    weight_bytes: int
    lengths: list[int | None]
    model_dtypes: list[str]
    quantization: str | None
    signatures: list[str]
    signature_ops: dict[str, int]
    ops: dict[str, int]
    custom_ops: dict[str, int]
    recomputed: dict[str, int]
    outside_xnnpack: dict[str, dict[str, int]]
    gpu: GpuCheck | None
    highest_rank: int
    max_error: dict[str, float]
    mean_error: dict[str, float]
    tolerance: float
    certificates: dict[str, Certificate] | None
    measurements: list[Measurement] | None
    dense_measurements: list[Measurement] | None


def write_report(report: LiteRTReport, path: Path) -> None:
    """Write a report beside its file, as JSON and as a page."""
    companion(path, "report.json").write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    companion(path, "report.md").write_text(render(report), encoding="utf-8")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Return a Markdown table, without a line break at the end; what stands in a cell is shown by `str`."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def render(report: LiteRTReport) -> str:
    """Return the report as a Markdown page."""
    parts = [
        f"# {Path(report.path).name}",
        f"{megabytes(report.bytes)}, {megabytes(report.weight_bytes)} of it constants; weights "
        f"{weights_name(report.quantization)}; no op but builtin ones{_except(report.custom_ops)}; highest rank "
        f"{report.highest_rank}.",
        *_half_precision(report),
        "## Signatures",
        f"Error against Keras on the sample texts, over the largest output; up to {report.tolerance:.0e} was accepted.",
        _signatures_table(report),
    ]
    if report.measurements is not None:
        parts += ["## Cost", "One document, in a fresh process; its memory holds Python and LiteRT too."]
        parts += [_costs_table(report.measurements)]
    if report.dense_measurements is not None:
        parts += ['The same model in float32 on `route="dense"`, without transforms:']
        parts += [_costs_table(report.dense_measurements)]
    if report.certificates is not None:
        parts += ["## Biases replaced"]
        parts += ["By how much the output of one attention can differ, over the largest value, at any document:"]
        parts += [_certificates_table(report.certificates)]
    parts += ["## Delegates", "XNNPACK, LiteRT's delegate for CPUs, leaves to the interpreter:"]
    parts += [_xnnpack_table(report), _gpu_line(report), "## Ops", _ops_table(report)]
    return "\n\n".join(parts) + "\n"


def _half_precision(report: LiteRTReport) -> list[str]:
    if set(report.model_dtypes) <= {"float32"}:
        return []
    return [
        f"The model computes in {', '.join(report.model_dtypes)}; the file has its weights and computes in float32."
    ]


def _signatures_table(report: LiteRTReport) -> str:
    rows = []
    for name in report.signatures:
        errors = [f"{each[name]:.1e}" if name in each else "" for each in (report.max_error, report.mean_error)]
        rows.append([f"`{name}`", report.signature_ops[name], *errors])
    return markdown_table(["signature", "ops", "max error", "mean error"], rows)


def _costs_table(measurements: list[Measurement]) -> str:
    rows = [
        [f"`{x.signature}`", f"{x.length:,}", x.threads, f"{x.milliseconds:,.1f}", mebibytes(x.peak_mib)]
        for x in measurements
    ]
    return markdown_table(["signature", "tokens", "threads", "ms", "peak memory"], rows)


def _certificates_table(certificates: dict[str, Certificate]) -> str:
    rows = [
        [name, f"{each.bound:.1e}", f"{each.length:,}", each.radius, each.num_terms]
        for name, each in certificates.items()
    ]
    return markdown_table(["bias", "at most", "up to tokens", "radius", "exponentials"], rows)


def _xnnpack_table(report: LiteRTReport) -> str:
    rows = [
        [f"`{name}`", f"{sum(left.values())} of {report.signature_ops[name]}", listed_ops(left)]
        for name, left in report.outside_xnnpack.items()
    ]
    return markdown_table(["signature", "ops", "which"], rows)


def _ops_table(report: LiteRTReport) -> str:
    rows = [
        [f"{op} (custom)" if op in report.custom_ops else op, count, report.recomputed.get(op, "")]
        for op, count in sorted({**report.ops, **report.custom_ops}.items(), key=lambda item: (-item[1], item[0]))
    ]
    return markdown_table(["op", "count", "recomputed at every call"], rows)


def summary(report: LiteRTReport) -> list[str]:
    """Return the essentials of a report, a line each, for a terminal."""
    lines = [f"{megabytes(report.bytes)}, weights {weights_name(report.quantization)}"]
    measured = {(each.signature, each.threads): each for each in report.measurements or []}
    for signature, error in report.max_error.items():
        costs = [
            f"{each.milliseconds:,.1f} ms with {threads} thread{'' if threads == 1 else 's'}"
            for (name, threads), each in measured.items()
            if name == signature
        ]
        peaks = [each.peak_mib for (name, _), each in measured.items() if name == signature and each.peak_mib]
        memory = [f"{mebibytes(max(peaks))} at most"] if peaks else []
        lines.append(", ".join([f"{signature}: error {error:.1e} against Keras", *costs, *memory]))
    for signature, left in report.outside_xnnpack.items():
        count = f"{sum(left.values())} of {report.signature_ops[signature]}"
        lines.append(f"{signature}: XNNPACK leaves {count} ops to the interpreter")
    return [*lines, _gpu_line(report)]


def comparison_table(reports: Sequence[LiteRTReport]) -> str:
    """Return exports of one model as a Markdown table: a row for each export and each measured fixed length.

    Args:
        reports: Reports with measurements of 1 and 2 threads.

    Returns:
        The table, without a line break at the end.
    """
    rows = []
    for report in reports:
        measured = {(each.signature, each.threads): each for each in report.measurements or []}
        for length in filter(None, report.lengths if measured else []):
            signature = f"ids_{length}"
            runs = [measured[signature, threads] for threads in (1, 2)]
            peaks = [each.peak_mib for each in runs if each.peak_mib is not None]
            rows.append(
                [
                    weights_name(report.quantization),
                    megabytes(report.bytes),
                    f"{length:,}",
                    *(f"{errors[signature]:.1e}" for errors in (report.max_error, report.mean_error)),
                    *(f"{each.milliseconds:,.1f}" for each in runs),
                    mebibytes(max(peaks, default=None)),
                ]
            )
    header = ["weights", "file", "tokens", "max error", "mean error", "ms, 1 thread", "ms, 2 threads", "peak memory"]
    return markdown_table(header, rows)


def weights_name(quantization: str | None) -> str:
    """Return the type of the weights under a quantization."""
    return quantization or "float32"


def megabytes(count: int) -> str:
    """Return a number of bytes in MB, as text."""
    return f"{count / 1e6:.2f} MB"


def mebibytes(mib: float | None) -> str:
    """Return an amount of memory, as text."""
    return "unknown" if mib is None else f"{mib:,.0f} MiB"


def listed_ops(counts: dict[str, int]) -> str:
    """Return ops by kind and count, the most frequent first, as text."""
    return ", ".join(f"{count} {op}" for op, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _except(custom_ops: dict[str, int]) -> str:
    listed = ", ".join(sorted(custom_ops))
    return f", and {listed} in the signatures that take text" if listed else ""


def _gpu_line(report: LiteRTReport) -> str:
    gpu = report.gpu
    if gpu is None:
        return "GPU delegate not checked: needs a fixed-length signature and a Vulkan adapter."
    said = "; ".join(gpu.reasons)
    if gpu.taken is None:
        return f"LiteRT's GPU delegate failed on `{gpu.signature}` (adapter: {gpu.adapter}): {said}"
    takes = f"LiteRT's GPU delegate takes {gpu.taken} of {gpu.taken + gpu.left} ops of `{gpu.signature}`"
    return f"{takes} (adapter: {gpu.adapter}){'; it said: ' if said else '.'}{said}"
