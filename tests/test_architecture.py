"""The architecture of CONTRIBUTING.md, held over the syntax tree: who may import whom, and how large things may be.

Reads the sources and imports none of them: `python -m pytest --noconftest tests/test_architecture.py` takes a second.
"""

import ast
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# setup.py maps the two folders into the package.
FOLDERS = {"krpe_tf": "krpe_tf", "models": "krpe_tf.models", "export": "krpe_tf.export"}

# A room is a package in krpe_tf or a module right in it; the face is krpe_tf/__init__.py.
BASE = {"checks", "files", "finite"}
LAYER = {"attention", "conversion"}
CORE = LAYER | {"feature_maps", "position_bias", "toeplitz"}
MODELLING = BASE | CORE | {"models"}
LIBRARY = MODELLING | {"data", "text", "training"}
PRODUCT = LIBRARY | {"export", "runs", "tasks"}
MAY_IMPORT = {
    **dict.fromkeys(BASE, BASE),
    **dict.fromkeys(CORE, BASE | CORE),
    "models": MODELLING,
    "garden": MODELLING,
    "text": BASE,
    "data": BASE | {"text"},
    "training": BASE,
    "export": LIBRARY,
    "tasks": LIBRARY,
    "runs": PRODUCT,
    "demo": PRODUCT | {"face"},
    "arguments": PRODUCT,
    "cli": PRODUCT | {"arguments", "face", "demo"},
    "face": PRODUCT | {"_moved", "_quiet"},
    "_moved": set(),
    "_quiet": set(),
    "__main__": {"cli"},
}
# Third parties that a room may import while it is imported itself; what needs others imports them where it uses them.
EVERYWHERE = {"keras", "numpy"}
THIRD_PARTIES = {"garden": {"absl", "official", "tensorflow", "tf_keras"}}

MOST_FILES_AT_THE_TOP = 14
MOST_LINES_IN_A_FILE = 400
MOST_LINES_IN_A_FUNCTION = 60
MOST_ARGUMENTS = 9
# In the line above a `def` and its decorators: why it exceeds one of the last two.
EXCUSE = "# Long: "


@dataclass(frozen=True)
class Import:
    """One name that a module imports: `name` of `module`, or the module itself where `name` is None."""

    module: str
    name: str | None
    bound: str  # what it is called in the importing module
    line: int
    at_import: bool  # executed while the importing module is imported

    def __str__(self):
        return f"line {self.line}: {self.module}" + (f".{self.name}" if self.name else "")


def module_name(path: Path) -> str:
    folder, *parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *parts]).removesuffix(".__init__")


PATHS = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)
MODULES = {module_name(path): path for path in PATHS}
PACKAGES = {module_name(path) for path in PATHS if path.name == "__init__.py"}
each_module = pytest.mark.parametrize("module", MODULES)


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def package_of(module: str) -> str:
    return module if module in PACKAGES else module.rpartition(".")[0]


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "face"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


@functools.cache
def face_of(package: str) -> set[str]:
    """The names that a package takes from its modules: they hide a module of the same name."""
    takes = [node for node in tree(package).body if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.asname or alias.name for node in takes for alias in node.names}


def read_imports(node: ast.AST, package: str, at_import: bool = True) -> Iterator[Import]:
    """All imports below a node of a module of `package`, also those in functions and for type checking."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, None, alias.asname or alias.name, node.lineno, at_import)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
        origin = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            is_module = f"{origin}.{alias.name}" in MODULES and alias.name not in face_of(origin)
            target = (f"{origin}.{alias.name}", None) if is_module else (origin, alias.name)
            yield Import(*target, alias.asname or alias.name, node.lineno, at_import)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.body:
            yield from read_imports(child, package, False)
        for child in node.orelse:
            yield from read_imports(child, package, at_import)
    else:
        at_import = at_import and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from read_imports(child, package, at_import)


@functools.cache
def imports(module: str) -> tuple[Import, ...]:
    return tuple(read_imports(tree(module), package_of(module)))


def own_imports(module: str) -> list[Import]:
    """The imports of krpe_tf itself."""
    return [each for each in imports(module) if each.module.split(".")[0] == "krpe_tf"]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Nodes of one circle, the first again at the end; an empty list where there is none."""
    done, path = set(), []

    def search(node):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        path.append(node)
        for target in sorted(graph.get(node, ())):
            if found := search(target):
                return found
        path.pop()
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := search(node))), [])


SOURCE = """
import keras
from . import files
from ..data import prepare
from ..toeplitz import dispatch as routes, toeplitz_attention
if TYPE_CHECKING:
    from .litert import export_tflite
def late():
    from .. import checks
"""


def test_imports_are_read_wherever_they_stand():
    found = [
        (each.module, each.name, each.bound, each.at_import)
        for each in read_imports(ast.parse(SOURCE), "krpe_tf.export")
    ]
    assert found == [
        ("keras", None, "keras", True),
        ("krpe_tf.export", "files", "files", True),  # export/ holds no files.py
        ("krpe_tf.data", "prepare", "prepare", True),  # the function
        ("krpe_tf.toeplitz.dispatch", None, "routes", True),
        ("krpe_tf.toeplitz", "toeplitz_attention", "toeplitz_attention", True),
        ("krpe_tf.export.litert", "export_tflite", "export_tflite", False),
        ("krpe_tf.checks", None, "checks", False),
    ]


def test_the_search_finds_a_circle():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@each_module
def test_imports_follow_the_layers(module):
    here = room(module)
    assert here in MAY_IMPORT, f"give the new room {here} its place in MAY_IMPORT, and in CONTRIBUTING.md"
    upward = [each for each in own_imports(module) if room(each.module) not in {here} | MAY_IMPORT[here]]
    assert not upward, f"{here} may import {sorted(MAY_IMPORT[here])} only: {', '.join(map(str, upward))}"


@each_module
def test_imports_from_another_package_go_to_its_face(module):
    inner = [
        each
        for each in own_imports(module)
        if package_of(each.module) not in (package_of(module), "krpe_tf") and each.module not in PACKAGES
    ]
    assert not inner, f"import these from their package: {', '.join(map(str, inner))}"


@each_module
def test_no_private_name_crosses_a_package(module):
    here, crossing = package_of(module), []
    for each in own_imports(module):
        parts = [*each.module.split("."), *([each.name] if each.name else [])]
        owners = {package_of(".".join(parts[:index])) for index, part in enumerate(parts) if is_private(part)}
        crossing += [str(each)] if owners - {here} else []
    elsewhere = {each.bound for each in own_imports(module) if package_of(each.module) != here}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) in elsewhere:
            crossing.append(f"line {node.lineno}: {ast.unparse(node)}")
    assert not crossing, f"make public, or move: {', '.join(crossing)}"


@each_module
def test_importing_a_module_takes_few_third_parties(module):
    allowed = EVERYWHERE | THIRD_PARTIES.get(room(module), set()) | sys.stdlib_module_names | {"krpe_tf"}
    others = [each for each in imports(module) if each.at_import and each.module.split(".")[0] not in allowed]
    assert not others, f"import where it is used: {', '.join(map(str, others))}"


def test_modules_form_no_circle():
    graph = {name: {each.module for each in own_imports(name) if each.at_import} - {name} for name in MODULES}
    assert not (found := circle(graph)), " -> ".join(found)


def test_packages_form_no_circle():
    graph = {}
    for name in MODULES:
        graph.setdefault(room(name), set()).update(room(each.module) for each in own_imports(name))
    assert not (found := circle({name: targets - {name} for name, targets in graph.items()})), " -> ".join(found)


def test_the_top_of_the_package_is_short():
    names = [path.name for path in PATHS if path.parent == ROOT / "krpe_tf"]
    assert len(names) <= MOST_FILES_AT_THE_TOP, names


@each_module
def test_sizes(module):
    lines = MODULES[module].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES_IN_A_FILE
    too_large = []
    for node in ast.walk(tree(module)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        above = lines[min(each.lineno for each in (node, *node.decorator_list)) - 2].strip()
        length, arguments = lines_of_code(node, lines), count_arguments(node)
        if (length > MOST_LINES_IN_A_FUNCTION or arguments > MOST_ARGUMENTS) and not above.startswith(EXCUSE):
            too_large.append(f"line {node.lineno}: {node.name} has {length} lines of code and {arguments} arguments")
    assert not too_large, f"divide, or say why in a comment right above, {EXCUSE!r}...: {'; '.join(too_large)}"


def lines_of_code(function: ast.FunctionDef, lines: list[str]) -> int:
    """Lines from `def` to the end that hold code: no docstring, blank or comment."""
    numbers = set(range(function.lineno, function.end_lineno + 1))
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        numbers -= set(range(docstring.lineno, docstring.end_lineno + 1))
    return sum(bool(text) and not text.startswith("#") for text in (lines[n - 1].strip() for n in numbers))


def count_arguments(function: ast.FunctionDef) -> int:
    """How many a caller may give, `*args` and `**kwargs` aside."""
    arguments = function.args
    named = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(named) - (named[:1] in (["self"], ["cls"]))
