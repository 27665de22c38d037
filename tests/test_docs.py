"""The documentation site builds without a warning, and what the pages name is there.

`python tests/test_docs.py` writes the table of settings of docs/training.md, to which the tests hold the page.
"""

import ast
import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# The pages that say what is, not what was.
CURRENT = [path for path in PAGES if path.name != "CHANGELOG.md"]
PACKAGES = ("", "text", "data", "models", "training", "tasks", "runs", "export", "position_bias", "toeplitz", "demo")


@pytest.fixture(scope="module")
def site():
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    for command in (["docs/site.py"], ["-m", "mkdocs", "build", "--strict", "--quiet"]):
        run = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stdout + run.stderr
    return ROOT / "build" / "site"


def test_every_public_name_has_its_place(site):
    for package in PACKAGES:
        module = importlib.import_module(f"krpe_tf.{package}".rstrip("."))
        page = (site / "api" / f"{package or 'krpe_tf'}.html").read_text(encoding="utf-8")
        elsewhere = importlib.import_module("krpe_tf").__all__ if package in ("position_bias", "toeplitz") else ()
        for name in module.__all__:
            if name == "samplers":  # a module among the names of its package
                places = [f'id="{module.__name__}.{name}.{each}"' for each in module.samplers.__all__]
                assert all(place in page for place in places), (package, name)
            elif name not in elsewhere and name not in ("export", "models", "training"):
                places = (f'id="{module.__name__}.{place}"' for place in (name, f"{name}.{name}"))
                assert any(place in page for place in places), (package, name)
                assert not isinstance(getattr(module, name), type(module)), (package, name)


def test_pages_are_whole(site):
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        # A list that mkdocs took for a paragraph, and a tag that should stand in backticks.
        assert not re.search(r"<p>[^<]*\n(- |\d\. )", page), path
        assert not re.search(r"</?(s|pad|unk|mask)>", page), path
        for source in re.findall(r'(?:src|href)="(https?://[^"]+)"', page):
            assert source.startswith(("https://squidfunk.github.io/", "https://arxiv.org/")), (path, source)
    assert "KernelizedRPEAttention" in (site / "search" / "search_index.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CURRENT, ids=lambda path: path.name)
def test_files_and_tests_that_a_page_names_are_there(path):
    text = path.read_text(encoding="utf-8")
    files = re.findall(r"`((?:krpe_tf|models|export|docs|tests|benchmarks|colab)/[\w./-]*)`", text)
    files = [name for name in files if name != "krpe_tf/pretraining"]  # an experiment of Model Garden's registry
    assert [name for name in files if not (ROOT / name).exists()] == []
    defined = "".join(test.read_text(encoding="utf-8") for test in (ROOT / "tests").glob("test_*.py"))
    tests = re.findall(r"`(test_\w+)`", text)
    assert [name for name in tests if f"def {name}(" not in defined] == []


@pytest.mark.parametrize("path", CURRENT, ids=lambda path: path.name)
def test_python_names_that_a_page_uses_are_importable(path):
    text = path.read_text(encoding="utf-8")
    names = set(re.findall(r"(?<![\w./`])`?(krpe_tf(?:\.\w+)+)", text))
    for module, imported in re.findall(r"^from (krpe_tf[\w.]*) import (.+)$", text, re.MULTILINE):
        names |= {f"{module}.{name.strip()}" for name in imported.split(",")}
    # Importing the garden needs a process of its own: tests/test_garden.py runs its page.
    for name in sorted(name for name in names if not name.startswith("krpe_tf.garden")):
        module, found = name, None
        while found is None:
            try:
                found = importlib.import_module(module)
            except ModuleNotFoundError:
                module = module.rpartition(".")[0]
        assert found.__spec__.origin is not None, f"{name} has moved"
        for part in name.removeprefix(module).split(".")[1:]:
            found = getattr(found, part)  # Where it has moved, its DeprecationWarning is an error.


TRAINING = ROOT / "docs" / "training.md"
SETTINGS = re.compile(r"(?<=<!-- settings: begin -->\n).*?(?=<!-- settings: end -->)", re.DOTALL)


def settings_table():
    from krpe_tf.runs import RunSettings

    lines = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for field in dataclasses.fields(RunSettings):
        default = "none" if field.default is dataclasses.MISSING else f"`{field.default}`"
        lines.append(f"| `{field.name}` | {default} | {field.metadata['help']} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_settings_is_made_of_the_settings():
    assert SETTINGS.findall(TRAINING.read_text(encoding="utf-8")) == [settings_table()]


def functions():
    """Every function of the package, with the docstring that describes its arguments: for __init__ the class's."""
    for folder in ("krpe_tf", "models", "export"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    for method in node.body:
                        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                            yield f"{path.name}:{node.name}", method, ast.get_docstring(node)
                if isinstance(node, ast.FunctionDef) and node.name != "__init__":
                    yield f"{path.name}:{node.name}", node, ast.get_docstring(node)


def test_arguments_that_a_docstring_describes_are_those_of_the_function():
    described = 0
    for name, function, docstring in functions():
        section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", docstring or "", re.MULTILINE)
        if section is None:
            continue
        arguments = function.args
        known = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        known |= {f"{stars}{a.arg}" for stars, a in (("*", arguments.vararg), ("**", arguments.kwarg)) if a}
        for entry in re.findall(r"^    ([\w*][\w*, ]*):", section.group(1), re.MULTILINE):
            for argument in entry.split(", "):
                described += 1
                assert argument in known or "**kwargs" in known, (name, argument)
    assert described > 300


if __name__ == "__main__":
    page = SETTINGS.sub(lambda match: settings_table(), TRAINING.read_text(encoding="utf-8"))
    TRAINING.write_text(page, encoding="utf-8")
