"""The table of long tests: long files start first, and `--fast` leaves out what it lists alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import durations
import pytest


def items(*nodeids: str) -> list[Any]:
    return [SimpleNamespace(nodeid=nodeid, path=nodeid.partition("::")[0]) for nodeid in nodeids]


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
