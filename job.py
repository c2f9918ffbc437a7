"""main or a tool as a job of submitit: what is pickled, how it goes on where it stood, what it does when it is to make way."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import submitit

import main as icn
from run import output_folder
from util.launcher import read_launcher_env
from util.stopping import Stopped

TOOLS = ("main", "evaluate_attribution")


def program(tool: str) -> ModuleType:
    """The module of one of `TOOLS`: it has `get_args_parser`, `check_flags` and `main`."""
    return icn if tool == "main" else importlib.import_module(f"tools.{tool}")


def results_of(args: argparse.Namespace) -> Path:
    """The folder that `args.tool` writes to."""
    return output_folder(args) if args.tool == "main" else Path(args.output_dir)


class Job:
    """Calls `main` of a program with plain flags; started once more, it goes on from what is in its folder.

    Preemption and time limit (SIGUSR2) lead to the same place as SIGTERM: all that is done is saved, in every process. After
    SIGUSR2 the job then asks for its next turn itself. After SIGTERM alone it does so if it is still running for SLURM, which
    is how a site preempts that sends no other signal; a job that was cancelled or queued again by hand is not, and just ends.

    Args:
        args: the flags of `args.tool`.
        visible: CUDA_VISIBLE_DEVICES where submitit would overwrite it; None leaves it.
    """

    def __init__(self, args: argparse.Namespace, visible: str | None = None) -> None:
        self.flags, self.visible = dict(vars(args)), visible

    def __call__(self) -> dict[str, Any]:
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's: it pickles what `checkpoint` returns, and calls scontrol
        if self.visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible
        if "SUBMITIT_FOLDER" in os.environ:  # what an earlier turn failed with is no result
            submitit.JobEnvironment().paths.result_pickle.unlink(missing_ok=True)
        args = argparse.Namespace(**self.flags)
        if args.tool == "main" and not args.eval and args.output_dir and any(output_folder(args).glob("checkpoint*.pth")):
            args.resume = "auto"
        try:
            result = program(args.tool).main(args)
            if args.tool != "main":  # its files say all
                result = {"results": args.output_dir}
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a notice to a process that is on its way out would make it a failure
            return result
        except Stopped as stop:
            place = read_launcher_env()
            if place.rank == 0:
                print(stop, file=sys.stderr, flush=True)
            if place.rank > 0:
                raise SystemExit(0) from None  # any other code would end the process that is calling scontrol
            if callable(requeue) and (stop.signal_name == "SIGUSR2" or is_running()):
                requeue(signal.SIGUSR2, None)
            raise SystemExit(stop.exit_code) from None

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What is called in the next turn: the same; all else is in the checkpoint."""
        return submitit.helpers.DelayedSubmission(self)


def is_running() -> bool:
    """Whether this is a job of SLURM that nobody has cancelled, ended or queued again."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return False
    command = ["scontrol", "show", "job", submitit.JobEnvironment().job_id]
    return "JobState=RUNNING" in subprocess.run(command, capture_output=True, text=True, check=False).stdout
