"""Rank and number of processes, read from the environment that torchrun, srun or submitit sets."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import urlsplit

PORTS = range(15000, 30000)  # below the ephemeral ports that the system assigns
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
SUBMITIT = ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID")
# Rank and number of processes of launchers whose processes could not connect to each other here ('': it sets no number).
OTHER_LAUNCHERS = {
    "mpirun (Open MPI)": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "mpirun (PMI)": ("PMI_RANK", "PMI_SIZE"),
    "mpirun (PMIx)": ("PMIX_RANK", ""),
    "mpirun (Hydra)": ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "mpirun (MVAPICH2)": ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    "mpirun (MVAPICH)": ("MVP_COMM_WORLD_RANK", "MVP_COMM_WORLD_SIZE"),
    "mpiexec (PALS)": ("PALS_RANKID", "PALS_SIZE"),
    "aprun": ("ALPS_APP_PE", ""),
    "jsrun": ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
    "flux run": ("FLUX_TASK_RANK", "FLUX_JOB_SIZE"),
    "horovodrun": ("HOROVOD_RANK", "HOROVOD_SIZE"),
    "pbsdsh": ("PBS_VNODENUM", ""),
}
START = "start with torchrun --nproc_per_node=N (several machines: srun, or torchrun on each)"


class ProcessInfo(NamedTuple):
    """Rank of a process among `size` processes, and its rank on its machine; by default a single process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def read_launcher_env(environment: Mapping[str, str] = os.environ) -> ProcessInfo:
    """Return rank and number of processes from the launcher's variables.

    In a SLURM allocation without srun there is a single process, whatever the number of tasks of the allocation.

    Raises:
        ValueError: they contradict each other, one is missing, or they are those of a launcher in `OTHER_LAUNCHERS`.
    """
    given = [name for name in TORCHRUN[:2] if environment.get(name)]
    process = _read(environment, TORCHRUN) if given else ProcessInfo()
    if len(given) == 2:
        return process
    if process.size > 1:
        raise ValueError(f"WORLD_SIZE={process.size} is set, but RANK is not: {START}, or unset WORLD_SIZE for a single process")
    if environment.get("SUBMITIT_EXECUTOR") == "local":
        return _read(environment, SUBMITIT)
    process = _read(environment, SRUN) if "SLURM_STEP_NUM_TASKS" in environment else process
    for launcher, names in OTHER_LAUNCHERS.items():
        numbers = [environment.get(name, "") for name in names]
        others = [number.isdigit() and int(number) > bound for number, bound in zip(numbers, (0, 1), strict=True)]
        # srun sets the variables of PMI, too; with other numbers they are those of an mpirun that srun started.
        of_srun = all(number in ("", str(own)) for number, own in zip(numbers, process, strict=False))
        if any(others) and not of_srun:
            values = ", ".join(f"{name}={number}" for name, number in zip(names, numbers, strict=True) if number)
            raise ValueError(f"processes started by {launcher} ({values}) would each do the whole run: {START}")
    return process


def _read(environment: Mapping[str, str], names: tuple[str, str, str]) -> ProcessInfo:
    texts = [environment.get(name, default).strip() for name, default in zip(names, "010", strict=True)]
    numbers = [int(text) if re.fullmatch("[0-9]{1,5}", text) else -1 for text in texts]
    rank, size, local_rank = numbers
    if not (0 <= rank < size and 0 <= local_rank < size):
        values = ", ".join(f"{name}={environment.get(name)}" for name in names)
        allowed = f"whole numbers, {names[0]} and {names[2]} from 0 to {names[1]} - 1 (at most 99998)"
        raise ValueError(f"the variables of the launcher are inconsistent: {values}; they must be {allowed}")
    return ProcessInfo(*numbers) if size > 1 else ProcessInfo()


def rendezvous_address(url: str = "env://", environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Return the host of rank 0 and its port, from `tcp://<host>:<port>` or, for `env://`, from the launcher's variables.

    Where no MASTER_PORT is set, the port is a hash of the job's id, so that two jobs on one machine use different ones.

    Raises:
        ValueError: there is no host, or no such port.
    """
    if url != "env://":
        try:
            parts = urlsplit(url)
            if parts.scheme != "tcp" or not parts.hostname or not parts.port:
                raise ValueError
            return parts.hostname, parts.port
        except ValueError:
            allowed = "env://, tcp://<host of rank 0>:<port> (1 to 65535) or file:///<a new file>"
            raise ValueError(f"--dist_url {url!r} must be {allowed}") from None
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    first = re.sub(r"\[([^],-]+)[^]]*\]", r"\1", nodes).split(",")[0]  # gpu[01-04,7],login -> gpu01
    is_local = environment.get("SUBMITIT_EXECUTOR") == "local"
    one_machine = is_local or environment.get("SLURM_STEP_NUM_NODES") == "1"
    host = environment.get("MASTER_ADDR") or ("127.0.0.1" if one_machine else first)
    if not host:
        raise ValueError(f"RANK and WORLD_SIZE are set, but MASTER_ADDR, the address of rank 0, is not: {START}")
    names = ("SUBMITIT_LOCAL_JOB_ID", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    job = "/".join(environment.get(name, "") for name in names)
    number = int.from_bytes(blake2b(job.encode(), digest_size=8).digest(), "little")
    port = environment.get("MASTER_PORT") or str(PORTS[number % len(PORTS)])
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise ValueError(f"MASTER_PORT={port} must be a whole number from 1 to 65535, the same for all processes")
    return host, int(port)


def report_to_torchrun(message: str, environment: Mapping[str, str] = os.environ) -> None:
    """Leave the message of a process that fails where torchrun, which started it, reads and prints it."""
    if path := environment.get("TORCHELASTIC_ERROR_FILE"):
        try:
            with open(path, "w") as file:
                json.dump({"message": message, "timestamp": str(int(time.time()))}, file)
        except OSError:  # the line is on stderr, too
            return
