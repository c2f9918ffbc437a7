"""Run main.py as a submitit job: `python run_with_submitit.py --cluster local ...` and any flag of main.py."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

import main as icn
from run import output_folder
from util.cli import Parser, launch

ROOT = Path(__file__).resolve().parent


def get_args_parser() -> argparse.ArgumentParser:
    """main.py's flags and those of the job."""
    parser = Parser("run_with_submitit.py", parents=[icn.get_args_parser()], description=__doc__)
    group = parser.add_argument_group("job")
    group.add_argument("--cluster", default="local", choices=["local", "debug"], help="a process of its own, or this one")
    group.add_argument("--job_dir", default="", help="logs and result of the job; '': <results>/jobs")
    group.add_argument("--timeout", default=1440, type=int, help="minutes after which the job is ended")
    return parser


def submit(args: argparse.Namespace) -> submitit.Job[dict[str, Any]]:
    """Hand `main(args)` to submitit.

    Raises:
        ValueError: flags that main would refuse, before anything is submitted.
    """
    icn.check_flags(args)
    if args.timeout < 1:
        raise ValueError(f"--timeout {args.timeout} must be at least 1 minute")
    if not args.job_dir and not args.output_dir:
        raise ValueError("--output_dir '' writes nothing: give --job_dir, a job needs a folder for its logs and its result")
    folder = Path(args.job_dir) if args.job_dir else output_folder(args) / "jobs"
    # The job starts where this process stands, and must find the same modules from there.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    executor = submitit.AutoExecutor(folder=folder, cluster=args.cluster)
    executor.update_parameters(name="icn", timeout_min=args.timeout)
    return executor.submit(icn.main, args)


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Submit, say where to look, wait, and return what main returned.

    Raises:
        ValueError: what main says a user can mend.
        SystemExit: the job failed otherwise; exit code 1.
    """
    job = submit(args)
    print(f"job {job.job_id}; follow it with: tail -f {job.paths.stdout} {job.paths.stderr}", flush=True)
    try:
        result = job.result()
    except (FailedJobError, UncompletedJobError) as error:
        # The message holds the job's traceback, and advice behind it.
        raised = [
            line
            for line in str(error).splitlines()
            if re.match(r"[A-Za-z_.]+(Error|Exception|Exit|Interrupt|Failed|Stopped)\b", line)
        ]
        reason = raised[-1] if raised else str(error).strip().splitlines()[0]
        if reason.startswith("ValueError: "):
            raise ValueError(reason.removeprefix("ValueError: ")) from None
        raise SystemExit(f"run_with_submitit.py: error: job {job.job_id} failed: {reason} (see {job.paths.stderr})") from None
    print(f"job {job.job_id} is done: {result}")
    return result


if __name__ == "__main__":
    launch(main, get_args_parser())
