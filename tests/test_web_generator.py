"""The page of a model that writes, in Debian's chromium: ids, draws and texts as in Python."""

import json
import shutil

import keras
import numpy as np
import pytest
from browser import CHROMIUM, need, opened
from export_models import make_encoder
from odd_strings import odd_strings

from krpe_tf.cli import main
from krpe_tf.export import LiteRTGenerator, export_generator, generator_files
from krpe_tf.models import CausalLM
from krpe_tf.runs import save_run
from krpe_tf.tasks import CAUSAL_LM
from krpe_tf.text import ByteTokenizer, PieceTokenizer, train_pieces

STRINGS = odd_strings(1000)
PROMPTS = ["", "A", "Hé 😀 ", "The law of the people was made. " * 5]
# Writes on, and returns the ids and what the last part says.
WRITE = """async ([prompt, noise, options]) => {
    const parts = [];
    const uniform = (position) => noise[position];
    for await (const part of generator.write(prompt, { ...options, uniform })) parts.push(part);
    const text = parts.map((part) => part.text).join("");
    const { promptTokens, tokens } = parts.pop();
    return { ids: parts.map(({ id }) => id), text, promptTokens, tokens };
}"""


def make_model():
    """Untrained, with weights large enough that texts are no single letter."""
    model = CausalLM(make_encoder(vocabulary_size=259, causal=True))
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            weight.assign(weight + 0.3 * keras.random.normal(weight.shape, seed=len(weight.path)))
    return model


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    need(CHROMIUM, "chromium")
    need(shutil.which("npm"), "npm, which brings LiteRT.js")
    folder = tmp_path_factory.mktemp("generator")
    run, model = folder / "run", make_model()
    run.mkdir()
    save_run(run, model, ByteTokenizer(), None, 64, {}, task=CAUSAL_LM)
    export_generator(model, run / "model.tflite", prefill=(16, 64), tokenizer=ByteTokenizer(), measure=False)
    assert main(["web", str(run), str(folder / "page")]) == 0
    with opened(folder / "page") as page:
        page.content, page.generator = (run / "model.tflite").read_bytes(), LiteRTGenerator(run / "model.tflite")
        yield page


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_texts_are_those_of_python(page, prompt):
    ids = ByteTokenizer().encode([prompt])[0][:-1]
    result = page.evaluate(WRITE, [prompt, [], {"maxTokens": 60}])
    expected = list(page.generator.stream(ids, 60, stop_token_ids=[2]))
    assert len(set(expected)) >= 2
    assert result["ids"] == expected
    assert result["text"] == ByteTokenizer().decode(expected)
    assert (result["promptTokens"], result["tokens"]) == (len(ids), len(expected))


@pytest.mark.parametrize(
    ("sampler", "arguments", "options"),
    [
        ("random", {"temperature": 0.8}, {"temperature": 0.8}),
        ("top_p", {"temperature": 1.3, "top_p": 0.7}, {"temperature": 1.3, "topP": 0.7}),
        ("top_k", {"temperature": 1.1, "top_k": 5}, {"temperature": 1.1, "topK": 5}),
        ("top_p", {"top_p": 0.9, "top_k": 20}, {"temperature": 1, "topP": 0.9, "topK": 20}),
    ],
)
def test_the_same_uniforms_give_the_same_text(page, sampler, arguments, options):
    prompt = PROMPTS[2]
    ids = ByteTokenizer().encode([prompt])[0][:-1]
    noise = np.random.default_rng(7).random(len(ids) + 80, "float32").tolist()
    result = page.evaluate(WRITE, [prompt, noise, {"maxTokens": 80, **options}])
    assert result["ids"] == list(page.generator.stream(ids, 80, sampler, **arguments, stop_token_ids=[2], seed=7))
    assert len(set(result["ids"])) > 5


def drawn(logits, uniform, temperature=1, topK=None, topP=None):
    """The rule of the samplers, in float64."""
    order = np.argsort(-logits, kind="stable")
    mass = np.exp((logits[order].astype("float64") - logits.max()) / temperature)
    kept = mass[: mass.size if topK is None else topK]
    if topP is not None:
        kept = kept[np.cumsum(kept) - kept < topP * mass.sum()]
    return int(order[np.searchsorted(np.cumsum(kept), uniform * kept.sum(), side="right")])


def test_draws_follow_the_rule(page):
    """Far more tokens than a sort of all would be quick for, equal ones among them."""
    random = np.random.default_rng(0)
    logits = np.round(random.normal(0, 3, (12, 5000)), 1).astype("float32")
    uniforms = random.random(12, "float32").tolist()
    cases = [
        {},
        {"topP": 0.5},
        {"topP": 0.95, "temperature": 0.3},
        {"topP": 1},
        {"topK": 1},
        {"topK": 70, "temperature": 2},
        {"topK": 70, "topP": 0.2},
    ]
    found = page.evaluate(
        """async ([rows, uniforms, cases]) => {
            const { draw } = await import("./sampling.mjs");
            rows = rows.map((row) => Float32Array.from(row));
            return cases.map((options) => rows.map((row, place) => draw(row, uniforms[place], options)));
        }""",
        [logits.tolist(), uniforms, cases],
    )
    for options, ids in zip(cases, found, strict=True):
        assert ids == [drawn(row, uniform, **options) for row, uniform in zip(logits, uniforms, strict=True)], options


def ids_and_texts(page, files, texts):
    """What the page's tokenizer makes of texts, and what it decodes that to, one id after another."""
    return page.evaluate(
        """async ([pieces, texts]) => {
            const { ByteTokenizer, PieceTokenizer } = await import("./reversible.mjs");
            const tokenizer = pieces ? new PieceTokenizer(pieces) : new ByteTokenizer();
            return texts.map((text) => {
                const ids = tokenizer.encode(text), decoder = tokenizer.decoder();
                return [ids, ids.map((id) => decoder.push(id)).join("") + decoder.finish()];
            });
        }""",
        [json.loads(files["model.pieces.json"]) if "model.pieces.json" in files else None, texts],
    )


@pytest.mark.parametrize("tokens", [None, 400, 3000])
def test_ids_of_a_thousand_random_strings(page, tokens):
    learned = [text for text in STRINGS if any(character.isalpha() for character in text)]
    tokenizer = ByteTokenizer() if tokens is None else PieceTokenizer(train_pieces(learned[:500], tokens))
    random = np.random.default_rng(1)
    # Few letters: many ways to split them are equal.
    alike = ["".join(random.choice([*"abc ab the"], 200)) for _ in range(200)]
    texts = [*STRINGS, *alike, "a\u2581b \u2581", "  a  \n\n\t"]
    found = ids_and_texts(page, generator_files(page.content, tokenizer), texts)
    expected = [row[:-1].tolist() for row in tokenizer.encode(texts)]
    wrong = [each for each in zip(texts, found, expected, strict=True) if each[1] != [each[2], each[0]]]
    assert not wrong, (len(wrong), wrong[0])


def test_broken_bytes_read_as_in_python(page):
    tokenizer, random = ByteTokenizer(), np.random.default_rng(0)
    rows = [random.choice([0, 1, 2, 68, 198, 199, 227, 243, 131, 150, 162, 258], 30).tolist() for _ in range(200)]
    found = page.evaluate(
        """rows => rows.map((ids) => {
            const decoder = generator.tokenizer.decoder();
            return ids.map((id) => decoder.push(id)).join("") + decoder.finish();
        })""",
        rows,
    )
    assert found == [tokenizer.decode(row) for row in rows]


def test_what_a_reader_sees(page):
    page.fill("#prompt", "Once upon")
    page.fill("#tokens", "40")
    page.locator("#temperature").fill("0")
    page.keyboard.press("Control+Enter")
    page.get_by_text("prompt of 10").wait_for()
    page.wait_for_selector("#text[aria-busy=false]")
    whole = page.locator("#text").inner_text()
    expected = page.evaluate(WRITE, ["Once upon", [], {"maxTokens": 40}])["text"]
    assert whole.startswith("Once upon")
    assert page.locator("#written").evaluate("each => each.textContent") == expected
    page.fill("#tokens", "100000")
    page.get_by_role("button", name="Write").click()
    page.get_by_role("button", name="Stop").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Write").wait_for()
    assert {url for url in page.seen if not url.startswith((page.address, "data:"))} == set()


def test_one_text_at_a_time_and_every_tensor_given_back(page):
    found = page.evaluate(
        """async () => {
            const { Tensor } = await import("@litertjs/core");
            const remove = Tensor.prototype.delete;
            let deleted = 0;
            let refused;
            Tensor.prototype.delete = function () { deleted++; return remove.call(this); };
            for await (const part of generator.write("a".repeat(40))) {
                refused = await generator.write("b").next().catch((error) => error.message);
                break;
            }
            Tensor.prototype.delete = remove;
            return [deleted, refused];
        }"""
    )
    states = len(page.generator.state_names)  # Into a prefill, out of it, into a step, and out of that.
    assert found == [(states + 2) + (states + 2 + 1) + states, "The model is writing already."]
