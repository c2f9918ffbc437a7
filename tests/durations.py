"""How long the tests take: hooks of pytest that start long files first, and leave long tests out (`--fast`, make test-fast).

durations.json has the seconds of the functions that take longest, all their parameters together, with what they are the first to
set up; `make durations` measures them again, and those that are the first without them. A function that has become slow and is
not listed is named at the end of a run of all tests.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("durations.json")
LISTED = 1.0  # seconds from which a function is listed, and left out by --fast
NAMED = 10.0  # seconds from which one that is not listed is named: enough for a busy machine
SECONDS = {name: seconds for name, seconds in json.loads(FILE.read_text()).items()}
measured: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("durations")
    group.addoption("--fast", action="store_true", help=f"leave out what takes {LISTED:g} s or more (tests/durations.json)")
    group.addoption("--write-durations", action="store_true", help="write tests/durations.json anew, after all tests")


def function_of(nodeid: str) -> str:
    """Return `file::function` of a test: without its parameters, below the folder of the tests."""
    return nodeid.partition("[")[0].removeprefix("tests/")


def order(items: list[pytest.Item]) -> list[pytest.Item]:
    """Sort tests by the seconds of their file, the longest first, each file in its own order: the last ones to end are short."""
    files = Counter({item.path: 0.0 for item in items})
    for name, item in {function_of(item.nodeid): item for item in items}.items():
        files[item.path] += SECONDS.get(name, 0.0)
    return sorted(items, key=lambda item: -files[item.path])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("fast"):
        slow = [item for item in items if function_of(item.nodeid) in SECONDS]
        items[:] = [item for item in items if function_of(item.nodeid) not in SECONDS]
        config.hook.pytest_deselected(items=slow)
    if "PYTEST_XDIST_WORKER" in os.environ:
        items[:] = order(items)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    measured[function_of(report.nodeid)] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write the table, or name what it lacks; say what --fast left out, which workers do not report."""
    if config.getoption("write_durations"):
        listed = {name: round(seconds, 1) for name, seconds in measured.items() if seconds >= LISTED}
        listed |= SECONDS if config.getoption("fast") else {}
        FILE.write_text(json.dumps(dict(sorted(listed.items())), indent=0) + "\n")
        terminalreporter.write_line(f"{FILE.name}: {len(listed)} functions take {LISTED:g} s or more")
    elif new := [name for name, seconds in measured.items() if seconds >= NAMED and name not in SECONDS]:
        terminalreporter.write_line(f"slow, and not in tests/{FILE.name} (make durations): {', '.join(sorted(new))}")
    if config.getoption("fast"):
        terminalreporter.write_line(f"left out: {len(SECONDS)} functions that take {LISTED:g} s or more (make test runs all)")
