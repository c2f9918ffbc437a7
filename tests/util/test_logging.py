"""log.txt, TensorBoard and Weights & Biases of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import tiny_flags

import epochs
from flags import logged_flags
from util.logging import WANDB_ID, WANDB_PRIVATE, RunLog
from util.ranks import ProcessInfo, Ranks


def test_log_without_folder_writes_nothing_and_others_need_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_wandb: list[SimpleNamespace]
) -> None:
    monkeypatch.chdir(tmp_path)
    RunLog(None).epoch({"epoch": 0})
    for flags in ({"tensorboard": True}, {"wandb": {}}):
        with pytest.raises(ValueError, match=f"--{next(iter(flags))} needs an --output_dir"):
            RunLog(None, **flags)
    assert not list(tmp_path.iterdir()) and not fake_wandb


def test_a_resumed_run_drops_later_lines_and_broken_ones(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b'{"epoch": 0, "a": 1}\n{"epoch": 1}\n[3]\n{"epoch": 0, "tr\xff')
    RunLog(tmp_path, start_epoch=1).epoch({"epoch": 1, "a": None})
    assert path.read_text() == '{"epoch": 0, "a": 1}\n{"epoch": 1, "a": null}\n'


def test_wandb_gets_numbers_and_flags_and_a_resumed_run_its_id(tmp_path: Path, fake_wandb: list[SimpleNamespace]) -> None:
    with RunLog(tmp_path, wandb={"lr": 1e-3}) as log:
        log.epoch({"epoch": 0, "train_loss": 0.5, "test_acc5": None, "best_acc1": 3})
    with pytest.raises(KeyError), RunLog(tmp_path, wandb={}, start_epoch=1, resumed=True):
        raise KeyError
    with RunLog(tmp_path, wandb={}):
        pass
    first, resumed, new = fake_wandb
    assert first.lines == [{"epoch": 0, "train/loss": 0.5, "best/acc1": 3}] and [run.ends for run in fake_wandb] == [
        [0],
        [1],
        [0],
    ]
    assert first.metrics == [("epoch", None), ("*", "epoch")]
    assert first.settings["config"] == {"lr": 1e-3} and first.settings["dir"] == str(tmp_path)
    ids = [run.settings["id"] for run in fake_wandb]
    assert ids[0] == ids[1] != ids[2] and (tmp_path / WANDB_ID).read_text() == f"{ids[2]}\n"
    assert {name: first.environment[name] for name in WANDB_PRIVATE} == WANDB_PRIVATE


def test_wandb_that_fails_is_one_line(tmp_path: Path, fake_wandb: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / WANDB_ID).write_text("../../etc\n")
    with pytest.raises(ValueError, match=f"{WANDB_ID} holds no id of a run: remove it"):
        RunLog(tmp_path, wandb={}, resumed=True)

    def refuse(**_: object) -> None:
        raise RuntimeError("api_key not configured (no-tty).\nmore\nlines")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(
        ValueError, match=r"^--wandb: api_key not configured \(no-tty\)\. \(wandb login; or WANDB_MODE=offline.*\)$"
    ):
        RunLog(tmp_path, wandb={})
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"^--wandb: the package wandb is not installed \(pip install wandb\)$"):
        RunLog(tmp_path, wandb={})


def test_only_rank_0_logs_and_no_path_is_logged(tmp_path: Path, fake_wandb: list[SimpleNamespace]) -> None:
    secret = "https://me:token@example.org/private/detr.pth?key=abc"
    args = tiny_flags("--wandb", "--dataset_path", "/home/me/photographs", "--finetune", secret, "--output_dir", tmp_path)
    for rank in (0, 1):
        epochs.open_log(args, tmp_path, Ranks(ProcessInfo(rank, 2, rank)))
    (run,) = fake_wandb
    config = run.settings["config"]
    assert config == logged_flags(args) and config["finetune"] == "detr.pth" and config["lr"] == 5e-5 and config["seed"] == 42
    assert not any(word in str(config) for word in ("photographs", "token", "abc", "private", str(tmp_path)))


def test_wandb_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_wandb: list[SimpleNamespace]) -> None:
    """The package writes the same id twice, and neither the command line nor the name of the machine."""
    monkeypatch.delitem(sys.modules, "wandb")  # the stand-in
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for epoch in range(2):
        with RunLog(tmp_path, wandb={"lr": 1e-3}, start_epoch=epoch, resumed=epoch > 0) as log:
            log.epoch({"epoch": epoch, "train_loss": 0.5})
    wandb.teardown()  # its process writes the last bytes
    identity = (tmp_path / WANDB_ID).read_text().strip()
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and {file.name for file in files} == {f"run-{identity}.wandb"}
    assert all(b"train/loss" in file.read_bytes() and sys.argv[0].encode() not in file.read_bytes() for file in files)
