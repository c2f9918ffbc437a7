"""The documentation: its commands parse, its Python compiles, its links, files and pictures exist."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
import shlex
import warnings
from argparse import ArgumentParser
from pathlib import Path

import pytest
from documentation_commands import PAGES, ROOT, Block, blocks, commands, program_of, shell_blocks
from test_architecture import ALLOWED

ALL_PAGES = [*PAGES, "CHANGELOG.md"]

# Programs of others, whose arguments are not checked.
FOREIGN = {"git", "cd", "cp", "pip", "apt-get", "wait", "python -c", "pytest", "pre-commit"}
FOREIGN |= {".ci/run", "recipes/reproduce_results.sh"}


def parser_of(program: str, arguments: list[str]) -> ArgumentParser:
    """Return the parser of a command line of the repository."""
    module = program.removesuffix(".py").replace("/", ".")
    if (ROOT / module.replace(".", "/")).is_dir():
        module += ".__main__"
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"no program {program}"
    loaded = importlib.import_module("flags" if module == "main" else module)
    if module == "run_with_submitit":
        tool = arguments[arguments.index("--tool") + 1] if "--tool" in arguments else "main"
        return loaded.get_args_parser(tool)
    return loaded.get_args_parser()


def expanded(block: Block) -> list[str]:
    """Return the commands of a block with its shell variables filled in; what `$(...)` would print becomes a word."""
    variables: dict[str, str] = {}
    found = []
    for command in commands(block.code):
        if match := re.fullmatch(r"(\w+)=\"(.*)\"", command):
            variables[match[1]] = match[2]
            continue
        command = re.sub(r"\$\(.*\)", "output", command)
        found.append(re.sub(r"\$(\w+)", lambda name: variables[name[1]], command))
    return [part.strip() for command in found for part in command.removesuffix("&").split(" && ")]


@pytest.mark.parametrize("block", shell_blocks(), ids=lambda block: f"{block.page}:{block.line}")
def test_commands_parse(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each flag of each command exists in that program's own parser, and each recipe is a file."""
    monkeypatch.chdir(ROOT)
    if block.not_run:
        warnings.warn(f"{block.page}:{block.line} is not run by make docs-commands: {block.not_run}", stacklevel=1)
    for command in expanded(block):
        program, arguments = program_of(shlex.split(command))
        if program in FOREIGN:
            assert program != "pytest" or all((ROOT / path).exists() for path in arguments)
        elif program == "make":
            assert re.search(rf"^{re.escape(arguments[0])}:", (ROOT / "Makefile").read_text(), re.M), f"no target: {command}"
        else:
            message = io.StringIO()
            try:
                with contextlib.redirect_stderr(message), contextlib.redirect_stdout(io.StringIO()):
                    parser_of(program, arguments).parse_args(arguments)
            except SystemExit as stop:
                assert stop.code == 0, f"{command}\n{message.getvalue()}"


def test_a_wrong_command_is_found() -> None:
    """The check of commands above fails for a flag, a program, a recipe or a placeholder that does not exist."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for command in (
            "python main.py --no_such_flag",
            "python main.py @recipes/none.args",
            "python none.py",
            "none",
            "make none",
        ):
            with pytest.raises((AssertionError, ImportError)):
                test_commands_parse(Block("page", 1, "sh", command, ""), monkeypatch)
        with pytest.raises(ValueError, match="unknown placeholder <no such>"):
            test_commands_parse(Block("page", 1, "sh", "python main.py --resume <no such>", ""), monkeypatch)


@pytest.mark.parametrize("page", ALL_PAGES)
def test_python_compiles_and_its_imports_exist(page: str) -> None:
    for block in blocks(page):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), f"{page}:{block.line}"


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL_PAGES)
def test_links_and_pictures_exist(page: str) -> None:
    folder = (ROOT / page).parent
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = folder / name if name else ROOT / page
        assert path.exists(), f"{page}: {target} does not exist"
        assert not anchor or anchor in anchors(path), f"{page}: {target} has no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    """Paths of the repository in backticks exist (the changelog names old ones)."""
    for path in re.findall(
        r"`((?:models|datasets|attribution|util|tools|tests|recipes|docs)/[\w/.]*)`", (ROOT / page).read_text()
    ):
        assert (ROOT / path).exists(), f"{page}: {path} does not exist"


def test_every_page_is_listed() -> None:
    listed = (ROOT / "docs" / "README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert f"docs/{path.name}" in PAGES and (path.name == "README.md" or f"]({path.name})" in listed)


def test_the_diagram_of_imports_is_that_of_the_rules() -> None:
    diagram = next(block.code for block in blocks("docs/architecture.md") if block.language == "mermaid")
    arrows = set(re.findall(r"^ +(\w+)(?:\[.*\])? --> (\w+)", diagram, re.M))

    def reached(name: str) -> set[str]:
        below = {end for start, end in arrows if start == name}
        return below.union(*map(reached, below))

    assert {name: reached(name) for name in ALLOWED} == ALLOWED
