"""Run main.py or a tool as a submitit job: `python run_with_submitit.py --cluster slurm --ngpus 8 ...` and its flags."""

# ruff: noqa: E402

from __future__ import annotations

from util.startup import start

if __name__ == "__main__":
    start()

import contextlib
import importlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

import main as icn
from flags import compared_flags, output_folder
from models.loading import read_checkpoint
from util.checkpoint import find_checkpoint
from util.cli import Flags, Parser, launch
from util.errors import first_line
from util.launcher import read_launcher_env
from util.number import COUNT, WHOLE, Number
from util.results_folder import expand_job_id, folder_of_checkpoint, is_typed
from util.run_table import run_table
from util.stopping import Stopped
from util.sweep import expand_runs

ROOT = Path(__file__).resolve().parent
TOOLS = ("main", "evaluate_attribution")
TOOL_FLAG: dict[str, Any] = {"default": "main", "choices": TOOLS, "help": "program, with its own flags; main: training, --eval"}
SITE_FLAGS = ("partition", "account", "qos", "constraint")


def program(tool: str) -> ModuleType:
    """Return the module of one of `TOOLS`: it has `get_args_parser`, `check_flags` and `main`."""
    return icn if tool == "main" else importlib.import_module(f"tools.{tool}")


class Job:
    """Calls `main` of the program `args.tool`; started again, it resumes from what is in its folder.

    Preemption and time limit (SIGUSR2) are handled as SIGTERM is: all that is done is saved, in every process. After SIGUSR2 the
    job then requeues itself. After SIGTERM alone it does so if SLURM still lists it as running, which is how a site preempts that
    sends no other signal; a job that was cancelled or requeued by hand is not, and just ends.
    """

    def __init__(self, args: Flags, visible: str | None) -> None:
        self.flags, self.visible = dict(vars(args)), visible  # CUDA_VISIBLE_DEVICES where submitit would overwrite it, or None

    def __call__(self) -> dict[str, Any]:
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's: it pickles what `checkpoint` returns, and calls scontrol
        if self.visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible
        if "SUBMITIT_FOLDER" in os.environ:  # an error of an earlier start is no result
            submitit.JobEnvironment().paths.result_pickle.unlink(missing_ok=True)
        args = expand_job_id(Flags(**self.flags))
        if args.tool == "main" and not args.eval and args.output_dir and any(output_folder(args).glob("checkpoint*.pth")):
            args = args.replace(resume="auto")
        try:
            result = program(args.tool).main(args)
            if args.tool != "main":  # its results are files
                result = {"results": str(results_root(args))}
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a signal to a process that is ending would make it a failure
            return result
        except Stopped as stop:
            if read_launcher_env().rank > 0:
                raise SystemExit(0) from None  # any other code would end the process that is calling scontrol
            print(stop, file=sys.stderr, flush=True)
            if callable(requeue) and (stop.signal_name == "SIGUSR2" or is_running()):
                requeue(signal.SIGUSR2, None)
            raise SystemExit(stop.exit_code) from None

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what submitit calls after a requeue: the same job; its state is in the run's checkpoint."""
        return submitit.helpers.DelayedSubmission(self)


def is_running() -> bool:
    """Return whether this is a job of SLURM that was not cancelled, ended or requeued by somebody else."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return False
    command = ["scontrol", "show", "job", submitit.JobEnvironment().job_id]
    return "JobState=RUNNING" in subprocess.run(command, capture_output=True, text=True).stdout


def get_args_parser(tool: str = "main") -> Parser:
    """Build the parser of main.py's or a tool's flags, and those of the job."""
    flags = program(tool).get_args_parser(**({} if tool == "main" else {"add_help": False}))
    parser = Parser("run_with_submitit.py", parents=[flags], description=__doc__)
    group = parser.add_argument_group("job")
    group.add_argument("--tool", **TOOL_FLAG)
    help_text = "SLURM, processes of this machine, or this process"
    group.add_argument("--cluster", default="local", choices=["slurm", "local", "debug"], help=help_text)
    group.add_argument("--nodes", default=1, type=COUNT, help="machines")
    group.add_argument("--ngpus", default=1, type=COUNT, help="GPUs per machine, a process each; with --device cpu: processes")
    group.add_argument("--cpus_per_task", type=COUNT, help="CPU cores per process; None: the cluster's default")
    group.add_argument("--mem_gb", type=Number(float, above=True), help="memory per machine; None: the cluster's default")
    group.add_argument("--timeout", default=1440, type=COUNT, help="minutes after which the job saves, and requeues")
    group.add_argument("--max_timeouts", default=20, type=WHOLE, help="how often it requeues after a time limit")
    for name in SITE_FLAGS:
        group.add_argument(f"--{name}", help=f"SLURM's --{name}; None: the cluster's default")
    group.add_argument("--job_dir", default="", help="logs and result of the job; '': <results>/jobs")
    group.add_argument("--seeds", default="", help="one run per seed, as 0-4 or 0,3,7: <output_sub_dir>_seed<n>; one submission")
    group.add_argument("--recipes", nargs="+", default=[], metavar="FILE", help="one run per file of flags, and per seed")
    group.add_argument("--wait", action="store_true", help="wait for a SLURM job's end, too, and print its result")
    return parser


def tool_of(argv: Sequence[str]) -> str:
    """Return the program whose flags are on a command line."""
    parser = Parser("run_with_submitit.py", add_help=False)
    parser.add_argument("--tool", **TOOL_FLAG)
    return parser.parse_known_args(argv)[0].tool


def prepare(args: Flags) -> list[Job]:
    """Return the jobs: main, once per recipe and seed, or a tool. ValueError for what the program would refuse."""
    if args.cluster != "slurm" and args.nodes > 1:
        raise ValueError(f"--nodes {args.nodes} needs --cluster slurm: --cluster {args.cluster} is one machine")
    if args.cluster == "debug" and args.ngpus > 1:
        raise ValueError(f"--ngpus {args.ngpus}: --cluster debug is one process; --cluster local starts several")
    if not args.job_dir and not args.output_dir:
        raise ValueError("--output_dir '' writes nothing: give --job_dir, a job needs a folder for its logs and its result")
    if (args.seeds or args.recipes) and "%j" in args.output_dir + getattr(args, "output_sub_dir", ""):  # a tool has none
        raise ValueError("--seeds and --recipes give each run a folder of its own: leave %j out of --output_dir")
    runs = expand_runs(args, icn.get_args_parser)
    for run in runs:
        program(args.tool).check_flags(run)
        if args.tool == "main" and run.output_dir and not run.eval:
            find_checkpoint(run.resume, output_folder(run), read_checkpoint)  # refuses to overwrite another run
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if args.cluster == "local" else None
    if args.cluster == "local" and visible is None and args.device != "cpu":
        visible = ",".join(map(str, range(args.ngpus)))
    return [Job(run, visible) for run in runs]


def submit(executor: submitit.AutoExecutor, jobs: list[Job]) -> list[submitit.Job[dict[str, Any]]]:
    """Submit all jobs at once. ValueError, in the cluster's words, where it refuses."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # submitit repeats what sbatch says
            return [executor.submit(job) for job in jobs]
    except (FailedJobError, FailedSubmissionError) as error:
        lines = re.findall(r"sbatch: error: (.+)", str(error)) or [first_line(error)]
        raise ValueError(f"the cluster refuses the job: {'; '.join(lines)}") from None


def results_root(args: Flags) -> Path:
    """Return the folder of a run, or the one below which the results of its checkpoint are."""
    if is_typed(args) or (args.tool == "main" and not args.eval):
        return output_folder(args) if args.tool == "main" else Path(args.output_dir)
    return folder_of_checkpoint(args)


def make_executor(args: Flags) -> submitit.AutoExecutor:
    """Build submitit's executor; nothing in its settings is specific to a site."""
    folder = Path(args.job_dir) if args.job_dir else results_root(args) / "jobs"
    # The job starts in the current folder, and must find the same modules from there.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    limits = {} if args.cluster == "debug" else {f"{args.cluster}_max_num_timeout": args.max_timeouts}
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=args.cluster, **limits)
    except RuntimeError as error:
        raise ValueError(f"--cluster {args.cluster}: {error}") from None
    executor.update_parameters(
        name="icn",
        timeout_min=args.timeout,
        nodes=args.nodes,
        tasks_per_node=args.ngpus,
        gpus_per_node=None if args.device == "cpu" else args.ngpus,
        cpus_per_task=args.cpus_per_task,
        mem_gb=args.mem_gb,
        **{f"slurm_{name}": getattr(args, name) for name in SITE_FLAGS},
        slurm_signal_delay_s=min(120, 30 * args.timeout),  # seconds to reach the end of a step and to save
        slurm_srun_args=["--kill-on-bad-exit=1"],
        slurm_additional_parameters={"requeue": True},
    )
    return executor


def announce(args: Flags, jobs: list[submitit.Job[Any]]) -> None:
    """Print where the logs are, and how to cancel and resume."""
    ids = " ".join(job.job_id for job in jobs)
    slurm, processes = args.cluster == "slurm", args.nodes * args.ngpus
    print(f"job {ids}: {processes} process{'es' * (processes > 1)}{' each' * (len(jobs) > 1)}, in {jobs[0].paths.folder}")
    print(f"  follow: tail -F {' '.join(str(job.paths.stdout).replace('%t', '0') for job in jobs)}")
    if args.cluster != "debug":
        print(f"  cancel: {'scancel' if slurm else 'kill'} {ids}")
    if args.tool != "main" or not args.eval:
        again = f"scontrol requeue {ids.replace(' ', ',')}, or " if slurm else ""
        print(f"  resume: {again}the same command{' with --resume auto' * (args.tool == 'main')}", flush=True)


def wait(job: submitit.Job[dict[str, Any]], cluster: str) -> dict[str, Any]:
    """Wait for a job; return the result of its first process.

    Raises:
        ValueError: an error of the program that the user can fix.
        SystemExit: the job failed otherwise, or ended without a result; exit code 1.
    """
    tasks = [job.task(index) for index in range(job.num_tasks)]
    while not (all(task.paths.result_pickle.exists() for task in tasks) or has_ended(job, cluster)):
        time.sleep(1)
    reasons, results = [], []
    for task in tasks:
        try:
            if cluster == "debug" or task.paths.result_pickle.exists():
                results.append(task.result())
        except (FailedJobError, UncompletedJobError) as error:
            reasons.append(_reason(str(error)))
    if not reasons and len(results) == len(tasks):
        return results[0]
    # The error of a process that lost another one says less than that other's.
    reasons.sort(key=lambda reason: "another process" in reason)
    reason = reasons[0] if reasons else "it ended without a result (killed, cancelled or stopped)"
    if reason.startswith("ValueError: "):
        raise ValueError(reason.removeprefix("ValueError: "))
    raise SystemExit(f"run_with_submitit.py: error: job {job.job_id} failed: {reason} (see {tasks[0].paths.stderr})")


def has_ended(job: submitit.Job[Any], cluster: str) -> bool:
    """Return whether a job is over. Not every SLURM keeps accounts: what is not in its queue is over."""
    if cluster != "slurm":
        return job.done()
    time.sleep(2)
    queue = subprocess.run(["squeue", "-h", "-j", job.job_id, "-o", "%T"], capture_output=True, text=True)
    return not queue.stdout.strip() if queue.returncode == 0 else "Invalid job id" in queue.stderr


def _reason(message: str) -> str:
    """Return the exception in submitit's message, which holds the job's traceback and advice after it."""
    kinds = r"[A-Za-z_.]+(Error|Exception|Exit|Interrupt|Failed|Stopped)\b"
    raised = [line for line in message.splitlines() if re.match(kinds, line)]
    return raised[-1] if raised else first_line(message)


def main(args: Flags) -> dict[str, Any] | None:
    """Submit the jobs, print where their logs are, and wait (on SLURM with --wait); return the last job's result."""
    jobs, executor = prepare(args), make_executor(args)
    folders = [output_folder(Flags(**job.flags)) for job in jobs] if args.seeds or args.recipes else []
    if folders:
        print(f"the table of all runs: python -m tools.collect {' '.join(map(str, folders))}", flush=True)
    result = None
    # A cluster runs all jobs at once; this machine one after the other.
    for turn in [jobs] if args.cluster == "slurm" else [[job] for job in jobs]:
        submitted = submit(executor, turn)
        announce(args, submitted)
        if args.cluster == "slurm" and not args.wait:
            return None
        for job in submitted:
            result = wait(job, args.cluster)
            print(f"job {job.job_id} is done: {result}", flush=True)
    if folders and not args.eval:
        print(run_table(folders, compared_flags()))
    return result


if __name__ == "__main__":
    import run_with_submitit  # pickled jobs name this module, not __main__

    launch(run_with_submitit.main, get_args_parser(tool_of(sys.argv[1:])))
