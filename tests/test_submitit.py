"""Jobs on submitit's local executor: two processes, disturbed in the ways of a cluster. (On SLURM itself: `make test-slurm`.)"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import TINY
from ranks import Launched, until

import main
import run_with_submitit
from tests.tools.test_evaluate_attribution import checkpoint
from util.cli import Flags, parse

ROOT = Path(__file__).resolve().parents[1]
RECIPE = (
    "--backbone test_resnet --square --image_size 48 --feature_stride 16 --batch_size 6 --epochs 2 --lr 1e-3 --lr_backbone 1e-3 "
    "--clip_max_norm 1 --num_workers 0 --dataset_name colours --device cpu"
)
JOB = "--ngpus 2 --cluster local"


def results(out: Path) -> Path:
    return out / "colours" / "output_sub"


def flags(root: Path, out: Path) -> list[str]:
    return [*TINY.split(), *RECIPE.split(), "--dataset_path", str(root), "--output_dir", str(out)]


def words(root: Path, out: Path, *more: object) -> list[str]:
    return [*flags(root, out), *JOB.split(), *map(str, more)]


def start(root: Path, out: Path, *more: object, pause: float = 0.0) -> subprocess.Popen[str]:
    """run_with_submitit.py as a user types it; `pause` makes every step of the job slow."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ICN_TEST_PAUSE": str(pause),
        "PYTHONPATH": str(ROOT / "tests" / "slurm"),
    }
    command = [sys.executable, str(ROOT / "run_with_submitit.py"), *words(root, out, *more)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def tasks(folder: Path) -> dict[int, int]:
    """Process number of each rank of the job in `folder`."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
            if b"submitit.core._submit" in line and os.fsencode(folder) in line:
                variables = (process / "environ").read_text(errors="replace").split("\0")
                rank = next(entry.partition("=")[2] for entry in variables if entry.startswith("SUBMITIT_LOCAL_GLOBALID="))
                found[int(rank)] = int(process.name)
        except (OSError, StopIteration):
            continue
    return found


def logs(out: Path) -> str:
    return "".join(f"--- {file.name}\n{file.read_text()}" for file in sorted((results(out) / "jobs").glob("*_log.*")))


def assert_same_run(one: Path, two: Path) -> None:
    a, b = (torch.load(results(out) / "checkpoint.pth", weights_only=True) for out in (one, two))
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])
    assert (a["step"], a["epoch"], a["best"]) == (b["step"], b["epoch"], b["best"]) and a["step"] == 4
    lines = [[json.loads(line) for line in (results(out) / "log.txt").read_text().splitlines()] for out in (one, two)]
    kept = [[(line["epoch"], line["train_loss"], line["test_loss"]) for line in run] for run in lines]
    assert kept[0] == kept[1] and [line[0] for line in kept[1]] == [0, 1]


def train(argv: list[str]) -> None:
    main.main(parse(main.get_args_parser(), argv))


@pytest.fixture(scope="module")
def whole(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes of the same flags that no cluster started and nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert Launched(2, out / "log", train, flags(colours, out)).end() == [0, 0]
    return out


@pytest.fixture
def disturbed(colours: Path, tmp_path: Path, whole: Path) -> Iterator[Callable[[int, int], tuple[int, str]]]:
    """Sends a signal to a rank after the first step, and tells how the job ended."""
    begun = []

    def disturb(rank: int, number: int) -> tuple[int, str]:
        process = start(colours, tmp_path, "--save_every_steps", 1, pause=1.0)
        begun.append(process)
        until(lambda: (results(tmp_path) / "checkpoint.pth").exists())
        os.kill(tasks(results(tmp_path) / "jobs")[rank], number)
        _, err = process.communicate(timeout=300)
        return process.returncode, err

    yield disturb
    for process in begun:
        process.kill()


def test_notice_of_a_cluster_is_a_pause(tmp_path: Path, whole: Path, disturbed: Callable[[int, int], tuple[int, str]]) -> None:
    """SIGUSR2 to one rank: both save at one step, the first queues the job again, and it goes on there."""
    code, err = disturbed(1, signal.SIGUSR2)
    said = logs(tmp_path)
    assert code == 0, err + said
    assert "stopped after step" in said and "Requeued job" in said and "resuming" in said
    assert_same_run(whole, tmp_path)


def test_a_rank_that_is_killed(
    colours: Path, tmp_path: Path, whole: Path, disturbed: Callable[[int, int], tuple[int, str]]
) -> None:
    code, err = disturbed(1, signal.SIGKILL)
    assert code == 1 and err.count("\n") == 1, err
    assert re.search(
        r"error: job \d+ failed: \S*RunFailed: epoch \d: another process of this run ended .* the last checkpoint is", err
    )
    process = start(colours, tmp_path, "--resume", "auto")
    said, err = process.communicate(timeout=300)
    assert err == "" and process.returncode == 0, err + logs(tmp_path)
    job = re.match(r"job (\d+): 2 processes, in (\S+)\n  follow: tail -F (\S+)\n  cancel: kill \1\n  resume: .*auto\n", said)
    assert job and job[2] == str(results(tmp_path) / "jobs"), said
    assert "2 processes" in Path(job[3]).read_text() and "'epoch': 1" in said
    assert_same_run(whole, tmp_path)


def test_another_run_is_not_written_over(colours: Path, whole: Path) -> None:
    """Before anything is submitted."""
    with pytest.raises(ValueError, match="checkpoint.pth exists already: resume it with --resume auto"):
        run_with_submitit.main(parse(run_with_submitit.get_args_parser(), words(colours, whole)))


@pytest.mark.parametrize(
    "more, message",
    [
        (["--nodes", "2"], "--nodes 2 needs --cluster slurm: --cluster local is one machine"),
        (["--cluster", "debug"], "--ngpus 2: --cluster debug is one process"),
        (["--cluster", "slurm"], '--cluster slurm: Could not detect "srun"'),
    ],
)
def test_jobs_that_cannot_be(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], message: str
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=message):
        run_with_submitit.main(parse(run_with_submitit.get_args_parser(), words(colours, tmp_path, *more)))


def test_seeds_one_after_the_other(colours: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    argv = words(colours, tmp_path, "--cluster", "debug", "--ngpus", 1, "--epochs", 1, "--seeds", "3,5")
    run_with_submitit.main(parse(run_with_submitit.get_args_parser(), argv))
    rows = capfd.readouterr().out.splitlines()[-4:]
    assert [row.split()[0] for row in rows] == ["run", "output_sub_seed3", "output_sub_seed5", "mean"]
    losses = {
        json.loads((results(tmp_path).with_name(f"output_sub_seed{n}") / "log.txt").read_text())["train_loss"] for n in (3, 5)
    }
    assert len(losses) == 2


def test_recipes_and_seeds_are_runs_of_their_own(colours: Path, tmp_path: Path) -> None:
    for name, line in (("a", "--lr 1e-5 --dropout 0.3"), ("b", "--label_smoothing 0.1 --seed 7")):
        (tmp_path / f"{name}.args").write_text(f"# a recipe\n{line}\n")
    recipes = ["--recipes", tmp_path / "a.args", tmp_path / "b.args"]

    def runs(*more: object) -> list[tuple[str, int, float, float, float]]:
        args = parse(run_with_submitit.get_args_parser(), words(colours, tmp_path, *recipes, *more))
        found = [Flags(**job.flags) for job in run_with_submitit.prepare(args)]
        return [(run.output_sub_dir, run.seed, run.lr, run.dropout, run.label_smoothing) for run in found]

    # --lr is typed, and wins over the recipe's.
    assert runs("--seeds", "3,5") == [
        ("output_sub_a_seed3", 3, 1e-3, 0.3, 0.0),
        ("output_sub_a_seed5", 5, 1e-3, 0.3, 0.0),
        ("output_sub_b_seed3", 3, 1e-3, 0.1, 0.1),
        ("output_sub_b_seed5", 5, 1e-3, 0.1, 0.1),
    ]
    assert [run[:2] for run in runs()] == [("output_sub_a_seed42", 42), ("output_sub_b_seed7", 7)]
    (tmp_path / "b.args").write_text("--learning_rate 1\n")
    with pytest.raises(ValueError, match=r"--recipes \S*b.args:1: unrecognized arguments: --learning_rate 1; give files of main"):
        runs()
    recipes = ["--recipes", tmp_path / "a.args", tmp_path / "more" / "a.args"]
    with pytest.raises(ValueError, match="two have one name"):
        runs()


def test_what_a_measurement_cannot_take(tmp_path: Path) -> None:
    argv = ["--tool", "evaluate_attribution", "--device", "cpu", "--output_dir", str(tmp_path)]
    assert run_with_submitit.tool_of([]) == "main"
    for more, message in (
        ([], "--resume is missing"),
        (["--seeds", "0-1", "--resume", "x.pth"], "--seeds is for trainings: leave it out with --tool evaluate_attribution"),
    ):
        with pytest.raises(ValueError, match=message):
            run_with_submitit.main(parse(run_with_submitit.get_args_parser("evaluate_attribution"), [*argv, *more]))


def test_a_measurement_is_a_job_too(colours: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    resume = checkpoint(tmp_path / "additive.pth", ["blue", "green", "red"], "additive")
    flags = "--tool evaluate_attribution --cluster debug --device cpu --num_workers 0 --methods gradcam --metrics gini"
    where = ["--resume", resume, "--dataset_path", colours, "--dataset_name", "colours", "--output_dir", tmp_path]
    argv = [*flags.split(), *map(str, where)]
    assert run_with_submitit.tool_of(argv) == "evaluate_attribution"
    run_with_submitit.main(parse(run_with_submitit.get_args_parser("evaluate_attribution"), argv))
    said = capfd.readouterr().out
    assert re.match(r"job (\S+): 1 process, in \S+jobs\n  follow: tail .*\n  resume: the same command\n", said), said
    assert said.endswith(f"is done: {{'results': '{tmp_path}'}}\n"), said
    assert json.loads((tmp_path / "attribution.json").read_text())["settings"]["images"] == 12
