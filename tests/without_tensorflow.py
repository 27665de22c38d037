"""The command line where importing TensorFlow fails: `python without_tensorflow.py train ...`."""

import sys

sys.modules["tensorflow"] = sys.modules["tensorflow_text"] = None

from krpe_tf.cli import main  # noqa: E402 - imports what TensorFlow must not be needed for.

if __name__ == "__main__":
    sys.exit(main())
