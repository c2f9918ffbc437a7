"""Folders of results: tried and locked before the work, beside their checkpoint, and replaced only with a word."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flags
from util import results_folder as module
from util.cli import Flags, parse
from util.errors import RunFailed
from util.results_folder import check_space, expand_job_id, is_typed, results_beside_checkpoint, results_folder

ROOT = Path(__file__).resolve().parents[2]
HOLD = """import sys, pathlib, util.results_folder as module
with module.results_folder(pathlib.Path(sys.argv[1])):
    print(1, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.5)


def hold(folder: Path) -> subprocess.Popen:
    """A process that holds the lock of a folder until it is killed or reads a line."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "1\n"
    return process


def test_one_process_at_a_time_and_no_stale_lock(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    process = hold(folder)
    (folder / ".checkpoint.pth.0123abcd.tmp").touch()  # the other one is about to write it
    with (
        pytest.raises(ValueError, match=rf"run is in use by process {process.pid} on \S+, since .*-c.*choose another") as error,
        results_folder(folder),
    ):
        raise AssertionError
    assert "\n" not in str(error.value) and (folder / ".checkpoint.pth.0123abcd.tmp").exists()
    process.kill()
    process.wait()
    (folder / "checkpoint.pth").touch()
    with results_folder(folder):
        assert json.loads((folder / ".lock").read_text())["pid"] == os.getpid()
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pth"]


def test_the_next_one_waits_for_a_process_that_is_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 60)
    process = hold(tmp_path)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: process.communicate("\n") if process.poll() is None else None)
    with results_folder(tmp_path):
        assert process.returncode == 0


@pytest.mark.parametrize(
    "other, held",
    [
        ({"pid": 1}, True),  # runs, and may not be signalled by everybody
        ({"pid": 2**22 + 1}, False),  # there is no such process
        ({"pid": os.getpid()}, False),  # a container that was started again counts from 1
        ({"host": "elsewhere"}, True),
        ({"host": "elsewhere", "job": "17"}, False),  # this job was requeued on another machine
        ({"host": "elsewhere", "job": "18"}, True),
    ],
)
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, object], held: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    text = {"host": os.uname().nodename, "pid": 5, "job": None, "since": "today", "command": "main.py", **other}
    (tmp_path / ".lock").write_text(json.dumps(text))
    if held:
        with (
            pytest.raises(ValueError, match="in use by process .* since today .main.py. .remove .lock there if"),
            results_folder(tmp_path),
        ):
            raise AssertionError
    else:
        with results_folder(tmp_path):
            pass
    assert (tmp_path / ".lock").exists() == held


def test_what_cannot_be_written_to_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder, reason in ((tmp_path / "file" / "sub", "Not a directory"), (tmp_path / ("x" * 300), "File name too long")):
        with (
            pytest.raises(ValueError, match=f"--output_dir: .* cannot be written to .{reason}.: choose another folder"),
            results_folder(folder),
        ):
            raise AssertionError

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(ValueError, match="new/run cannot be written to .No space left on device.: choose"),
        results_folder(tmp_path / "new" / "run"),
    ):
        raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ValueError, match=r"has \d+ MB left, a checkpoint needs about 1000000000000 MB: make room, or choose"):
        check_space(tmp_path, 10**18)


def test_a_disk_that_fills_up_later_is_a_failed_run(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"a.json cannot be written \(No space left on device\)"), results_folder(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "a.json"))
    with pytest.raises(RunFailed, match="a.json cannot be written .Input/output error"), results_folder(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), tmp_path / "a.json")
    with pytest.raises(OSError, match="elsewhere"), results_folder(tmp_path):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), "elsewhere")


def test_what_is_replaced_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with results_folder(tmp_path, "results.json"):
        (tmp_path / "results.json").write_text('{\n "checkpoint": "runs/a/checkpoint.pth", "epoch": 1}')
    assert capsys.readouterr().out == ""
    with results_folder(tmp_path, "results.json"):
        said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"of runs/a/checkpoint.pth in {tmp_path} will be replaced" in said


def flags_of(resume: Path | str, *more: str) -> Flags:
    return parse(flags.get_args_parser(), ["--eval", "--resume", str(resume), "--dataset_name", "birds", *more])


def test_results_are_beside_their_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(file: str, *more: str, **saved: str) -> str:
        return str(results_beside_checkpoint(flags_of(tmp_path / file, *more), "eval", saved).relative_to(tmp_path))

    assert name("checkpoint.pth", dataset_name="birds") == "eval_val" == name("checkpoint.pth")
    assert name("checkpoint_best.pth", "--test", "test") == "eval_test_checkpoint_best"
    assert name("checkpoint.pth", dataset_name="cars/2") == "eval_val_birds"
    assert name("checkpoint.pth", "--dataset_name", "cars/2", dataset_name="birds") == "eval_val_cars-2"
    url = flags_of("https://host/models/birds/checkpoint.pth?download=1")
    assert str(results_beside_checkpoint(url, "eval", {})) == "output/models-birds-checkpoint/eval_val"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    read_only = flags_of("/models/birds/run/checkpoint.pth")
    assert str(results_beside_checkpoint(read_only, "eval", {})) == "output/birds-run-checkpoint/eval_val"
    assert not is_typed(url) and all(is_typed(flags_of("x", f"--{name}", "y")) for name in ("output_dir", "output_sub_dir"))


def test_the_id_of_a_job_in_the_name_of_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SUBMITIT_LOCAL_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    args = flags_of("x", "--output_dir", "runs/%j", "--output_sub_dir", "a%j")
    with pytest.raises(ValueError, match="--output_dir runs/%j: %j is the id of a job of SLURM, and this is none"):
        expand_job_id(args)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert (expand_job_id(args).output_dir, expand_job_id(args).output_sub_dir) == ("runs/17", "a17")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert expand_job_id(args).output_dir == "runs/16_0" and is_typed(expand_job_id(args))
    assert expand_job_id(flags_of("x")).output_dir == "output"
