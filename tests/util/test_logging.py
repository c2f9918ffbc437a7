"""log.txt of a run, and the table of several runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from util.logging import RunLog, run_table


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


def test_table_of_runs(tmp_path: Path) -> None:
    for number, accuracy in enumerate((90.0, 92.0, 94.0)):
        (tmp_path / f"run_seed{number}").mkdir()
        line = f'{{"epoch": 4, "test_acc1": {accuracy - 1}, "best_acc1": {accuracy}}}\n'
        (tmp_path / f"run_seed{number}" / "log.txt").write_text('{"epoch": 3}\n' + line)
    rows = run_table(sorted(tmp_path.iterdir())).splitlines()
    assert [row.split() for row in rows[1:4]] == [[f"run_seed{n}", "5", f"{89 + 2 * n}.00", f"{90 + 2 * n}.00"] for n in range(3)]
    assert rows[4].split() == ["mean", "+-", "sd", "of", "3", "91.00", "+-", "2.00", "92.00", "+-", "2.00"]
    for recipe in ("a", "b"):
        for number in range(2):
            folder = tmp_path / f"run_{recipe}_seed{number}"
            folder.mkdir()
            (folder / "log.txt").write_text(f'{{"epoch": 4, "test_acc1": {80 + number}, "best_acc1": {90 + number}}}\n')
    rows = run_table([tmp_path / f"run_{recipe}_seed{number}" for number in range(2) for recipe in "ab"]).splitlines()
    names = ["run_a_seed0", "run_a_seed1", "run_a:", "run_b_seed0", "run_b_seed1", "run_b:"]
    assert [row.split()[0] for row in rows[1:]] == names
    assert rows[3] == "run_a: mean +- sd of 2          80.50 +- 0.71  90.50 +- 0.71"
    with pytest.raises(ValueError, match="log.txt has no finished epoch"):
        run_table([tmp_path / "nothing"])
