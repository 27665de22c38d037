"""A run as a web page, in Debian's chromium: numbers and ids as in Python, and the page as a reader has it."""

import json
import re
import shutil
import urllib.request
from http.server import ThreadingHTTPServer

import keras
import numpy as np
import pytest
from browser import CHROMIUM, need, opened
from export_models import make_encoder
from odd_strings import odd_strings
from sentencepiece_models import train_sentencepiece

from krpe_tf.cli import main
from krpe_tf.export import LiteRTIdsModel, export_tflite, litertjs_files, web_model
from krpe_tf.export.inspection import inspect, keep_signatures
from krpe_tf.models import TextClassifier
from krpe_tf.runs import save_run, web_run
from krpe_tf.text import SentencePieceTokenizer, WordPieceTokenizer, is_visible, normalizer_table, train_wordpiece

LABELS = ["sea", "hill", "<b>neither</b>"]
LENGTHS = (16, 64)
STRINGS = odd_strings(1000)
VISIBLE = [text for text in STRINGS if is_visible(text)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of text classification with the files that `web` reads, untrained."""
    tokenizer = WordPieceTokenizer(train_wordpiece(VISIBLE, 8000))
    keras.utils.set_random_seed(0)
    model = TextClassifier(make_encoder(vocabulary_size=tokenizer.vocabulary_size), len(LABELS))
    folder = tmp_path_factory.mktemp("web") / "run"
    folder.mkdir()
    save_run(folder, model, tokenizer, LABELS, 64, {})
    export_tflite(model, folder / "model.tflite", LENGTHS, tokenizer=tokenizer, measure=False)
    return folder


@pytest.fixture(scope="module")
def litertjs(tmp_path_factory):
    """LiteRT.js as npm brings it, fetched once."""
    need(shutil.which("npm"), "npm, which brings LiteRT.js")
    folder = tmp_path_factory.mktemp("litertjs")
    for name, content in litertjs_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def page(run, litertjs):
    need(CHROMIUM, "chromium")
    assert main(["web", str(run), str(run.parent / "page"), "--litertjs", str(litertjs)]) == 0
    with opened(run.parent / "page") as page:
        yield page


def test_ids_of_a_thousand_random_strings(page, run):
    tokenizer = WordPieceTokenizer.load(run / "tokenizer.json")
    ids = page.evaluate("texts => texts.map((text) => classifier.tokenizer.encode(text))", STRINGS)
    expected = tokenizer.tokenize(STRINGS).to_list()
    assert sum(len(row) for row in expected) > 20_000
    assert np.mean([row.count(tokenizer.unknown_id) / len(row) for row in expected]) < 0.3
    wrong = [(text, row, right) for text, row, right in zip(STRINGS, ids, expected, strict=True) if row != right]
    assert not wrong, (len(wrong), wrong[0])
    halves = page.evaluate(r"['a\ud800b', '\udc00', 'a\ud83d'].map((text) => classifier.tokenizer.encode(text))")
    assert halves == tokenizer.tokenize(["a\ufffdb", "\ufffd", "a\ufffd"]).to_list()


@pytest.mark.parametrize(
    "settings", [{"keep_marks": False, "max_word_bytes": 100}, {"lowercase": False, "max_word_bytes": 7}]
)
def test_ids_with_other_settings(page, settings):
    vocabulary = train_wordpiece(
        VISIBLE[:300], 1500, *(settings.get(name, True) for name in ("lowercase", "keep_marks"))
    )
    tokenizer = WordPieceTokenizer(vocabulary, **settings)
    table = normalizer_table(tokenizer.lowercase, tokenizer.keep_marks)
    ids = page.evaluate(
        """async ([vocabulary, table, maxWordBytes, texts]) => {
            const { WordPiece } = await import("./wordpiece.mjs");
            const tokenizer = new WordPiece(vocabulary, table, maxWordBytes);
            return texts.map((text) => tokenizer.encode(text));
        }""",
        ["".join(f"{token}\n" for token in vocabulary), table, tokenizer.max_word_bytes, STRINGS],
    )
    assert ids == tokenizer.tokenize(STRINGS).to_list()


def test_numbers_are_those_of_python(page, run):
    tokenizer, model = WordPieceTokenizer.load(run / "tokenizer.json"), LiteRTIdsModel(run / "model.tflite")
    texts = ["the law", "war " * 14, "People of the law. " * 9, "a" * 30, "é 😀 ½"]
    ids = tokenizer.encode(texts)
    assert {sum(len(each) > length for length in LENGTHS) for each in ids} == {0, 1}
    results = page.evaluate(
        """texts => Promise.all(texts.map(async (text) => {
            const result = await classifier.classify(text);
            return { ...result, logits: [...result.logits] };
        }))""",
        texts,
    )
    for row, result in zip(ids, results, strict=True):
        (expected,) = model({"token_ids": row[None], "padding_mask": np.ones_like(row[None])})
        np.testing.assert_allclose(result["logits"], expected, atol=1e-6 * np.abs(expected).max(), rtol=0)
        odds = np.exp(expected.astype("float64"))
        assert [each["label"] for each in result["answers"]] == LABELS
        np.testing.assert_allclose([each["probability"] for each in result["answers"]], odds / odds.sum(), atol=1e-6)
        assert (result["tokens"], result["signature"]) == (len(row), f"ids_{16 if len(row) <= 16 else 64}")


def test_what_a_reader_sees(page):
    page.locator("#text").focus()
    page.keyboard.type("the law of the people")
    page.wait_for_selector("#labels li")
    rows = [row.split() for row in page.locator("#labels li").all_inner_texts()]
    shown = [float(row[-2]) for row in rows]
    assert sorted(row[0] for row in rows) == sorted(LABELS)
    assert shown == sorted(shown, reverse=True)
    assert sum(shown) == pytest.approx(100, abs=0.2)
    assert page.locator("#summary").inner_text().split(",")[0] == rows[0][0]
    assert "tokens" in page.locator("#counts").inner_text()
    page.fill("#text", "law " * 63)
    page.wait_for_selector("#problem:not([hidden])")
    assert page.get_by_role("alert").inner_text() == "The text has 65 tokens, and this model takes 64 at most."
    assert page.locator("#labels li").count() == 0
    page.fill("#text", "\u200b")
    page.get_by_role("alert").filter(has_text="The text is empty").wait_for()
    page.fill("#text", "law " * 62)
    page.wait_for_selector("#labels li")
    assert page.locator("#problem").is_hidden()
    page.fill("#text", "")
    page.wait_for_selector("#labels li", state="detached")
    assert page.get_by_label("Text").count() == 1
    assert {url for url in page.seen if not url.startswith((page.address, "data:"))} == set()


def test_tensors_are_given_back(page):
    """What is not deleted stays in the heap of WebAssembly, whatever JavaScript collects."""
    deleted = page.evaluate(
        """async () => {
            const { Tensor } = await import("@litertjs/core");
            let deleted = 0;
            const remove = Tensor.prototype.delete;
            Tensor.prototype.delete = function () { deleted++; return remove.call(this); };
            for (let i = 0; i < 10; i++) await classifier.classify("law");
            await classifier.classify("law ".repeat(80)).catch(() => {});
            Tensor.prototype.delete = remove;
            return deleted;
        }"""
    )
    assert deleted == 30  # two inputs and one output each


def test_the_server_says_what_browsers_ask_for(page):
    with urllib.request.urlopen(f"{page.address}wordpiece.mjs") as response:
        assert response.headers["Content-Type"] == "text/javascript"
        assert response.headers["Cache-Control"] == "no-store"
    assert page.evaluate("crossOriginIsolated")


def test_the_file_for_the_browser_holds_ids_of_fixed_lengths_alone(run):
    content = (run / "model.tflite").read_bytes()
    smaller = web_model(content)
    before, after = inspect(content), inspect(smaller)
    assert after.signature_ops == {name: before.signature_ops[name] for name in ("ids_16", "ids_64")}
    assert not after.custom_ops
    tables = before.weight_bytes - after.weight_bytes
    assert tables > 300_000  # The tokenizer's.
    assert len(content) - len(smaller) > tables
    ids = {"token_ids": [[2, 17, 9, 3]], "padding_mask": [[1, 1, 1, 1]]}
    (run.parent / "smaller.tflite").write_bytes(smaller)
    models = [LiteRTIdsModel(path) for path in (run / "model.tflite", run.parent / "smaller.tflite")]
    np.testing.assert_array_equal(*(model(ids) for model in models))
    with pytest.raises(ValueError, match=r"export with --lengths 512 2048. Received: a file without ids"):
        web_model(keep_signatures(content, ["tokenize"]))


def test_what_has_no_page_is_refused(run, litertjs, tmp_path, capsys):
    def refusal(*arguments):
        assert main(["web", *map(str, arguments)]) == 2
        assert not (tmp_path / "page").exists()
        return capsys.readouterr().err

    page = tmp_path / "page"
    assert "must be of a task" in refusal(tmp_path, page)
    other = shutil.copytree(run, tmp_path / "other")
    (other / "task.json").write_text(json.dumps({"task": "masked_lm"}))
    pages = "text_classification, causal_lm, translation"
    assert f"`run` must be of a task that has a page: {pages}. Received: 'masked_lm'" in refusal(other, page)
    shutil.copy(run / "task.json", other)
    (other / "model.tflite").unlink()
    assert f"`run` must be exported first: python -m krpe_tf export {other}" in refusal(other, page)
    assert "`litertjs` must be a folder in which `npm install @litertjs/core@2.5.3" in refusal(
        run, page, "--litertjs", tmp_path
    )
    damaged = shutil.copytree(litertjs, tmp_path / "damaged")
    (damaged / "core" / "dist" / "index.js").write_text("//")
    assert "@litertjs/core/dist/index.js must be that of version 2.5.3" in refusal(run, page, "--litertjs", damaged)
    (other / "model.tflite").write_bytes((run / "model.tflite").read_bytes()[:1000])
    assert "`run` must hold a model.tflite that can be read" in refusal(other, page, "--litertjs", litertjs)
    page.mkdir()
    (page / "mine.txt").write_text("mine")
    assert main(["web", str(run), str(page), "--litertjs", str(litertjs)]) == 2
    assert [each.name for each in page.iterdir()] == ["mine.txt"]
    (page / "mine.txt").rename(page / "index.html")  # As a page has it, but no page.
    for taken in (page, run / "model.keras"):
        assert main(["web", str(run), str(taken), "--litertjs", str(litertjs)]) == 2
        assert "`path` must be free, an empty folder or an earlier page" in capsys.readouterr().err
    assert (page / "index.html").read_text() == "mine"


def test_sentencepiece_has_no_page_yet(run, tmp_path, litertjs):
    other = shutil.copytree(run, tmp_path / "other")
    SentencePieceTokenizer(train_sentencepiece()).save(other / "tokenizer.json")
    with pytest.raises(ValueError, match=r"must be a WordPieceTokenizer.*Received: a SentencePieceTokenizer"):
        web_run(other, tmp_path / "page", litertjs=litertjs)


def test_without_npm_or_network_the_command_says_what_to_do(run, tmp_path, monkeypatch, capsys):
    told = "run `npm install @litertjs/core@2.5.3 @litertjs/wasm-utils@2.5.3` in any folder, and give that folder"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["web", str(run), str(tmp_path / "page")]) == 2
    assert told in (printed := capsys.readouterr().err)
    assert "npm must be installed" in printed
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho npm error network is unreachable >&2\nexit 1\n")
    npm.chmod(0o755)
    assert main(["web", str(run), str(tmp_path / "page")]) == 1
    assert told in (printed := capsys.readouterr().err)
    assert "npm could not fetch LiteRT.js (network is unreachable)" in printed
    assert not (tmp_path / "page").exists()


def test_serving_ends_with_ctrl_c(run, litertjs, tmp_path, monkeypatch, capsys):
    def interrupted(server):
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", interrupted)
    command = ["web", str(run), str(tmp_path / "page"), "--litertjs", str(litertjs)]
    for _ in range(2):  # The second page replaces the first.
        assert main([*command, "--serve", "0"]) == 0
        assert re.search(r"MB, for any static server\nhttp://127\.0\.0\.1:\d+/ until Ctrl-C", capsys.readouterr().out)
    assert main([*command, "--serve", "70000"]) == 2
    assert "`port` must be one that is free" in capsys.readouterr().err
