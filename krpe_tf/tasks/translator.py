"""Texts to their translations, and how good these are."""

from collections.abc import Sequence

import numpy as np

from ..models import EncoderDecoder
from ..text import ReversibleTokenizer, is_visible

# Rows that are translated at a time, and the shortest length that sources are padded to: doublings of it make few
# shapes, for each of which the loop is compiled.
ROWS, SHORTEST = 32, 16


def translate(
    model: EncoderDecoder,
    tokenizer: ReversibleTokenizer,
    texts: Sequence[str],
    sampler="beam",
    max_tokens: int | None = None,
    seed: int | None = None,
) -> list[str]:
    """Translate texts, those of about one length together.

    Args:
        model: Decodes.
        tokenizer: Makes its ids, and texts of them.
        texts: Sources. One that shows nothing has an empty translation.
        sampler: See `EncoderDecoder.generate`.
        max_tokens: The most tokens of a translation, its end among them; None for 16 more than twice the tokens of its
            source, rounded up to a doubling of 16.
        seed: See `EncoderDecoder.generate`.

    Returns:
        A translation for each text.
    """
    shown = [place for place, text in enumerate(texts) if is_visible(text)]
    ids = dict(zip(shown, tokenizer.encode([texts[place] for place in shown]) if shown else [], strict=True))
    groups = {}
    for place in shown:
        groups.setdefault(SHORTEST << ((len(ids[place]) - 1) // SHORTEST).bit_length(), []).append(place)
    found = [""] * len(texts)

    def most(length: int) -> int:
        return min(16 + 2 * length, model.absolute_positions or 16 + 2 * length)

    for length, places in sorted(groups.items()):
        size = min(ROWS, len(places))
        for start in range(0, len(places), size):
            mine = places[start : start + size]
            rows = [ids[place] for place in [*mine, *mine[-1:] * (size - len(mine))]]  # One number of rows.
            mask = np.arange(length) < np.array([len(row) for row in rows])[:, np.newaxis]
            sources = np.full(mask.shape, tokenizer.pad_id, "int32")
            sources[mask] = np.concatenate(rows)
            targets = model.generate(
                sources,
                mask.astype("int32"),
                most(length) if max_tokens is None else max_tokens,
                sampler,
                start_token_id=tokenizer.start_id,
                stop_token_ids=[tokenizer.end_id],
                seed=seed,
                pad_id=tokenizer.pad_id,
            )
            for place, target in zip(mine, targets, strict=False):
                found[place] = tokenizer.decode(target)
    return found


def score(translations: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> dict:
    """Return BLEU and chrF of translations, by sacrebleu; needs the extra `translation`.

    Args:
        translations: What is scored.
        references: As many texts, the translations of a person.
        tokenize: How BLEU finds words, a name of sacrebleu's: "zh", "ja-mecab", ...

    Returns:
        By "bleu" and "chrf", each score and its signature.

    Raises:
        ValueError: Without the package sacrebleu, or for a tokenization that it has not.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise ValueError(
            'scores of translations need the extra `translation`: pip install ".[translation]". Received: no sacrebleu'
        ) from error
    if tokenize not in BLEU.TOKENIZERS:
        raise ValueError(f"`tokenize` must be one of {', '.join(BLEU.TOKENIZERS)}. Received: tokenize={tokenize!r}")
    metrics = {"bleu": BLEU(tokenize=tokenize), "chrf": CHRF()}
    scores = {name: metric.corpus_score(translations, [references]).score for name, metric in metrics.items()}
    return {name: (scores[name], str(metric.get_signature())) for name, metric in metrics.items()}
