"""The page of a model that translates, in Debian's chromium: the ids and texts of Python's greedy translation."""

import shutil

import pytest
from browser import CHROMIUM, need, opened
from test_translator import make

from krpe_tf.cli import main
from krpe_tf.export import LiteRTTranslator, export_translator
from krpe_tf.runs import save_run
from krpe_tf.tasks import TRANSLATION
from krpe_tf.text import ByteTokenizer

SOURCES = ["A", "Hé 😀 ", "The law of the people. " * 2]
# Translates, and returns the ids and what the last part says.
TRANSLATE = """async ([source, options]) => {
    const parts = [];
    for await (const part of translator.translate(source, options)) parts.push(part);
    const text = parts.map((part) => part.text).join("");
    const { sourceTokens, tokens } = parts.pop();
    return { ids: parts.map(({ id }) => id), text, sourceTokens, tokens };
}"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    need(CHROMIUM, "chromium")
    need(shutil.which("npm"), "npm, which brings LiteRT.js")
    folder, model, tokenizer = tmp_path_factory.mktemp("translator"), make(259), ByteTokenizer()
    run = folder / "run"
    run.mkdir()
    save_run(run, model, tokenizer, None, 64, {}, task=TRANSLATION)
    export_translator(model, run / "model.tflite", (16, 64), tokenizer=tokenizer, measure=False)
    assert main(["web", str(run), str(folder / "page")]) == 0
    with opened(folder / "page") as page:
        page.translator = LiteRTTranslator(run / "model.tflite")
        yield page


@pytest.mark.parametrize("source", SOURCES)
def test_greedy_translations_are_those_of_python(page, source):
    ids = ByteTokenizer().encode([source])[0]
    result = page.evaluate(TRANSLATE, [source, {"maxTokens": 60}])
    options = {"sampler": "greedy", "start_token_id": 1, "stop_token_ids": [2]}
    expected = page.translator.translate_ids(ids, max_tokens=60, **options)
    assert len(set(expected)) >= 2
    assert result["ids"] == expected
    assert result["text"] == ByteTokenizer().decode(expected)
    assert (result["sourceTokens"], result["tokens"]) == (len(ids), len(expected))
    longest = page.evaluate(TRANSLATE, [source, {}])["ids"]
    assert longest == page.translator.translate_ids(ids, **options)


def test_what_a_reader_sees(page):
    page.fill("#source", "Once upon")
    page.keyboard.press("Control+Enter")
    page.get_by_text("text of 11").wait_for()
    expected = page.evaluate(TRANSLATE, ["Once upon", {}])["text"]
    assert page.locator("#written").evaluate("each => each.textContent") == expected
    page.fill("#source", "law " * 16)
    page.get_by_role("button", name="Translate").click()
    page.get_by_role("alert").filter(has_text="The text has 66 tokens, and this model reads 64 at most.").wait_for()
    page.fill("#source", " ")
    page.get_by_role("button", name="Translate").click()
    page.get_by_role("alert").filter(has_text="The text is empty").wait_for()
    assert {url for url in page.seen if not url.startswith((page.address, "data:"))} == set()


def test_every_tensor_is_given_back(page):
    """And one text at a time: the second is refused."""
    found = page.evaluate(
        """async () => {
            const { Tensor } = await import("@litertjs/core");
            const remove = Tensor.prototype.delete;
            let deleted = 0;
            let refused;
            Tensor.prototype.delete = function () { deleted++; return remove.call(this); };
            for await (const part of translator.translate("a")) {
                refused = await translator.translate("b").next().catch((error) => error.message);
                break;
            }
            Tensor.prototype.delete = remove;
            return [deleted, refused];
        }"""
    )
    # Two layers with three arrays of state, in and out, and one of the source each; ids and mask; a token; logits.
    assert found == [2 * 6 + 2 + 2 + 1 + 1, "The model is translating already."]
