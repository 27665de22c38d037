"""Texts to their translations, and how good these are."""

from collections.abc import Sequence

import numpy as np

from ..models import EncoderDecoder
from ..text import ReversibleTokenizer, is_visible

# Rows that are translated at a time, and the most tokens of the sources of the first group; of the next twice as many:
# the loop is compiled for each group.
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
        model: The model to decode with.
        tokenizer: Its tokenizer.
        texts: Sources. One that shows nothing has an empty translation.
        sampler: See `EncoderDecoder.generate`.
        max_tokens: The most tokens of a translation, its end among them; None for 16 more than twice the tokens of its
            source, rounded up to a doubling of 16.
        seed: See `EncoderDecoder.generate`.

    Returns:
        A translation for each text.

    Raises:
        ValueError: As `EncoderDecoder.generate`; for a text of more tokens than the model reads.
    """
    shown = [place for place, text in enumerate(texts) if is_visible(text)]
    ids = dict(zip(shown, tokenizer.encode([texts[place] for place in shown]) if shown else [], strict=True))
    longest, groups = model.longest_source, {}
    for place in shown:
        if longest is not None and len(ids[place]) > longest:
            raise ValueError(
                f"`texts` must have at most {longest} tokens each, which is all that the model reads. "
                f"Received: texts[{place}] of {len(ids[place])} tokens"
            )
        groups.setdefault(SHORTEST << ((len(ids[place]) - 1) // SHORTEST).bit_length(), []).append(place)
    found = [""] * len(texts)

    def most(length: int) -> int:
        return min(16 + 2 * length, model.absolute_positions or 16 + 2 * length)

    for length, places in sorted(groups.items()):
        size = min(ROWS, len(places))
        for start in range(0, len(places), size):
            mine = places[start : start + size]
            rows = [ids[place] for place in [*mine, *mine[-1:] * (size - len(mine))]]  # One number of rows.
            lengths = np.array([len(row) for row in rows])
            mask = np.arange(lengths.max()) < lengths[:, np.newaxis]
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
        ValueError: Without the package sacrebleu, or for a tokenization that sacrebleu does not have, or not
            without another package.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise ValueError(
            'scores of translations need the extra `translation`: pip install ".[translation]". Received: no sacrebleu'
        ) from error
    if tokenize not in BLEU.TOKENIZERS:
        raise ValueError(f"`tokenize` must be one of {', '.join(BLEU.TOKENIZERS)}. Received: tokenize={tokenize!r}")
    try:
        metrics = {"bleu": BLEU(tokenize=tokenize), "chrf": CHRF()}
    except (ImportError, RuntimeError) as error:
        extra = f'"sacrebleu[{tokenize[:2]}]"' if tokenize.endswith("-mecab") else "sentencepiece"
        raise ValueError(f"`tokenize` needs another package: pip install {extra}. Received: {tokenize=!r}") from error
    scores = {name: metric.corpus_score(translations, [references]).score for name, metric in metrics.items()}
    return {name: (scores[name], str(metric.get_signature())) for name, metric in metrics.items()}
