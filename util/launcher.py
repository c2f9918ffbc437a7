"""Rank and number of processes, read from the environment that torchrun, srun or submitit sets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

PORTS = range(15000, 30000)  # below the ephemeral ports that the system assigns


class ProcessInfo(NamedTuple):
    """Rank of a process among `size` processes, and its rank on its machine; by default a single process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def read_launcher_env(environment: Mapping[str, str] = os.environ) -> ProcessInfo:
    """Return rank and number of processes from the launcher's variables; ValueError if they contradict each other.

    In a SLURM allocation without srun there is a single process, whatever the number of tasks of the allocation.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        if environment.get("SUBMITIT_EXECUTOR") == "local":
            names = ("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID")
        elif "SLURM_STEP_NUM_TASKS" in environment:
            names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    try:
        rank, size, local_rank = (int(environment.get(name) or default) for name, default in zip(names, (0, 1, 0), strict=True))
        if not (0 <= rank < size and 0 <= local_rank < size):
            raise ValueError
    except ValueError:
        values = ", ".join(f"{name}={environment.get(name)}" for name in names)
        raise ValueError(f"the variables of the launcher are inconsistent: {values}") from None
    return ProcessInfo(rank, size, local_rank) if size > 1 else ProcessInfo()


def rendezvous_url(environment: Mapping[str, str] = os.environ) -> str:
    """Return the rendezvous address: `env://` where all of torchrun's variables are set, else `tcp://<host of rank 0>:<port>`.

    The port is MASTER_PORT, else a hash of the job's id, so that two jobs on one machine use different ones.
    """
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        return "env://"
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    first = re.sub(r"\[([^],-]+)[^]]*\]", r"\1", nodes).split(",")[0]  # gpu[01-04,7],login -> gpu01
    one_machine = not first or environment.get("SUBMITIT_EXECUTOR") == "local" or environment.get("SLURM_STEP_NUM_NODES") == "1"
    names = ("SUBMITIT_LOCAL_JOB_ID", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    job = "/".join(environment.get(name, "") for name in names)
    number = int.from_bytes(blake2b(job.encode(), digest_size=8).digest(), "little")
    address = environment.get("MASTER_ADDR") or ("127.0.0.1" if one_machine else first)
    return f"tcp://{address}:{environment.get('MASTER_PORT') or PORTS[number % len(PORTS)]}"
