"""The package exports lazily: every name is there, and importing the package costs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import datasets

ROOT = Path(__file__).parents[2]


def test_every_exported_name_is_that_of_its_module():
    typed = {
        alias.name: node.module
        for node in ast.walk(ast.parse(Path(datasets.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("datasets.")
        for alias in node.names
    }
    assert sorted(typed) == sorted(datasets.__all__)
    for name, module in typed.items():
        assert getattr(datasets, name) is getattr(sys.modules[module], name)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'ImageFolders'"):
        datasets.ImageFolders  # noqa: B018


def test_import_is_light():
    code = "import sys, datasets, datasets.planes, datasets.prepare; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"
