import dataclasses
import json

import keras
import numpy as np
import pytest
from export_models import export_tflite, make_classifier, make_encoder, make_ids

from krpe_tf import models
from krpe_tf.export import LiteRTModel
from krpe_tf.export.compare import relative_errors
from krpe_tf.export.delegates import check_gpu, outside_xnnpack
from krpe_tf.export.inspection import inspect, keep_signatures
from krpe_tf.export.measuring import Measurement, Worker, measure_signatures
from krpe_tf.export.process import run_in_own_process
from krpe_tf.export.report import comparison_table, markdown_table, render, summary
from krpe_tf.export.samples import Document, Sample
from krpe_tf.files import companion


@pytest.fixture(scope="module")
def exported(shared):
    """A measured file with text, fixed lengths and one that is free."""
    return shared.free


@pytest.fixture(scope="module")
def small(shared):
    return shared.ids


@pytest.mark.slow
def test_the_report_lies_beside_the_file(exported):
    path, report = exported
    beside = {companion(path, end) for end in ("report.json", "report.md", "vocab.txt", "tokenizer_config.json")}
    assert set(path.parent.glob("free*")) == {path} | beside
    assert not list(path.parent.glob(".*"))
    assert json.loads(companion(path, "report.json").read_text()) == json.loads(json.dumps(dataclasses.asdict(report)))
    page = companion(path, "report.md").read_text()
    assert page == render(report)
    for name in report.signatures:
        assert f"| `{name}` | {report.signature_ops[name]} |" in page
    for op, count in (report.ops | report.custom_ops).items():
        assert any(
            line.startswith((f"| {op} | {count} |", f"| {op} (custom) | {count} |")) for line in page.split("\n")
        )


@pytest.mark.slow
def test_the_report_counts_ops_and_weights(exported, shared):
    path, report = exported
    counted = sum(report.ops.values()) + sum(report.custom_ops.values())
    assert counted == sum(report.signature_ops.values())
    # At least the weights of the model, at most the file.
    assert 4 * shared.classifier.count_params() < report.weight_bytes < report.bytes == path.stat().st_size


@pytest.mark.slow
def test_measurements_of_every_length_with_one_and_two_threads(exported):
    _, report = exported
    runs = [(each.signature, each.length, each.threads) for each in report.measurements]
    assert runs == [(name, n, t) for name, n in (("ids_16", 16), ("ids_40", 40), ("ids_any", 40)) for t in (1, 2)]
    for each in report.measurements:
        assert each.milliseconds > 0
        assert each.peak_mib is None or 10 < each.peak_mib < 1000
    lines = "\n".join(summary(report))
    assert "ids_40: error" in lines
    assert "2 threads" in lines


@pytest.mark.slow
def test_what_xnnpack_leaves_is_what_the_runtime_says(exported):
    _, report = exported
    assert sorted(report.outside_xnnpack) == ["ids_16", "ids_40", "ids_any"]
    for name, left in report.outside_xnnpack.items():
        assert 0 < sum(left.values()) < report.signature_ops[name]
    # Shapes that are known at run time only keep the delegate off.
    assert sum(report.outside_xnnpack["ids_any"].values()) > sum(report.outside_xnnpack["ids_40"].values())
    assert "FULLY_CONNECTED" not in report.outside_xnnpack["ids_40"]


def test_xnnpack_takes_gelu_and_leaves_cumulative_sums(tmp_path):
    class Sums(keras.layers.Layer):
        def call(self, x):
            return keras.ops.gelu(keras.ops.cumsum(x, axis=1))

    encoder = make_encoder(num_layers=1)
    model = keras.Model(encoder.inputs, Sums()(encoder.output))
    report = export_tflite(model, tmp_path / "model.tflite", (8,))
    assert report.ops["CUMSUM"] == report.outside_xnnpack["ids_8"]["CUMSUM"] == 1
    assert report.ops["GELU"] == 2
    assert "GELU" not in report.outside_xnnpack["ids_8"]


def test_one_signature_is_kept_and_computes_the_same(small, tmp_path):
    path, _ = small
    content = path.read_bytes()
    kept = tmp_path / "kept.tflite"
    kept.write_bytes(keep_signatures(content, ["ids_40"]))
    assert inspect(kept.read_bytes()).signature_ops == {"ids_40": inspect(content).signature_ops["ids_40"]}
    inputs = make_ids(1, 40, [33])
    np.testing.assert_array_equal(LiteRTModel(kept)(inputs), LiteRTModel(path)(inputs))


def test_measure_off_leaves_measurements_out(small, tmp_path):
    path, report = small
    assert report.measurements is None
    assert "peak memory" not in companion(path, "report.md").read_text()
    assert comparison_table([report]).count("\n") == 1  # The head alone.
    with pytest.raises(ValueError, match=r"`measure` must be True or False\. Received: measure='no'"):
        export_tflite(make_classifier(), tmp_path / "other.tflite", (8,), measure="no")


def test_a_report_in_the_way_is_not_overwritten_and_a_refused_export_leaves_none(small, tmp_path):
    model = make_classifier(num_layers=1)
    for end in ("report.json", "report.md"):
        old = companion(tmp_path / "model.tflite", end)
        old.write_text("old")
        with pytest.raises(ValueError, match=rf"overwrite=True\. Received: path='.*model.{end}'"):
            export_tflite(model, tmp_path / "model.tflite", (8,))
        with pytest.raises(ValueError, match="nothing was written"):
            export_tflite(model, tmp_path / "model.tflite", (8,), tolerance=1e-30, overwrite=True)
        assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [(old.name, "old")]
        old.unlink()


def test_errors_are_over_the_largest_output_at_valid_positions():
    inputs = {"token_ids": np.zeros((1, 3), np.int32), "padding_mask": np.array([[1, 1, 0]], np.int32)}
    document = Document(inputs, None, 2)
    reference = np.array([[[1.0, -4.0], [2.0, 0.0], [9.0, 9.0]]])
    output = reference + np.array([[[0.0, 1.0], [0.5, 0.5], [7.0, 7.0]]])
    samples = [Sample(document, reference, document.valid)]
    assert relative_errors(samples, [output]) == (1 / 4, 0.5 / 4)
    assert relative_errors(samples, [output[:, :2]]) == (np.inf, np.inf)
    assert relative_errors(samples, [output * np.nan]) == (np.inf, np.inf)


def test_the_table_has_a_row_for_each_file_and_length(small):
    _, report = small
    runs = [
        Measurement("ids_16", 16, 1, 2.5, 60.0),
        Measurement("ids_16", 16, 2, 1.5, 62.4),
        Measurement("ids_40", 40, 1, 1234.56, None),
        Measurement("ids_40", 40, 2, 5.0, None),
    ]
    full = dataclasses.replace(report, measurements=runs)
    half = dataclasses.replace(report, measurements=runs, quantization="float16")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in comparison_table([full, half]).split("\n")
    ]
    assert [row[0] for row in rows[2:]] == ["float32", "float32", "float16", "float16"]
    assert rows[2][2] == "16"
    assert rows[2][5:] == ["2.5", "1.5", "62 MiB"]
    assert rows[3][5:] == ["1,234.6", "5.0", "unknown"]


def test_a_markdown_table():
    assert markdown_table(["a", "b"], [["x", 1], ["y", ""]]) == "| a | b |\n| --- | --- |\n| x | 1 |\n| y |  |"


def test_a_process_that_fails_names_the_signature(small, tmp_path):
    calls = [(name, make_ids(1, 16, [9])) for name in ("ids_16", "ids_99", "ids_40")]
    with pytest.raises(RuntimeError, match=r"(?s)\(signature ids_99, exit status 1\).*ids_99"):
        run_in_own_process("litert", small[0], calls, with_text_ops=False)
    (tmp_path / "broken").write_bytes(small[0].read_bytes()[:100])
    with pytest.raises(RuntimeError, match=r"\(signature none, it did not load, exit status 1\)"):
        run_in_own_process("litert", tmp_path / "broken", calls, with_text_ops=False)


def test_a_file_that_cannot_run_says_why(small, tmp_path):
    (tmp_path / "broken").write_bytes(small[0].read_bytes()[:100])
    with pytest.raises(RuntimeError, match="failed in its own process"):
        measure_signatures(tmp_path / "broken", {"ids_16": 16})
    worker = Worker(small[0], "ids_99", 1)
    assert worker.ask() is None
    with pytest.raises(RuntimeError, match="ids_99"):
        worker.finish()


def test_the_gpu_delegate_is_asked_where_there_is_an_adapter(small):
    path, report = small
    checked = check_gpu(path.read_bytes(), "ids_16")
    assert checked == report.gpu
    if checked is None:
        pytest.skip("no Vulkan adapter")
    assert checked.taken + checked.left == report.signature_ops["ids_16"]
    assert checked.left == 0 or checked.reasons


@pytest.mark.slow
def test_a_signature_with_custom_ops_cannot_be_asked(exported):
    with pytest.raises(RuntimeError, match="FastBertNormalize"):
        outside_xnnpack(exported[0].read_bytes(), ["text_16"])


def test_heads_have_reports_too(tmp_path):
    report = export_tflite(models.MaskedLM(make_encoder(num_layers=1)), tmp_path / "model.tflite", (8,))
    assert 0 < report.mean_error["ids_8"] <= report.max_error["ids_8"] < 1e-5
