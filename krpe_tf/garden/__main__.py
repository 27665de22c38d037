"""Model Garden's training driver, with our experiment registered."""

from absl import app
from official.common import flags
from official.nlp import train

from . import pretraining  # noqa: F401  Registers the experiment.

if __name__ == "__main__":
    flags.define_flags()
    app.run(train.main)
