"""Import paths of 0.1 that keep working, with a `DeprecationWarning` that names the new place."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings

# A module of 0.1 -> the modules that hold its names now, below krpe_tf. Where a package offers a name itself, the
# warning names the package. A module that still exists is here if some of its names are elsewhere.
MOVED = {
    "attention": ("attention.projections",),
    "batches": ("data.batches", "data.text_batches"),
    "checkpoints": ("training.checkpoints",),
    "data": ("data.readers",),
    "demo": ("demo.settings", "demo.messages", "demo.baselines", "demo.timing"),
    "demo_report": ("demo.report",),
    "distribution": ("training.distribution",),
    "export.litert": ("export.checks",),
    "export.measuring": ("export.delegates",),
    "export.parity": ("export.samples", "export.compare", "export.process"),
    "export.signatures": ("export.checks", "export.layers", "export.trace"),
    "global_batch": ("training.losses", "training.optimizer", "training.replicas"),
    "length_buckets": ("data.buckets",),
    "masking": ("data.masking", "data.windows"),
    "models.encoder": ("models.blocks",),
    "prepared": ("data.corpus", "data.splits"),
    "resumable": ("training.fit", "training.checkpoint_callback"),
    "run_state": ("runs.state", "runs.train"),
    "schedules": ("training.optimizer",),
    "sentencepiece_tokenizer": ("text.sentencepiece", "text.load"),
    "settings": ("runs.settings",),
    "shards": ("data.prepare", "data.encoding"),
    "text": ("data.text_batches",),
    "toeplitz": ("toeplitz.dispatch",),
    "toeplitz.banded": ("toeplitz.cost_model",),
}

# Names of 0.1 that are called otherwise now.
RENAMED = {"toeplitz.wide": "at_least_float32"}

# What to use instead -> names of 0.1 that have no successor.
REMOVED = {
    "Use `krpe_tf.runs.train_run`, which trains every phase and resumes.": (
        *("phases.pretrain", "phases.fine_tune", "phases.masked_lm_model", "phases.classifier_model"),
        *("phases.fit_masked_lm", "phases.fit_classifier"),
    ),
    "Use `krpe_tf.runs.train_run`, which reads a file, a folder or what `prepare` wrote.": (
        *("run_data.RunData", "run_data.PhaseData", "run_data.labelled_run_data", "run_data.prepared_run_data"),
        *("run_data.masked_lm_data", "run_data.classification_data", "run_data.prepared_identity"),
    ),
    "Use `krpe_tf.data.windows` and `krpe_tf.data.buckets`, which read any corpus.": (
        *("lanes.Lane", "lanes.Pool", "lanes.BLOCK_TOKENS", "batches.labelled_epochs"),
        *("length_buckets.cut_documents", "length_buckets.cut_report", "length_buckets.padded_batch"),
    ),
    "Use `krpe_tf.demo.run_demo`.": (
        *("demo.label_agreement", "demo.majority_accuracy", "demo.tfidf_accuracy", "demo_report.PLOTS"),
    ),
    "Use `krpe_tf.data.masking`.": ("masking.check_masking",),
    "`krpe_tf.data.prepare` writes flat arrays, not shards.": ("shards.SHARD_BYTES", "shards.MOST_SHARDS"),
    "Use `krpe_tf.tasks.TASKS`: a task names the setting of its optimizer.": ("run_state.OPTIMIZERS",),
    "Use `krpe_tf.models.interface_of`, which says what a model takes and gives.": (
        *("export.parity.make_samples", "export.parity.check_arguments", "export.signatures.INPUTS"),
    ),
    "Use `krpe_tf.models.Head`, which checks its encoder.": ("models.encoder.check_encoder",),
    "Use `krpe_tf.export.inspection.keep_signatures`, which takes a list of them.": (
        "export.inspection.keep_one_signature",
    ),
    "Use `krpe_tf.toeplitz.override`.": (
        *("toeplitz.forced_route", "toeplitz.replaced_biases", "toeplitz.fft.forward_transforms"),
    ),
}

_INSTEAD = {name: instead for instead, names in REMOVED.items() for name in names}
_MODULES = {*MOVED, *(name.rpartition(".")[0] for name in _INSTEAD)}


def lookup(module: str):
    """Return the `__getattr__` of a module of 0.1: it finds the module's names where they are now.

    Args:
        module: The full name of the module, `__name__`.

    Returns:
        A function of a name that returns what the name stands for and issues a `DeprecationWarning`. It raises an
        `ImportError` where the name was removed, an `AttributeError` where the module never had it.
    """
    old = module.removeprefix("krpe_tf.")

    def find(name):
        if not name.startswith("_"):
            new = RENAMED.get(f"{old}.{name}", name)
            for place in _places(old):
                found = importlib.import_module(place)
                if new in vars(found):
                    message = f"{module}.{name} has moved: use {place}.{new}."
                    warnings.warn(message, DeprecationWarning, stacklevel=2)
                    return vars(found)[new]
            if f"{old}.{name}" in _INSTEAD:
                instead = _INSTEAD[f"{old}.{name}"]
                raise ImportError(f"{module}.{name} was removed in krpe_tf 0.2. {instead}", name=module)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find


def _places(old):
    """Yield the modules to search: packages before what is inside them, never the module that asks."""
    inner = MOVED.get(old, ())
    packages = dict.fromkeys(place.rpartition(".")[0] for place in inner)
    yield from (f"krpe_tf.{place}" for place in (*packages, *inner) if place not in ("", old))


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the modules of the tables their `lookup`, and makes those that are gone."""

    def find_spec(self, name, path=None, target=None):
        package, _, old = name.partition(".")
        if package != "krpe_tf" or old not in _MODULES:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if found is None:
            return importlib.machinery.ModuleSpec(name, self)
        execute = found.loader.exec_module

        def exec_module(module):
            execute(module)
            self.exec_module(module)

        found.loader.exec_module = exec_module
        return found

    def exec_module(self, module):
        module.__getattr__ = lookup(module.__name__)


def install():
    """Make the import paths of 0.1 work, in modules that are imported already and in those to come."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    for old in _MODULES:
        if f"krpe_tf.{old}" in sys.modules:
            finder.exec_module(sys.modules[f"krpe_tf.{old}"])
