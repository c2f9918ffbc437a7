"""What a process is told of its place, and the device that it takes there."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from conftest import tiny_flags

import main
from util.cli import launch
from util.device import select_device
from util.errors import RunFailed
from util.launcher import ProcessInfo, read_launcher_env, rendezvous_url
from util.logging import run_table
from util.stopping import StopRequest
from util.sweep import parse_seeds

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}
ALLOCATION = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "gpu[01-02]",
}
STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[01-02]",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
LOCAL = {
    "SUBMITIT_EXECUTOR": "local",
    "SUBMITIT_LOCAL_GLOBALID": "1",
    "SUBMITIT_LOCAL_NTASKS": "2",
    "SUBMITIT_LOCAL_LOCALID": "1",
}


@pytest.mark.parametrize(
    "environment, process",
    [
        ({}, ProcessInfo()),
        (TORCHRUN, ProcessInfo(3, 4, 1)),
        ({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, ProcessInfo()),
        (ALLOCATION, ProcessInfo()),  # python main.py without srun, in an allocation for 16 tasks
        ({**ALLOCATION, **STEP}, ProcessInfo(9, 16, 1)),
        ({**ALLOCATION, **STEP, **TORCHRUN}, ProcessInfo(3, 4, 1)),  # srun torchrun ...
        ({**ALLOCATION, **STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, ProcessInfo()),
        (LOCAL, ProcessInfo(1, 2, 1)),
        ({**ALLOCATION, **STEP, **LOCAL}, ProcessInfo(1, 2, 1)),
    ],
)
def test_place(environment: dict[str, str], process: ProcessInfo) -> None:
    assert read_launcher_env(environment) == process


@pytest.mark.parametrize("wrong", [{"RANK": "4"}, {"WORLD_SIZE": "x"}, {"RANK": "-1"}])
def test_a_place_that_makes_no_sense(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="the variables of the launcher are inconsistent: RANK="):
        read_launcher_env({**TORCHRUN, **wrong})


def test_meeting_point() -> None:
    assert rendezvous_url(TORCHRUN) == "env://"
    job = rendezvous_url({**ALLOCATION, **STEP})
    assert job.startswith("tcp://gpu01:") and 15000 <= int(job.rpartition(":")[2]) < 30000
    assert (
        job
        == rendezvous_url({**ALLOCATION, **STEP, "SLURM_PROCID": "0"})
        != rendezvous_url({**ALLOCATION, **STEP, "SLURM_JOB_ID": "8"})
    )
    for nodes, first in (("a7,b[1-2]", "a7"), ("rack[2,4-5]n[010-012],x", "rack2n010"), ("one", "one")):
        assert rendezvous_url({**STEP, "SLURM_STEP_NODELIST": nodes}).startswith(f"tcp://{first}:")
    assert rendezvous_url({**STEP, "SLURM_STEP_NUM_NODES": "1"}).startswith("tcp://127.0.0.1:")
    assert rendezvous_url(LOCAL).startswith("tcp://127.0.0.1:")
    assert rendezvous_url({**STEP, "MASTER_ADDR": "here", "MASTER_PORT": "1234"}) == "tcp://here:1234"


@pytest.mark.parametrize(
    "visible, process, index",
    [(2, ProcessInfo(), None), (8, ProcessInfo(9, 16, 1), 1), (1, ProcessInfo(9, 16, 1), 0), (2, ProcessInfo(1, 2, 1), 1)],
)
def test_device_of_a_rank(monkeypatch: pytest.MonkeyPatch, visible: int, process: ProcessInfo, index: int | None) -> None:
    taken = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    assert select_device("cuda", process) == (torch.device("cuda") if index is None else torch.device("cuda", index))
    assert select_device("cpu", process).type == "cpu" and len(taken) == 1
    if process.size > 1:
        with pytest.raises(ValueError, match="each of .* processes takes a GPU of its own"):
            select_device("cuda:0", process)
        with pytest.raises(ValueError, match="process 4 of this machine has only 2 GPUs: start as many"):
            monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
            select_device("cuda", ProcessInfo(11, 16, 3))


def test_errors_name_the_rank(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail(args: object) -> None:
        raise RunFailed("it broke")

    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    for rank, prefix in ((0, "rank 0: "), (1, "rank 1: "), (None, "")):
        for name, value in {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank}.items():
            monkeypatch.delenv(name, raising=False)
            if rank is not None:
                monkeypatch.setenv(name, str(value))
        with pytest.raises(SystemExit):
            launch(fail, main.get_args_parser(), [])
        assert capsys.readouterr().err == f"main.py: error: {prefix}it broke\n"
    assert waited == [1]  # rank 0 speaks first


def test_a_world_size_that_nobody_started(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"--world_size 2, but there are 1 processes: .*torchrun --nproc_per_node=N main.py"):
        main.main(tiny_flags("--world_size", 2))


def test_the_second_ctrl_c_may_be_an_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with StopRequest(ProcessInfo(1, 2, 1)) as request:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGTERM)
        assert request.number == signal.SIGUSR2  # it asks for the most
        now[0] = 3.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_seeds() -> None:
    assert parse_seeds("0-4") == [0, 1, 2, 3, 4] and parse_seeds("7, 3,3-4") == [3, 4, 7]
    for wrong in ("4-0", "a", "1,,2", "-1", "0-99999"):
        with pytest.raises(ValueError, match="--seeds .* is no list of seeds: give it as 0-4 or 0,3,7"):
            parse_seeds(wrong)


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
