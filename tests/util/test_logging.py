"""log.txt of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from util.logging import RunLog


def test_log_without_folder_writes_nothing_and_tensorboard_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RunLog(None).epoch({"epoch": 0})
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="--tensorboard needs an --output_dir"):
        RunLog(None, tensorboard=True)


def test_a_resumed_run_drops_later_lines_and_broken_ones(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b'{"epoch": 0, "a": 1}\n{"epoch": 1}\n[3]\n{"epoch": 0, "tr\xff')
    RunLog(tmp_path, start_epoch=1).epoch({"epoch": 1, "a": None})
    assert path.read_text() == '{"epoch": 0, "a": 1}\n{"epoch": 1, "a": null}\n'
