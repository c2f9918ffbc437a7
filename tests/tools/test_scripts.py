"""Tools that are run as files, from any folder, without docstrings."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SCRIPTS = [*(path for path in TOOLS.glob("*.py") if "__main__" in path.read_text()), *TOOLS.glob("*/__main__.py")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.stem + "." + path.stem)
def test_the_folder_of_the_repository_is_on_the_path_before_its_modules_are_imported(script: Path) -> None:
    up = len(script.relative_to(TOOLS).parts)
    lines = [ast.unparse(node) for node in ast.parse(script.read_text()).body]
    place = lines.index(f"sys.path.insert(0, str(Path(__file__).resolve().parents[{up}]))")
    packages = ("attribution", "datasets", "flags", "models", "tools", "util")
    assert not any(line.startswith(tuple(f"from {name}" for name in packages)) for line in lines[:place])
    assert any(line.startswith("from util") for line in lines[place:])


def test_a_tool_runs_from_another_folder_without_docstrings_in_a_narrow_terminal(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHONOPTIMIZE": "2", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "1"}
    command = [sys.executable, TOOLS / "collect.py", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: collect") and done.stderr == ""
