"""The guards of fuzzing notice what they are there for."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import harness
from tests.fuzz.harness import Misdeed, damaged, examples, watched


def test_files_elsewhere_and_programs_are_noticed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "inside2"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    with watched(inside):
        (inside / "a").mkdir()
        (inside / "a" / "b").write_text("x")
        (inside / "a" / "b").rename(inside / "c")
        (inside / "c").read_text()
    for act in (
        lambda: outside.write_text("x"),
        lambda: outside.mkdir(),
        lambda: (inside / "link" / "x").write_text("x"),
        lambda: (inside / "c").rename(outside),
        lambda: outside.symlink_to(inside),
        lambda: os.link(inside / "c", outside),
        lambda: subprocess.run([sys.executable, "-c", ""]),
        lambda: os.system("true"),
        lambda: pickle.loads(b"cos\nsystem\n."),
    ):
        with pytest.raises(Misdeed), watched(inside):
            act()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside"]


def test_memory_and_time_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match=r"\d+ MB of memory, more than 50"), watched(tmp_path, 50):
        b"x" * (4 * 10**8)  # far more than the system may take from this process meanwhile
    monkeypatch.setattr(harness, "SECONDS", 0.05)
    with pytest.raises(TimeoutError), watched(tmp_path):
        while True:
            pass


@examples(20)
@given(st.data())
def test_damage_is_done(data: st.DataObject) -> None:
    assert isinstance(data.draw(damaged([bytes(range(100)), b"x"])), bytes)
