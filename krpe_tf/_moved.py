"""Import paths of 0.1 that keep working, with a `DeprecationWarning` that names the new place."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings

# A module of 0.1 -> the modules that hold its names now, below krpe_tf. Where a package offers a name itself, the
# warning names the package.
MOVED = {
    "batches": ("data.batches", "data.buckets"),
    "checkpoints": ("training.checkpoints",),
    "data": ("data.sources", "data.splits"),
    "demo": ("demo.demo", "demo.messages", "demo.baselines"),
    "demo_report": ("demo.report",),
    "distribution": ("training.distribution",),
    "global_batch": ("training.losses", "training.optimizer", "training.replicas"),
    "lanes": ("data.lanes",),
    "length_buckets": ("data.buckets",),
    "masking": ("data.masking",),
    "phases": ("runs.phases",),
    "prepared": ("data.corpus",),
    "resumable": ("training.fit",),
    "run_data": ("runs.run_data",),
    "run_state": ("runs.state",),
    "schedules": ("training.optimizer",),
    "sentencepiece_tokenizer": ("text.sentencepiece", "text.load"),
    "settings": ("runs.settings",),
    "shards": ("data.prepare", "data.corpus"),
    "text": ("data.batches",),
    "toeplitz": ("toeplitz.dispatch", "toeplitz.overrides"),
}

# A module of 0.1 some of whose names have no successor -> what to use instead.
REMOVED = {
    "phases": "Use `krpe_tf.runs.train_run`, which trains every phase and can be resumed.",
    "run_data": "Use `krpe_tf.runs.train_run`, which reads a file, a folder or what `prepare` wrote.",
}


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
            for place in _places(old):
                found = importlib.import_module(place)
                if name in vars(found):
                    message = f"{module}.{name} has moved: import it from {place}."
                    warnings.warn(message, DeprecationWarning, stacklevel=2)
                    return vars(found)[name]
            if old in REMOVED:
                raise ImportError(f"{module}.{name} was removed in krpe_tf 0.2. {REMOVED[old]}", name=module)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find


def _places(old):
    """Yield the modules to search: packages before what is inside them, never the module that asks."""
    inner = MOVED.get(old, ())
    packages = dict.fromkeys(place.rpartition(".")[0] for place in inner)
    yield from (f"krpe_tf.{place}" for place in (*packages, *inner) if place and place != old)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes the modules that are gone. It is the last finder: a module that exists is never replaced."""

    def find_spec(self, name, path=None, target=None):
        package, _, old = name.partition(".")
        if package == "krpe_tf" and old in MOVED:
            return importlib.machinery.ModuleSpec(name, self)
        return None

    def create_module(self, spec):
        return types.ModuleType(spec.name, f"Moved: {', '.join(_places(spec.name.removeprefix('krpe_tf.')))}.")

    def exec_module(self, module):
        module.__getattr__ = lookup(module.__name__)


def install():
    """Make the modules of 0.1 importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
