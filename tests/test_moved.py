"""Import paths of 0.1: each public name is where it was, or says where it went.

names_of_0_1.json lists them, from the sources of commit 2ce0f3f: what a module defined or re-exported, but for loggers.
krpe_tf.garden is left out, since it has not moved.
"""

import importlib
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from krpe_tf._moved import MOVED, REMOVED

NAMES = json.loads((Path(__file__).parent / "names_of_0_1.json").read_text())


INSTEAD = {f"krpe_tf.{name}": instead for instead, names in REMOVED.items() for name in names}


def import_from(module, name):
    """What `from module import name` gives, its deprecation warnings, and what its ImportError says."""
    scope = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec(f"from {module} import {name}", scope)
        except ImportError as error:
            return None, [], str(error)
    return scope[name], [str(w.message) for w in caught if w.category is DeprecationWarning], None


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in NAMES for name in NAMES[module]])
def test_a_name_of_0_1_is_found_or_says_what_to_use(module, name):
    found, warned, refused = import_from(module, name)
    if refused is not None:
        instead = INSTEAD[f"{module}.{name}"]
        assert refused == f"{module}.{name} was removed in krpe_tf 0.2. {instead}"
    for message in warned:
        place, new = re.fullmatch(rf"{re.escape(module)}\.{name} has moved: use (\S+)\.(\w+)\.", message).groups()
        assert getattr(importlib.import_module(place), new) is found


def test_the_tables_hold_no_name_that_never_was():
    assert {f"krpe_tf.{old}" for old in MOVED} <= set(NAMES)
    assert {name for name in INSTEAD if name.rpartition(".")[2] not in NAMES[name.rpartition(".")[0]]} == set()


USES = """\
import krpe_tf.shards
from krpe_tf.batches import (
    masked_lm_batches,
)
from krpe_tf.text import masked_lm_dataset

prepare = krpe_tf.shards.prepare
assert not hasattr(krpe_tf.shards, "__path__")
"""


def test_a_warning_points_at_the_line_that_imports(tmp_path):
    script = tmp_path / "old.py"
    script.write_text(USES)
    run = subprocess.run([sys.executable, "-W", "default", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    moved = re.findall(
        rf"{re.escape(str(script))}:(\d+): DeprecationWarning: (\S+) has moved: use (\S+)\.\n", run.stderr
    )
    assert moved == [
        ("2", "krpe_tf.batches.masked_lm_batches", "krpe_tf.data.masked_lm_batches"),
        ("5", "krpe_tf.text.masked_lm_dataset", "krpe_tf.data.masked_lm_dataset"),
        ("7", "krpe_tf.shards.prepare", "krpe_tf.data.prepare"),
    ]
    assert run.stderr.count("DeprecationWarning") == len(moved)


def test_a_name_that_never_was_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'krpe_tf\.masking' has no attribute 'nonsense'"):
        importlib.import_module("krpe_tf.masking").nonsense  # noqa: B018
    with pytest.raises(ImportError, match=r"cannot import name 'nonsense' from 'krpe_tf\.text'"):
        exec("from krpe_tf.text import nonsense")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'krpe_tf\.nonsense'"):
        importlib.import_module("krpe_tf.nonsense")
