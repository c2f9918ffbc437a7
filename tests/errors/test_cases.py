"""Wrong inputs are answered by the lines that docs/errors.md promises, and nothing is written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import datasets.decode
from tests.errors.page import PAGE, SECTIONS, pattern, render
from tests.errors.world import Case, make_world, run

CASES = [pytest.param(case, id=f"{title}: {case.given}") for title, cases in SECTIONS.items() for case in cases]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small world."""
    folder = tmp_path_factory.mktemp("errors") / "world"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_world()
    return folder


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of all that is in a folder."""
    found = [path for path in folder.rglob("*") if not path.is_dir()]
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", CASES)
def test_case(
    case: Case, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if case.make is not None:  # else nothing changes it
        world = Path(shutil.copytree(world, tmp_path / "world"))
    monkeypatch.chdir(world)
    monkeypatch.delenv("ICN_DEBUG", raising=False)
    monkeypatch.setattr(datasets.decode, "_decoding", datasets.decode.Decoding())  # flags of a case set it
    if case.make is not None:
        case.make()
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    before = state(world)
    with pytest.raises(SystemExit) as stop:
        run(case)
    errors = capsys.readouterr().err.splitlines()
    (line,) = (line for line in errors if ": error: " in line)
    assert stop.value.code == case.code and re.fullmatch(f"[^:]+: error: {pattern(case.message)}", line), line
    assert all(after.startswith("  ") for after in errors[errors.index(line) + 1 :]) and line.isprintable()
    assert state(world) == before


def test_the_page_is_that_of_the_cases() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "write it again: python -m tests.errors.page"
    assert len(CASES) >= 60 and len({case.id for case in CASES}) == len(CASES)
