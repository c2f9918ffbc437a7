"""Rank, number of processes and rendezvous from the variables of the launchers."""

from __future__ import annotations

import pytest
from conftest import tiny_flags

import main
from util.launcher import ProcessInfo, read_launcher_env, rendezvous_url

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
def test_rank_and_size(environment: dict[str, str], process: ProcessInfo) -> None:
    assert read_launcher_env(environment) == process


@pytest.mark.parametrize("wrong", [{"RANK": "4"}, {"WORLD_SIZE": "x"}, {"RANK": "-1"}])
def test_inconsistent_variables_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="the variables of the launcher are inconsistent: RANK="):
        read_launcher_env({**TORCHRUN, **wrong})


def test_rendezvous() -> None:
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


def test_a_world_size_that_nobody_started(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"--world_size 2, but there are 1 processes: .*torchrun --nproc_per_node=N main.py"):
        main.main(tiny_flags("--world_size", 2))
