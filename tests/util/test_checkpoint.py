"""Checkpoints on disk: whole or not there, under several names without several copies, and written by a thread."""

from __future__ import annotations

import os
import signal
import threading
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.loading import read_checkpoint
from util import atomic, checkpoint
from util.checkpoint import BEST, LAST, Checkpointer, milestone_name, newest_valid, save_checkpoint
from util.errors import RunFailed
from util.launcher import ProcessInfo
from util.random_state import RandomState
from util.ranks import SINGLE_PROCESS
from util.stopping import Stopped, StopRequest

PATIENCE = 60.0  # seconds; only what hangs needs them


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


class Weight:
    """A trainer of one weight, which is its number of steps."""

    def __init__(self) -> None:
        self.steps, self.weight = 0, torch.zeros(1)

    def step(self) -> None:
        self.steps += 1
        self.weight += 1

    def state_dict(self) -> dict[str, object]:
        return {"model": {"query_embed.weight": self.weight}, "step": self.steps}


@pytest.fixture
def checkpointer(tmp_path: Path) -> Checkpointer:
    return Checkpointer(tmp_path, Weight(), (), {}, StopRequest(ProcessInfo()), keep_last=9, every_steps=1)


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Callable[[OSError | None], threading.Event]:
    """Hold each write before its file is renamed until the event that is returned; then it goes on, or fails."""

    def begin(error: OSError | None) -> threading.Event:
        released, flush = threading.Event(), atomic._fsync

        def wait(handle: int) -> None:
            assert released.wait(PATIENCE)
            if error:
                raise error
            flush(handle)

        monkeypatch.setattr(atomic, "_fsync", wait)
        return released

    return begin


def content(path: Path) -> tuple[int, float]:
    state = _load(path)
    return state["step"], state["model"]["query_embed.weight"].item()


def test_training_goes_on_during_a_write_which_has_the_state_of_its_step(checkpointer: Checkpointer, hold: Callable) -> None:
    released, trainer, folder = hold(None), checkpointer.trainer, checkpointer.folder
    trainer.step()
    checkpointer.save([BEST])
    trainer.step()
    trainer.step()
    checkpointer.stop_if_requested()  # nothing to stop, no error
    assert not list(folder.glob("*.pth")) and len(list(folder.glob(".*.tmp"))) == 1
    threading.Timer(0.05, released.set).start()
    checkpointer.save()  # waits for the one before
    assert content(folder / BEST) == (1, 1)
    checkpointer.finish()
    assert content(folder / LAST) == (3, 3) and content(folder / "checkpoint_step00000001.pth") == (1, 1)
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("how", ["step", "signal", "save", "finish", "end"])
def test_an_error_of_the_thread_ends_the_run(checkpointer: Checkpointer, hold: Callable, how: str) -> None:
    checkpointer.trainer.step()
    checkpointer.save()
    checkpointer.finish()
    released = hold(OSError(28, "No space left on device"))
    with pytest.raises(RunFailed, match="cannot be written.*No space left.*intact"), checkpointer:
        checkpointer.trainer.step()
        checkpointer.save()
        released.set()
        if how in ("step", "signal"):
            checkpointer.thread.join()
            checkpointer.request.number = signal.SIGTERM if how == "signal" else None
            checkpointer.after_step()
            pytest.fail("the run goes on")
        elif how != "end":
            getattr(checkpointer, how)()
            pytest.fail("the run goes on")
    assert content(checkpointer.folder / LAST) == (1, 1) and not list(checkpointer.folder.glob(".*"))


def test_a_run_that_is_stopped_has_written_its_step_before_it_says_so(checkpointer: Checkpointer, hold: Callable) -> None:
    checkpointer.trainer.step()
    released = hold(None)
    checkpointer.save()
    checkpointer.trainer.step()
    threading.Timer(0.05, released.set).start()
    checkpointer.request.number = signal.SIGTERM
    with pytest.raises(Stopped, match="stopped after step 2; the last checkpoint is"):
        checkpointer.after_step()
    assert content(checkpointer.folder / LAST) == (2, 2)


def test_a_signal_while_an_epoch_is_drawn_saves_the_random_state_of_the_boundary(checkpointer: Checkpointer) -> None:
    checkpointer.parts = (RandomState(SINGLE_PROCESS, 0),)
    boundary = torch.get_rng_state()
    with checkpointer.request, pytest.raises(Stopped), checkpointer.interruptible(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)  # of an image's crop
        signal.raise_signal(signal.SIGTERM)
    assert torch.equal(_load(checkpointer.folder / LAST)["rng"][0]["cpu"], boundary)


def test_an_unforeseen_error_of_the_thread_does_not_hide_the_one_that_ends_the_run(
    checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no room for a buffer")

    monkeypatch.setattr(checkpoint, "save_checkpoint", fail)
    with pytest.raises(KeyError), checkpointer:
        checkpointer.save()
        raise KeyError
    assert "no room for a buffer" in capsys.readouterr().err


def test_a_run_that_fails_waits_for_its_checkpoint(
    checkpointer: Checkpointer, hold: Callable, capsys: pytest.CaptureFixture
) -> None:
    released = hold(None)
    checkpointer.trainer.step()
    checkpointer.save()
    threading.Timer(0.05, released.set).start()
    assert "the last checkpoint is" in checkpointer.describe_last()
    with pytest.raises(KeyError), checkpointer:
        checkpointer.trainer.step()
        hold(OSError(28, "No space left on device")).set()
        checkpointer.save()
        raise KeyError
    assert content(checkpointer.folder / LAST) == (1, 1)
    assert capsys.readouterr().err.startswith("warning: the checkpoint cannot be written to")


def test_without_memory_for_a_copy_the_checkpoint_is_written_at_once(
    checkpointer: Checkpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "snapshot", lambda state: None)
    monkeypatch.setattr(checkpointer.thread, "start", lambda call: pytest.fail("a thread"))
    checkpointer.trainer.step()
    checkpointer.save()
    assert content(checkpointer.folder / LAST) == (1, 1)
