"""A SLURM of one node: own ports, own folder, fake GPUs; started without systemd, stopped by its pid files."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

CONFIG = """
ClusterName=icn
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
KillWait=5
InactiveLimit=0
GresTypes=gpu
SlurmctldPort={port}
SlurmdPort={port_of_node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{parameters}
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 Gres=gpu:2
PartitionName=main Nodes={host} Default=YES OverSubscribe=FORCE:4 PreemptMode=OFF
PartitionName=low Nodes={host} PriorityTier=1 GraceTime=60
PartitionName=high Nodes={host} PriorityTier=10
"""
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "mungekey")


def missing() -> str:
    """Why there can be no cluster here; nothing if there can."""
    absent = [name for name in PROGRAMS if program(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "slurmd needs root"


def program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


class Cluster:
    """Runs from `start()` to `stop()`; everything that it makes is in `folder`, and commands find it by SLURM_CONF.

    Args:
        folder: new; a path of at most 80 characters, for the socket in it.
        user_signal: preempted jobs get the signal that they asked for, not SIGTERM alone.
    """

    def __init__(self, folder: Path, user_signal: bool = True) -> None:
        self.folder, self.user_signal = folder, user_signal
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        for name in ("state", "spool", "munge"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        self._start_munge()
        for index in range(2):
            os.mknod(self.folder / f"gpu{index}", 0o666 | 0o020000, os.makedev(1, 3))  # as /dev/null
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-1]\n")
        port, port_of_node = _free_ports(2)
        parameters = "SlurmctldParameters=preempt_send_user_signal" if self.user_signal else ""
        host = socket.gethostname().split(".")[0]
        values = {"host": host, "folder": self.folder, "port": port, "port_of_node": port_of_node, "parameters": parameters}
        (self.folder / "slurm.conf").write_text(CONFIG.format(**values))
        for name in ("slurmctld", "slurmd"):
            self._run(name, "-f", str(self.folder / "slurm.conf"))
        deadline = time.monotonic() + 60
        while "idle" not in self.command("sinfo", "-h", "-o", "%T", "-p", "main", check=False):
            if time.monotonic() > deadline:
                logs = [(self.folder / f"{name}.log") for name in ("slurmctld", "slurmd")]
                raise RuntimeError("SLURM does not start:\n" + "".join(log.read_text()[-2000:] for log in logs if log.exists()))
            time.sleep(0.2)

    def command(self, name: str, *words: str, check: bool = True) -> str:
        """What a client command prints."""
        done = subprocess.run(
            [program(name) or name, *words], env={**os.environ, **self.environment}, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{name} {' '.join(words)}: {done.stderr}")
        return done.stdout

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, ..., as the controller remembers it; nothing if it does not."""
        found = [
            word for word in self.command("scontrol", "show", "job", job, check=False).split() if word.startswith("JobState=")
        ]
        return found[0].partition("=")[2] if found else ""

    def stop(self) -> None:
        self.command("scancel", "--full", "--signal=KILL", "--user=root", check=False)
        self.command("scancel", "--user=root", check=False)
        for name in ("slurmd.pid", "slurmctld.pid", "munge/munged.pid"):
            _end(self.folder / name)

    def _start_munge(self) -> None:
        """A munged of its own, beside the one that the machine may have."""
        munge = self.folder / "munge"
        self._run("mungekey", "--create", f"--keyfile={munge}/key")
        files = {
            "key-file": "key",
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "log-file": "munged.log",
            "seed-file": "seed",
        }
        self._run("munged", "--force", *(f"--{option}={munge / name}" for option, name in files.items()))

    def _run(self, name: str, *words: str) -> None:
        environment = {**os.environ, **self.environment}
        done = subprocess.run([program(name) or name, *words], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} ends with {done.returncode}: {done.stderr or done.stdout}")


def _end(file: Path) -> None:
    """SIGTERM, and if that is not enough SIGKILL, to the process whose number is in the file."""
    try:
        number = int(file.read_text())
    except (OSError, ValueError):
        return
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(50):
            try:
                os.kill(number, kind)
            except ProcessLookupError:
                return
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
