"""Lay out the pages of the site under build/docs, for mkdocs to build: `make docs` runs both.

The pages are those of docs/, the README, CONTRIBUTING and CHANGELOG, and one for each package. Links between files of
the repository become links between pages.
"""

import ast
import posixpath
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "docs"
PAGES = BUILD / "pages"
# The package as it is installed, models/ and export/ included, for mkdocstrings to read.
SOURCES = BUILD / "sources" / "krpe_tf"
NAMES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
CODE_OR_LINK = re.compile(r"^```.*?^```|(?P<start>\]\()(?P<target>[^)\s#:]+)(?P<end>(?:#[^)\s]*)?\))", re.M | re.S)
# A list right below the line that announces it, which mkdocs would make one paragraph.
LIST = re.compile(r"^( *)(\S.*:)\n\1(- |1\. )", re.MULTILINE)
DOCSTRING = re.compile(r'""".*?"""', re.DOTALL)
# Arguments that share a description: "rows, columns: How many there are."
SHARED = re.compile(r"^( +)(\w+(?:, \w+)+)(: .*\n(?:\1 .*\n)*)", re.MULTILINE)


def main():
    """Write the pages anew."""
    shutil.rmtree(BUILD, ignore_errors=True)
    copied = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "krpe_tf", SOURCES, ignore=copied)
    for name in ("models", "export"):
        shutil.copytree(ROOT / name, SOURCES / name, ignore=copied)
    for path in SOURCES.rglob("*.py"):
        path.write_text(DOCSTRING.sub(for_mkdocstrings, path.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copytree(
        ROOT / "docs", PAGES, ignore=shutil.ignore_patterns("*.md", "*.py", "*.json", "*.jsonl", "__pycache__")
    )
    for path in sorted([*(ROOT / name for name in NAMES), *(ROOT / "docs").glob("*.md")]):
        write_page(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    (PAGES / "api").mkdir()
    for package in ("", *sorted(path.parent.name for path in SOURCES.glob("*/__init__.py"))):
        if public_names(package):
            (PAGES / "api" / f"{package or 'krpe_tf'}.md").write_text(api_page(package), encoding="utf-8")


def write_page(source, text):
    """Write a Markdown file of the repository as a page, with the files that it links to."""
    page = page_of(source)

    def replace(match):
        if match["target"] is None:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["target"]))
        target = page_of(path)
        if target.startswith("source/") and (ROOT / path).is_file():
            (PAGES / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, PAGES / target)
        return match["start"] + posixpath.relpath(target, posixpath.dirname(page) or ".") + match["end"]

    front = "---\nhide: [navigation]\n---\n" if page == "index.md" else ""
    (PAGES / page).write_text(front + LIST.sub(r"\1\2\n\n\1\3", CODE_OR_LINK.sub(replace, text)), encoding="utf-8")


def for_mkdocstrings(docstring):
    """Return a docstring in which every argument has a description, and lists an empty line before them."""

    def separate(match):
        indent, names, description = match.groups()
        return "".join(f"{indent}{name}{description}" for name in names.split(", "))

    return SHARED.sub(separate, LIST.sub(r"\1\2\n\n\1\3", docstring[0]))


def page_of(path):
    """Return where a file of the repository is in the site: outside of docs/, under source/."""
    return NAMES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}")


def public_names(package, module="__init__"):
    """Return the `__all__` of a package or of a module in it, read and not imported."""
    tree = ast.parse((SOURCES / package / f"{module}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            return ast.literal_eval(node.value)
    return []


def api_page(package):
    """Return the page of a package: its docstring, then each public name that is not on the page of `krpe_tf`."""
    module = f"krpe_tf.{package}" if package else "krpe_tf"
    names = [name for name in public_names(package) if not (SOURCES / package / name).is_dir()]
    if package in ("position_bias", "toeplitz"):
        names = [name for name in names if name not in public_names("")]
    options = "{members: false, show_root_heading: false, show_root_toc_entry: false}"
    page = f"# {module}\n\n::: {module}\n    options: {options}\n"
    inner = []
    for name in names:
        # A module shows its public names. A function may have the name of its module, which hides it from mkdocstrings.
        is_module = (SOURCES / package / f"{name}.py").is_file()
        own = (public_names(package, name) or [name]) if is_module else []
        inner += [f"{name}.{each}" for each in own] or [name]
    return page + "".join(f"\n::: {module}.{name}\n" for name in inner)


if __name__ == "__main__":
    main()
