"""Run main.py or a tool as a submitit job: `python run_with_submitit.py --cluster slurm --ngpus 8 ...` and its flags."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

from job import TOOLS, Job, program, results_of
from run import find_checkpoint, output_folder
from util.cli import Parser, launch, parse
from util.run_table import run_table

ROOT = Path(__file__).resolve().parent


def get_args_parser(tool: str = "main") -> argparse.ArgumentParser:
    """The flags of main.py or of a tool, and those of the job."""
    flags = program(tool).get_args_parser(**({} if tool == "main" else {"add_help": False}))
    parser = Parser("run_with_submitit.py", parents=[flags], description=__doc__)
    group = parser.add_argument_group("job")
    add_tool(group)
    group.add_argument(
        "--cluster",
        default="local",
        choices=["slurm", "local", "debug"],
        help="SLURM, processes of this machine, or this process",
    )
    group.add_argument("--nodes", default=1, type=int, help="machines")
    group.add_argument("--ngpus", default=1, type=int, help="GPUs per machine, a process each; with --device cpu: processes")
    group.add_argument("--cpus_per_task", type=int, help="CPU cores per process; None: as the cluster gives")
    group.add_argument("--mem_gb", type=float, help="memory per machine; None: as the cluster gives")
    group.add_argument("--timeout", default=1440, type=int, help="minutes after which the job saves, and queues again")
    group.add_argument("--max_timeouts", default=20, type=int, help="how often it queues again after a time limit")
    for name in ("partition", "account", "qos", "constraint"):
        group.add_argument(f"--{name}", help=f"SLURM's --{name}; None: as the cluster gives")
    group.add_argument("--job_dir", default="", help="logs and result of the job; '': <results>/jobs")
    group.add_argument("--seeds", default="", help="one run per seed, as 0-4 or 0,3,7: <output_sub_dir>_seed<n>; one submission")
    group.add_argument("--recipes", nargs="+", default=[], metavar="FILE", help="one run per file of flags, and per seed")
    group.add_argument("--wait", action="store_true", help="wait for a SLURM job's end, too, and print its result")
    return parser


def add_tool(parser: Any) -> None:
    parser.add_argument("--tool", default="main", choices=TOOLS, help="what is run, with its own flags; main: training, --eval")


def tool_of(argv: Sequence[str]) -> str:
    """Whose flags stand on the command line."""
    parser = Parser("run_with_submitit.py", add_help=False)
    add_tool(parser)
    return parser.parse_known_args(argv)[0].tool


def prepare(args: argparse.Namespace) -> list[Job]:
    """What is to be run: main, once per recipe and seed, or a tool.

    Raises:
        ValueError: flags that the program would refuse, and a folder in which another run is.
    """
    runs = runs_of(args)
    for run in runs:
        program(args.tool).check_flags(run)
    for name in ("timeout", "nodes", "ngpus"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)} must be at least 1")
    if args.cluster != "slurm" and args.nodes > 1:
        raise ValueError(f"--nodes {args.nodes} needs --cluster slurm: --cluster {args.cluster} is one machine")
    if args.cluster == "debug" and args.ngpus > 1:
        raise ValueError(f"--ngpus {args.ngpus}: --cluster debug is one process; --cluster local starts several")
    if not args.job_dir and not args.output_dir:
        raise ValueError("--output_dir '' writes nothing: give --job_dir, a job needs a folder for its logs and its result")
    for run in runs:
        if args.tool == "main" and run.output_dir and not run.eval:
            find_checkpoint(copy.deepcopy(run), output_folder(run))  # refuses to write over another run
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if args.cluster == "local" else None
    if args.cluster == "local" and visible is None and args.device != "cpu":
        visible = ",".join(map(str, range(args.ngpus)))
    return [Job(run, visible) for run in runs]


def submit(executor: submitit.AutoExecutor, works: list[Job]) -> list[submitit.Job[dict[str, Any]]]:
    """Hand all of it to the cluster at once; ValueError with the cluster's own words where it refuses."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # submitit repeats what sbatch says
            return [executor.submit(work) for work in works]
    except (FailedJobError, FailedSubmissionError) as error:
        lines = re.findall(r"sbatch: error: (.+)", str(error)) or str(error).strip().splitlines()[:1]
        raise ValueError(f"the cluster refuses the job: {'; '.join(lines)}") from None


def make_executor(args: argparse.Namespace) -> submitit.AutoExecutor:
    """What submitit is told; nothing in it is of one site."""
    folder = Path(args.job_dir) if args.job_dir else results_of(args) / "jobs"
    # The job starts where this process stands, and must find the same modules from there.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
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
        slurm_partition=args.partition,
        slurm_account=args.account,
        slurm_qos=args.qos,
        slurm_constraint=args.constraint,
        slurm_signal_delay_s=min(120, 30 * args.timeout),  # seconds to reach the end of a step and to save
        slurm_srun_args=["--kill-on-bad-exit=1"],
        slurm_additional_parameters={"requeue": True},
    )
    return executor


def runs_of(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The flags of every run: each recipe with each seed, in a folder of its own; `args` where neither is asked for.

    Raises:
        ValueError: flags that do not go together, a recipe that is none, two of one name.
    """
    if not (args.seeds or args.recipes):
        return [args]
    if args.tool != "main" or (args.eval and args.recipes):
        what, other = "--recipes" if args.recipes else "--seeds", "--eval" if args.tool == "main" else f"--tool {args.tool}"
        raise ValueError(f"{what} is for trainings: leave it out with {other}")
    names = [Path(file).stem for file in args.recipes]
    if len(set(names)) < len(names):
        raise ValueError(f"--recipes {' '.join(args.recipes)}: two have one name, and so would their folders; rename one")
    runs = []
    for base in [with_recipe(args, file) for file in args.recipes] or [args]:
        for seed in seeds(args.seeds) if args.seeds else [base.seed]:
            run = copy.deepcopy(base)
            run.seed, run.output_sub_dir = seed, f"{base.output_sub_dir}_seed{seed}"
            run.explicit = sorted({*base.explicit, "seed"})
            runs.append(run)
    return runs


class RecipeParser(Parser):
    """main.py's flags in a file; what is wrong with them is a ValueError that names it."""

    def __init__(self, file: str) -> None:
        super().__init__(parents=[program("main").get_args_parser()], add_help=False)
        self.file = file

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"--recipes {self.file}: {message}; give files of main.py's flags, as those in recipes/")


def with_recipe(args: argparse.Namespace, file: str) -> argparse.Namespace:
    """`args` with the flags of a recipe, but for those that were typed; its name is in that of the folder."""
    recipe, run = parse(RecipeParser(file), [f"@{file}"]), copy.deepcopy(args)
    for name in recipe.explicit:
        if name not in args.explicit:
            setattr(run, name, getattr(recipe, name))
    run.explicit = sorted({*args.explicit, *recipe.explicit})
    run.output_sub_dir += f"_{Path(file).stem}"
    return run


def seeds(text: str) -> list[int]:
    """`0-2,7` as `[0, 1, 2, 7]`; ValueError for anything else."""
    numbers: list[int] = []
    for piece in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", piece.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last or last - first > 1000:
            raise ValueError(f"--seeds {text!r} is no list of seeds: give it as 0-4 or 0,3,7")
        numbers += range(first, last + 1)
    return sorted(set(numbers))


def announce(args: argparse.Namespace, jobs: list[submitit.Job[Any]]) -> None:
    """Say where to look, and what to do."""
    folder = jobs[0].paths.folder
    ids = " ".join(job.job_id for job in jobs)
    slurm = args.cluster == "slurm"
    processes = args.nodes * args.ngpus
    print(f"job {ids}: {processes} process{'es' * (processes > 1)}{' each' * (len(jobs) > 1)}, in {folder}")
    print(f"  follow: tail -F {' '.join(str(job.paths.stdout).replace('%t', '0') for job in jobs)}")
    if args.cluster != "debug":
        print(f"  cancel: {'scancel' if slurm else 'kill'} {ids}")
    if args.tool != "main" or not args.eval:
        again = f"scontrol requeue {ids.replace(' ', ',')}, or " if slurm else ""
        print(f"  resume: {again}the same command{' with --resume auto' * (args.tool == 'main')}", flush=True)


def wait(job: submitit.Job[dict[str, Any]], cluster: str) -> dict[str, Any]:
    """The result of the job's first process.

    Raises:
        ValueError: what main says a user can mend.
        SystemExit: the job failed otherwise, or ended without a result; exit code 1.
    """
    tasks = [job.task(index) for index in range(job.num_tasks)]
    while not (all(task.paths.result_pickle.exists() for task in tasks) or ended(job, cluster)):
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
    # A process that lost another one says less than that one.
    reasons.sort(key=lambda reason: "another process" in reason)
    reason = reasons[0] if reasons else "it ended without a result (killed, cancelled or stopped)"
    if reason.startswith("ValueError: "):
        raise ValueError(reason.removeprefix("ValueError: "))
    raise SystemExit(f"run_with_submitit.py: error: job {job.job_id} failed: {reason} (see {tasks[0].paths.stderr})")


def ended(job: submitit.Job[Any], cluster: str) -> bool:
    """Whether there is nothing to wait for. Not every SLURM keeps accounts: what is not in its queue is over."""
    if cluster != "slurm":
        return job.done()
    time.sleep(2)
    queue = subprocess.run(["squeue", "-h", "-j", job.job_id, "-o", "%T"], capture_output=True, text=True)
    return not queue.stdout.strip() if queue.returncode == 0 else "Invalid job id" in queue.stderr


def _reason(message: str) -> str:
    """The exception in submitit's message, which holds the job's traceback, and advice behind it."""
    kinds = r"[A-Za-z_.]+(Error|Exception|Exit|Interrupt|Failed|Stopped)\b"
    raised = [line for line in message.splitlines() if re.match(kinds, line)]
    return raised[-1] if raised else message.strip().splitlines()[0]


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    """Submit, say where to look, and wait (on SLURM with --wait); returns what main returned, of several runs the last.

    Raises:
        ValueError, SystemExit: as `prepare`, `submit` and `wait`.
    """
    works, executor = prepare(args), make_executor(args)
    folders = [output_folder(run) for run in runs_of(args)] if args.seeds or args.recipes else []
    if folders:
        print(f"the table of all of them: python -m tools.collect {' '.join(map(str, folders))}", flush=True)
    result = None
    # A cluster shares itself out among the runs; this machine takes one after the other.
    for turn in [works] if args.cluster == "slurm" else [[work] for work in works]:
        jobs = submit(executor, turn)
        announce(args, jobs)
        if args.cluster == "slurm" and not args.wait:
            return None
        for job in jobs:
            result = wait(job, args.cluster)
            print(f"job {job.job_id} is done: {result}", flush=True)
    if folders and not args.eval:
        print(run_table(folders))
    return result


if __name__ == "__main__":
    launch(main, get_args_parser(tool_of(sys.argv[1:])))
