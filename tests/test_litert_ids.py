"""`litert_ids.py`: any length, windows, both runtimes, and alone, as an app copies it."""

import json
import shutil
import subprocess
import sys
import venv
from importlib.metadata import version

import numpy as np
import pytest
from export_models import FROM_THREADS, export_tflite, make_classifier, make_encoder, make_ids, relative_error

from krpe_tf.export import LiteRTIdsModel, LiteRTModel, litert_ids
from krpe_tf.export.inspection import keep_signatures

RUNTIMES = ("interpreter", "compiled")

# Called with the file's folder, a .tflite file and documents as JSON.
ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from litert_ids import LiteRTIdsModel
path, inputs = sys.argv[2], {name: np.array(value) for name, value in json.loads(sys.argv[3]).items()}
models = [LiteRTIdsModel(path, runtime=runtime, num_threads=2) for runtime in ("interpreter", "compiled")]
rows = [{name: value[i : i + 1] for name, value in inputs.items()} for i in range(len(inputs["token_ids"]))]
wrong = [wrong_answers(model, rows) for model in models]
print(json.dumps([wrong, [model(inputs).tolist() for model in models]]))
"""

# Nothing but the standard library, numpy, ai-edge-litert and what that depends on.
BLOCK = """
import sys
ALLOWED = {"numpy", "ai_edge_litert", "litert_ids", "ml_dtypes", "flatbuffers", "google", "tqdm", "typing_extensions"}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED | sys.stdlib_module_names:
            raise ImportError(f"blocked: {name}")
sys.meta_path.insert(0, Block())
"""


@pytest.fixture(scope="module", params=["pooled", "per_token"])
def model(request):
    return make_classifier() if request.param == "pooled" else make_encoder()


@pytest.fixture(scope="module")
def free(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "free.tflite"
    export_tflite(model, path, (16, None), measure=False)
    return path


@pytest.fixture(scope="module")
def fixed(free):
    """The same file without `ids_any`."""
    path = free.with_name("fixed.tflite")
    path.write_bytes(keep_signatures(free.read_bytes(), ["ids_16"]))
    return path


def check(result, expected, inputs):
    """Compares where there are tokens; padding has zeros in an output with a row per token."""
    expected = np.asarray(expected)
    if expected.ndim == 3:
        valid = np.asarray(inputs["padding_mask"], bool)
        assert not result[~valid].any()
        expected = expected * valid[..., np.newaxis]
    assert relative_error(result, expected) < 1e-5


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_length(model, free, runtime):
    loaded = LiteRTIdsModel(free, runtime=runtime)
    assert (loaded.lengths, loaded.any_length) == ([16], True)
    # Longer and shorter in turn: buffers must follow.
    for width, counts in ((5, [5, 2]), (300, [300, 16, 17]), (17, [17]), (700, [7, 700]), (20, [18, 20, 1])):
        inputs = make_ids(len(counts), width, counts)
        check(loaded(inputs), model(inputs), inputs)


def test_runtimes_and_threads_give_the_same(fixed, free):
    inputs = make_ids(3, 16, [16, 9, 1])
    expected = LiteRTIdsModel(fixed)(inputs)
    for path in (fixed, free):
        for runtime in RUNTIMES:
            for num_threads in (1, 2):
                result = LiteRTIdsModel(path, num_threads, runtime=runtime)(inputs)
                assert relative_error(result, expected) < 1e-6


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_windows(model, fixed, runtime):
    loaded = LiteRTIdsModel(fixed, too_long="windows", runtime=runtime)
    inputs = make_ids(3, 44, [40, 16, 17])
    inputs["padding_mask"][0, [3, 30]] = 0
    # 38 and 15 tokens between the first and the last, at most 14 in a window.
    parts = {0: ((1, 14), (14, 27), (27, 39)), 2: ((1, 9), (9, 16))}
    row = {name: value[1:2, :16] for name, value in inputs.items()}
    outputs = {1: np.asarray(model(row))[0]}
    for index, ranges in parts.items():
        last = ranges[-1][1]
        windows, weights = [], []
        for start, stop in ranges:
            take = [0, *range(start, stop), last]
            window = {name: value[index : index + 1, take] for name, value in inputs.items()}
            windows.append(np.asarray(model(window), np.float64)[0])
            weights.append(int(window["padding_mask"].sum()))
        if windows[0].ndim == 1:
            outputs[index] = sum(w * each for w, each in zip(weights, windows, strict=True)) / sum(weights)
        else:
            outputs[index] = np.concatenate([windows[0][:1], *(each[1:-1] for each in windows), windows[-1][-1:]])
            assert len(outputs[index]) == last + 1
    result = loaded(inputs)
    if result.ndim == 2:
        assert relative_error(result, np.stack([outputs[i] for i in range(3)])) < 1e-5
        return
    assert result.shape[1] == 44
    for index, output in outputs.items():
        valid = inputs["padding_mask"][index].astype(bool)
        assert relative_error(result[index][valid], output[valid[: len(output)]]) < 1e-5
        assert not result[index][~valid].any()


def test_a_document_that_fits_is_not_cut(fixed):
    inputs = make_ids(2, 16, [16, 3])
    assert np.array_equal(LiteRTIdsModel(fixed, too_long="windows")(inputs), LiteRTIdsModel(fixed)(inputs))


def test_windows_are_never_needed_with_any_length(model, free):
    inputs = make_ids(1, 50, [50])
    check(LiteRTIdsModel(free, too_long="windows")(inputs), model(inputs), inputs)


def test_windows_need_room_for_a_token(tmp_path):
    export_tflite(make_classifier(num_layers=1), tmp_path / "model.tflite", (2,), measure=False)
    with pytest.raises(ValueError, match=r"\[CLS\], a token and \[SEP\].*a file for 2 tokens"):
        LiteRTIdsModel(tmp_path / "model.tflite", too_long="windows")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_bad_inputs(fixed, runtime):
    loaded = LiteRTIdsModel(fixed, runtime=runtime)
    good = make_ids(1, 8, [8])
    for bad, message in (
        (["text"], "`inputs` must be.*Received: inputs=list"),
        ({"token_ids": good["token_ids"]}, "must hold token_ids and padding_mask"),
        ({**good, "padding_mask": good["padding_mask"][:, :4]}, "one shape"),
        ({**good, "token_ids": good["token_ids"] + 0.5}, "`token_ids` must be integers"),
        ({**good, "padding_mask": good["padding_mask"] + 0.5}, "`padding_mask` must be integers or bools"),
        # LiteRT itself reads -1 as the last of the vocabulary, and int32 turns 2**32 into 0.
        ({**good, "token_ids": good["token_ids"] * 0 - 1}, "vocabulary.*Received: token_ids from -1 to -1"),
        ({**good, "token_ids": good["token_ids"].astype(np.int64) * 0 + 2**32}, "token_ids from 4294967296"),
        ({**good, "token_ids": good["token_ids"] * 0 + 128}, "vocabulary.*Received: token_ids from 128 to 128"),
        (make_ids(2, 20, [3, 17]), r"at most 16 tokens.*too_long='windows'.*Received: token_ids\[1\] with 17 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            loaded(bad)
    expected = LiteRTIdsModel(fixed)(good)
    assert np.array_equal(loaded(good), expected)
    good["padding_mask"][0, 5:] = 0
    expected = loaded(good)
    good["token_ids"][0, 5:] = -1  # Padding may hold anything.
    assert np.array_equal(loaded(good), expected)


@pytest.mark.parametrize("kind", [LiteRTIdsModel, LiteRTModel])
def test_bad_arguments(fixed, tmp_path, kind):
    for arguments, message in (
        ({"num_threads": 0}, "`num_threads`"),
        ({"too_long": "cut"}, "`too_long` must be 'error' or 'windows'. Received: too_long='cut'"),
        ({"runtime": "gpu"}, "`runtime` must be 'interpreter' or 'compiled'. Received: runtime='gpu'"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(fixed, **arguments)
    (tmp_path / "other").write_bytes(b"no model at all")
    for runtime in RUNTIMES:
        for path in (tmp_path / "other", tmp_path / "missing"):
            with pytest.raises(ValueError, match=r"`path` must be a \.tflite file"):
                kind(path, runtime=runtime)


def run_alone(python, prelude, folder, path, inputs):
    sent = json.dumps({name: value.tolist() for name, value in inputs.items()})
    shutil.copy(litert_ids.__file__, folder)
    command = [python, "-I", "-c", prelude + FROM_THREADS + ALONE, folder, path, sent]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    wrong, outputs = json.loads(done.stdout.splitlines()[-1])
    assert wrong == [0, 0], "of 240 answers each, in 4 threads"
    return [np.array(output, np.float32) for output in outputs]


def test_the_file_imports_nothing_else_and_threads_share_a_model(model, free, tmp_path):
    inputs = make_ids(3, 40, [40, 16, 2])
    for result in run_alone(sys.executable, BLOCK, tmp_path, free, inputs):
        check(result, model(inputs), inputs)


@pytest.mark.slow
def test_the_file_runs_where_numpy_and_litert_alone_are_installed(tmp_path):
    classifier = make_classifier()
    export_tflite(classifier, tmp_path / "model.tflite", (16, None), measure=False)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    wanted = [f"{name}=={version(name)}" for name in ("numpy", "ai-edge-litert")]
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "(from versions: none)" in done.stderr:
        pytest.skip("pip cannot reach a package index, so numpy and ai-edge-litert cannot be installed by themselves")
    assert done.returncode == 0, done.stderr[-2000:]
    absent = "import importlib.util as u\nassert not any(map(u.find_spec, ['tensorflow', 'keras', 'krpe_tf', 'jax']))\n"
    inputs = make_ids(3, 40, [40, 16, 2])
    (tmp_path / "app").mkdir()
    for result in run_alone(python, absent, tmp_path / "app", tmp_path / "model.tflite", inputs):
        check(result, classifier(inputs), inputs)


def test_an_older_litert_is_refused_by_name(fixed, monkeypatch):
    from ai_edge_litert import compiled_model

    monkeypatch.delattr(compiled_model, "Options")
    with pytest.raises(ValueError, match=r"from ai-edge-litert 2\.2 on .*Received: runtime='compiled'"):
        LiteRTIdsModel(fixed, runtime="compiled")
    assert LiteRTIdsModel(fixed).lengths == [16]
