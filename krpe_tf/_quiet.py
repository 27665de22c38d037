"""What libraries say when they start, kept from the command line."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Keep what TensorFlow's C++ says while it is imported from the terminal, if this is the command line.

    `python -m krpe_tf` and `krpe-tf` import the package before their own code runs. From 2.21 on TensorFlow heeds
    TF_CPP_MIN_LOG_LEVEL no more at its start. A Python error still shows: it is raised when standard error is back.
    """
    if os.path.basename((sys.argv or [""])[0]) not in ("-m", "krpe-tf") or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    try:
        error = os.dup(2)
    except OSError:  # It is closed.
        yield
        return
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(error, 2)
        os.close(error)
