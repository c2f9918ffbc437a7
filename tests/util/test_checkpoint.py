"""Checkpoints on disk: whole or not there, under several names without several copies."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from models.loading import read_checkpoint
from util.checkpoint import LAST, milestone_name, newest_valid, save_checkpoint
from util.errors import RunFailed


def test_names_share_one_file_and_no_temporary_stays(tmp_path: Path) -> None:
    save_checkpoint({"model": {}, "epoch": 1}, tmp_path / "new", [milestone_name(79)])
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"checkpoint.pth", "checkpoint0079.pth"}
    assert os.path.samefile(tmp_path / "new" / LAST, tmp_path / "new" / "checkpoint0079.pth")
    save_checkpoint({"model": {}, "epoch": 2}, tmp_path / "new")
    assert _load(tmp_path / "new" / LAST)["epoch"] == 2 and _load(tmp_path / "new" / milestone_name(79))["epoch"] == 1
    assert (tmp_path / "new" / LAST).stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint({"model": {}, "epoch": 1}, tmp_path)

    def full(state: object, file: object) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunFailed, match="cannot be written.*No space left.*intact"):
        save_checkpoint({"model": {}, "epoch": 2}, tmp_path)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [LAST] and _load(tmp_path / LAST)["epoch"] == 1


def test_without_hard_links_the_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    save_checkpoint({"model": {}, "epoch": 3}, tmp_path, ["checkpoint_best.pth"])
    assert _load(tmp_path / "checkpoint_best.pth")["epoch"] == 3 and len(list(tmp_path.iterdir())) == 2


def _load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_latest_step_is_found_whatever_the_times_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Beside INTR's file, which torch reads only as `read_checkpoint` does and which has no step, and a damaged one."""
    for step, name, age in ((4, LAST, 300), (2, "checkpoint_step00000002.pth", 200), (3, milestone_name(0), 100)):
        torch.save({"model": {"query_embed.weight": torch.ones(1, 1)}, "step": step}, tmp_path / name)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    intr = {"model": {"query_embed.weight": torch.ones(1, 1)}, "args": Namespace(lr=1), "epoch": 79}
    torch.save(intr, tmp_path / milestone_name(79))
    (tmp_path / "checkpoint_best.pth").write_bytes(b"damaged, and the newest of all")
    found = newest_valid(tmp_path, read_checkpoint)
    assert found is not None and found[0].name == LAST and found[1]["step"] == 4
    assert "checkpoint_best.pth" in (err := capsys.readouterr().err) and err.count("\n") == 1
    for file in tmp_path.glob("checkpoint*.pth"):
        if file.name != milestone_name(79):
            file.unlink()
    found = newest_valid(tmp_path, read_checkpoint)
    assert found is not None and found[1]["args"] == {"lr": 1}
