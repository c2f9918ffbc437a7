"""The table of long tests: what it lists exists, long files start first, and `--fast` leaves out what it lists alone."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import durations
import pytest

TESTS = Path(__file__).parent


def items(*nodeids: str) -> list[Any]:
    return [SimpleNamespace(nodeid=nodeid, path=nodeid.partition("::")[0]) for nodeid in nodeids]


def test_every_function_of_the_table_exists() -> None:
    functions = {
        file: {node.name for node in ast.walk(ast.parse((TESTS / file).read_text())) if isinstance(node, ast.FunctionDef)}
        for file in {name.partition("::")[0] for name in durations.SECONDS}
    }
    gone = [name for name in durations.SECONDS if name.split("::")[-1] not in functions[name.partition("::")[0]]]
    assert gone == [], "make durations"


def test_long_files_start_first_and_short_tests_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "SECONDS", {"b.py::long": 9.0, "c.py::slow": 20.0, "b.py::other": 8.0})
    collected = items("tests/a.py::x", "tests/b.py::long[1]", "tests/b.py::long[2]", "tests/b.py::short", "tests/c.py::slow")
    assert [item.path[6] for item in durations.order(collected)] == ["c", "b", "b", "b", "a"]
    left_out: list[Any] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    config: Any = SimpleNamespace(getoption=lambda name: name == "fast", hook=hook)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    durations.pytest_collection_modifyitems(config, collected)
    assert [item.nodeid for item in collected] == ["tests/a.py::x", "tests/b.py::short"] and len(left_out) == 3
