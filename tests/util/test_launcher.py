"""Rank, number of processes and rendezvous from the variables of the launchers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import tiny_flags

import main
from util.cli import Parser, launch
from util.launcher import ProcessInfo, read_launcher_env, rendezvous_address, report_to_torchrun

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
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "0"}


@pytest.mark.parametrize(
    "environment, process",
    [
        ({}, ProcessInfo()),
        (TORCHRUN, ProcessInfo(3, 4, 1)),
        ({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, ProcessInfo()),
        ({"WORLD_SIZE": "1"}, ProcessInfo()),
        ({"RANK": "0"}, ProcessInfo()),
        ({"RANK": "", "WORLD_SIZE": ""}, ProcessInfo()),
        (ALLOCATION, ProcessInfo()),  # python main.py without srun, in an allocation for 16 tasks
        ({**ALLOCATION, **STEP}, ProcessInfo(9, 16, 1)),
        ({**ALLOCATION, **STEP, "WORLD_SIZE": "1"}, ProcessInfo(9, 16, 1)),
        ({**ALLOCATION, **STEP, "PMI_RANK": "9", "PMI_SIZE": "16", "PMIX_RANK": "9"}, ProcessInfo(9, 16, 1)),  # srun --mpi=pmi2
        ({**ALLOCATION, **STEP, **TORCHRUN}, ProcessInfo(3, 4, 1)),  # srun torchrun ...
        ({**ALLOCATION, **STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, ProcessInfo()),
        (LOCAL, ProcessInfo(1, 2, 1)),
        ({**ALLOCATION, **STEP, **LOCAL}, ProcessInfo(1, 2, 1)),
        ({**OPEN_MPI, **TORCHRUN}, ProcessInfo(3, 4, 1)),  # mpirun torchrun ..., or variables that the user derived
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, ProcessInfo()),
        ({"PBS_VNODENUM": "0", "ALPS_APP_PE": "0", "PMI_SIZE": "1", "PMI_RANK": "0"}, ProcessInfo()),
    ],
)
def test_rank_and_size(environment: dict[str, str], process: ProcessInfo) -> None:
    assert read_launcher_env(environment) == process


@pytest.mark.parametrize(
    "wrong",
    [{"RANK": "4"}, {"RANK": "-1"}, {"RANK": ""}, {"WORLD_SIZE": "x"}, {"WORLD_SIZE": "2.0"}, {"WORLD_SIZE": "-2"},
     {"WORLD_SIZE": ""},
     {"WORLD_SIZE": "0"}, {"WORLD_SIZE": "1" + "0" * 20}, {"WORLD_SIZE": "1_0"}, {"LOCAL_RANK": "4"}],
)  # fmt: skip
def test_inconsistent_variables_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="the variables of the launcher are inconsistent: RANK=.* must be whole numbers"):
        read_launcher_env({**TORCHRUN, **wrong})


@pytest.mark.parametrize(
    "environment, words",
    [
        ({"WORLD_SIZE": "2"}, r"WORLD_SIZE=2 is set, but RANK is not: start with torchrun --nproc_per_node=N"),
        ({"RANK": "1"}, "inconsistent: RANK=1, WORLD_SIZE=None"),
        (
            OPEN_MPI,
            r"mpirun \(Open MPI\) \(OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=4\) would each do the whole run: start with",
        ),
        ({**OPEN_MPI, "WORLD_SIZE": "1"}, "Open MPI"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "PMI"),
        ({"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}, "Hydra"),
        ({"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "2"}, "MVAPICH2"),
        ({"PALS_RANKID": "1"}, "PALS"),
        ({"JSM_NAMESPACE_RANK": "0", "JSM_NAMESPACE_SIZE": "6"}, "jsrun"),
        ({"FLUX_TASK_RANK": "0", "FLUX_JOB_SIZE": "2"}, "flux"),
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}, "horovodrun"),
        # mpirun of 8 processes on two machines, on each of which srun starts one process of mpirun
        (
            {**ALLOCATION, **STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "PMI_RANK": "0", "PMI_SIZE": "8"},
            "PMI_SIZE=8",
        ),
    ],
)
def test_processes_that_would_not_find_each_other_are_refused(environment: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_launcher_env(environment)


def test_rendezvous() -> None:
    assert rendezvous_address(environment=TORCHRUN) == ("a", 29500)
    job = rendezvous_address(environment={**ALLOCATION, **STEP})
    assert job[0] == "gpu01" and 15000 <= job[1] < 30000
    assert job == rendezvous_address(environment={**ALLOCATION, **STEP, "SLURM_PROCID": "0"})
    assert job != rendezvous_address(environment={**ALLOCATION, **STEP, "SLURM_JOB_ID": "8"})
    for nodes, first in (("a7,b[1-2]", "a7"), ("rack[2,4-5]n[010-012],x", "rack2n010"), ("one", "one")):
        assert rendezvous_address(environment={**STEP, "SLURM_STEP_NODELIST": nodes})[0] == first
    assert rendezvous_address(environment={**STEP, "SLURM_STEP_NUM_NODES": "1"})[0] == "127.0.0.1"
    assert rendezvous_address(environment=LOCAL)[0] == "127.0.0.1"
    assert rendezvous_address(environment={**STEP, "MASTER_ADDR": "here", "MASTER_PORT": "1234"}) == ("here", 1234)
    assert rendezvous_address("tcp://[::1]:1234", TORCHRUN) == ("::1", 1234)


@pytest.mark.parametrize(
    "url", ["tcp://host", "tcp://:9", "tcp://a:0", "tcp://a:70000", "tcp://a:x", "http://a:9", "env", "", "tcp://[a:1"]
)
def test_a_url_that_is_no_rendezvous(url: str) -> None:
    with pytest.raises(ValueError, match="--dist_url '.* must be env://, tcp://<host of rank 0>:<port>"):
        rendezvous_address(url, TORCHRUN)


@pytest.mark.parametrize("port", ["x", "0", "-1", "65536", "29500.0", "1e3"])
def test_a_port_that_is_none(port: str) -> None:
    with pytest.raises(ValueError, match=f"MASTER_PORT={port} must be a whole number from 1 to 65535"):
        rendezvous_address(environment={**TORCHRUN, "MASTER_PORT": port})


def test_an_address_that_nobody_set() -> None:
    with pytest.raises(ValueError, match="RANK and WORLD_SIZE are set, but MASTER_ADDR, .* is not: start with torchrun"):
        rendezvous_address(environment={"RANK": "0", "WORLD_SIZE": "2"})


def test_a_world_size_that_nobody_started(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"--world_size 2, but there are 1 processes: .*torchrun --nproc_per_node=N main.py"):
        main.main(tiny_flags("--world_size", 2))


def test_torchrun_reads_the_message(tmp_path: Path) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    report_to_torchrun("main.py: error: rank 1: it broke", {"TORCHELASTIC_ERROR_FILE": os.fspath(tmp_path / "error.json")})
    failure = ProcessFailure(local_rank=1, pid=1, exitcode=2, error_file=os.fspath(tmp_path / "error.json"))
    assert failure.message == "main.py: error: rank 1: it broke" and failure.timestamp > 0
    report_to_torchrun("it broke", {"TORCHELASTIC_ERROR_FILE": os.fspath(tmp_path / "none" / "error.json")})
    report_to_torchrun("it broke", {})
    assert json.loads((tmp_path / "error.json").read_text()).keys() == {"message", "timestamp"}


@pytest.mark.parametrize("debug", ["", "1"])
def test_torchrun_gets_the_traceback_of_an_error_that_is_not_foreseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debug: str
) -> None:
    def broken(args: object) -> None:
        raise KeyError("a fault of the program")

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setenv("ICN_DEBUG", debug)
    with pytest.raises(KeyError):
        launch(broken, Parser("main.py"), [])
    message = json.loads((tmp_path / "error.json").read_text())["message"]
    assert message.startswith("Traceback") and message.rstrip().endswith("KeyError: 'a fault of the program'")
