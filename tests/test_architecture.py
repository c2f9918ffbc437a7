"""The rules of the house: which package may import which, no import circles, short functions, tests that mirror the tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "util", "datasets", "attribution", "tools")
# What each may import; a package may always import itself. Whatever is not named here is a command line at the top.
ALLOWED: dict[str, set[str]] = {
    "models": set(),
    "util": set(),
    "datasets": {"util"},
    "attribution": {"models", "datasets", "util"},
    "flags": {"models", "datasets", "util"},
    "trainer": {"models", "datasets", "util"},
    "engine": {"models", "datasets", "util", "attribution", "trainer"},
}
GONE = ("assembly.py", "run.py", "job.py", "benchmarks", "tools/benchmark/goals.py")
NOT_ROOMS = {"errors", "fixtures", "fuzz", "gpu", "slurm", "__pycache__"}
FUNCTION_LINES, README_LINES = 50, 200


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def product() -> dict[str, Path]:
    """Every file of the product by the name of its module."""
    files = [*ROOT.glob("*.py"), *(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))]
    return {module_name(file): file for file in sorted(files)}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def targets(node: ast.stmt, module: str) -> Iterator[str]:
    """The modules of the house that an import statement in `module` names, and `tests`."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            is_package = product()[module].name == "__init__.py"
            above = module.split(".") + ["__init__"] * is_package
            base = ".".join([*above[: -node.level], *([node.module] if node.module else [])])
        names = [f"{base}.{alias.name}" for alias in node.names]
    else:
        return
    for name in names:
        if name.split(".")[0] in ("tests", "conftest"):
            yield "tests"
        while name and name not in product():
            name = name.rpartition(".")[0]
        if name and name != module:
            yield name


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST, inside_functions: bool) -> Iterator[ast.stmt]:
    """All statements; without those that only run in a function, or only for a type checker, if `inside_functions` is False."""
    for child in ast.iter_child_nodes(node):
        lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(child)
        if lazy and not inside_functions:
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from statements(child, inside_functions)


@cache
def imports(module: str, inside_functions: bool = True) -> frozenset[str]:
    found = statements(tree(product()[module]), inside_functions)
    return frozenset(target for statement in found for target in targets(statement, module))


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one circle, the first of them again at the end; empty when there is none."""
    finished: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in finished:
            for target in sorted(graph.get(node, ())):
                if loop := visit(target, [*path, node]):
                    return loop
            finished.add(node)
        return []

    return next((loop for node in sorted(graph) if (loop := visit(node, []))), [])


def room(module: str) -> str:
    """The folder of a module, at most two deep."""
    file = product()[module]
    return ".".join(file.parent.relative_to(ROOT).parts[:2]) or module


def test_packages_import_only_what_they_may() -> None:
    wrong = set()
    for module in product():
        package = module.split(".")[0]
        others = {target.split(".")[0] for target in imports(module)} - {package}
        allowed = ALLOWED.get(package, {name.split(".")[0] for name in product()} - {"tools"})
        wrong |= {f"{module} imports {other}" for other in others - allowed}
    assert sorted(wrong) == []


def test_no_file_imports_itself_in_a_circle() -> None:
    graph = {module: set(imports(module, inside_functions=False)) for module in product()}
    assert circle(graph) == []


def test_no_folders_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for module in product():
        graph.setdefault(room(module), set()).update({room(target) for target in imports(module)} - {room(module)})
    assert circle(graph) == []


def test_what_was_dissolved_is_gone() -> None:
    assert [name for name in GONE if (ROOT / name).exists()] == []


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from `def` to its end, without its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    assert function.end_lineno is not None and first.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1) * documented


def test_a_function_fits_on_a_screen() -> None:
    long = {}
    for module, file in product().items():
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > FUNCTION_LINES:
                long[f"{module}.{node.name}"] = length(node)
    assert long == {}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_the_tests_mirror_the_tree() -> None:
    folders = [file.relative_to(ROOT / "tests") for file in (ROOT / "tests").rglob("*") if file.is_dir()]
    rooms = [folder for folder in folders if not NOT_ROOMS & set(folder.parts)]
    assert len(rooms) > 5 and [str(folder) for folder in rooms if not (ROOT / folder).is_dir()] == []


@pytest.mark.parametrize(
    ("module", "line", "expected"),
    [
        ("models.icn", "import util.cli, torch", ["util.cli"]),
        ("models.icn", "from datasets import decode", ["datasets.decode"]),
        ("models.icn", "from datasets import NoSuchName", ["datasets"]),
        ("models.icn", "from . import attention", ["models.attention"]),
        ("models", "from .icn import ICN", ["models.icn"]),
        ("models.icn", "from ..tools import collect", ["tools.collect"]),
        ("models.icn", "from tests.conftest import tiny_model", ["tests"]),
    ],
)
def test_an_import_is_found_out(module: str, line: str, expected: list[str]) -> None:
    (statement,) = ast.parse(line).body
    assert list(targets(statement, module)) == expected


def test_a_circle_and_a_lazy_import_are_told_apart() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"] and circle({"a": {"b"}, "b": set()}) == []
    code = ast.parse("import a\nif TYPE_CHECKING:\n    import b\nclass C:\n    import c\n    def f():\n        import d\n")
    names = [[node.names[0].name for node in statements(code, deep) if isinstance(node, ast.Import)] for deep in (False, True)]
    assert names == [["a", "c"], ["a", "b", "c", "d"]]
