"""A real SLURM, of one node: every way in which a job can be disturbed leads to the weights of one that was not.

Run by `make test-slurm`; elsewhere skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from tests.slurm.cluster import Cluster, missing

ROOT = Path(__file__).resolve().parents[2]
REASON = missing() or ("" if os.environ.get("ICN_TEST_SLURM") == "1" else "make test-slurm runs these")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
PATIENCE = 600.0
RECIPE = (
    "--backbone test_resnet --square --image_size 48 --feature_stride 16 --batch_size 3 --epochs 3 --lr 1e-3 --lr_backbone 1e-3 "
    "--clip_max_norm 1 --num_workers 1 --dataset_name colours --device cpu --ema 0.5 --cpus_per_task 1 --ngpus 2"
)


@pytest.fixture(scope="module", params=[True, False], ids=["user_signal", "sigterm_only"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="icn-slurm-"))
    cluster = Cluster(folder / "cluster", request.param)
    try:
        try:
            cluster.start()
        except (RuntimeError, OSError) as error:
            if os.environ.get("ICN_TEST_SLURM_IF_IT_STARTS") != "1":
                raise
            pytest.skip(f"a SLURM cannot be started here: {error}")
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def results(out: Path) -> Path:
    return out / "colours" / "output_sub"


def submit(cluster: Cluster, root: Path, out: Path, *more: object, pause: float = 0.0) -> subprocess.CompletedProcess:
    return typed(cluster, [*TINY.split(), *RECIPE.split(), "--dataset_path", root, "--output_dir", out, *more], pause)


def typed(cluster: Cluster, words: list[object], pause: float = 0.0) -> subprocess.CompletedProcess:
    """run_with_submitit.py as a user types it; `pause` makes every step of the job slow."""
    argv = [*map(str, words), "--cluster", "slurm"]
    environment = {**os.environ, **cluster.environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    environment["ICN_TEST_PAUSE"] = str(pause)
    command = [sys.executable, str(ROOT / "run_with_submitit.py"), *argv]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def job_of(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    found = re.search(r"^job (\S+):", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return found[1]


def until(condition: Callable[[], Any], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def logs(out: Path) -> str:
    return "".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in sorted((results(out) / "jobs").glob("*_log.*")))


def step(out: Path) -> int:
    try:
        return torch.load(results(out) / "checkpoint.pth", weights_only=True)["step"]
    except FileNotFoundError:
        return -1


def completed(cluster: Cluster, job: str, out: Path, state: str = "COMPLETED") -> None:
    final = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
    until(lambda: cluster.state(job) in (state, *(() if state != "COMPLETED" else final)), lambda: cluster.state(job) + logs(out))
    assert cluster.state(job) == state, logs(out)


def assert_same_run(one: Path, two: Path) -> None:
    a, b = (torch.load(results(out) / "checkpoint.pth", weights_only=True) for out in (one, two))
    for part in ("model", "ema"):
        assert all(torch.equal(a[part][key], b[part][key]) for key in a[part]), part
    assert (a["step"], a["epoch"], a["best"]) == (b["step"], b["epoch"], b["best"]) and a["step"] == 12
    lines = [[json.loads(line) for line in (results(out) / "log.txt").read_text().splitlines()] for out in (one, two)]
    kept = [[(line["epoch"], line["step"], line["train_loss"], line["test_loss"]) for line in run] for run in lines]
    assert kept[0] == kept[1] and [line[0] for line in kept[1]] == [0, 1, 2]


@pytest.fixture(scope="module")
def whole(cluster: Cluster, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    done = submit(cluster, colours, out, "--wait")
    job = job_of(done)
    assert f"scancel {job}" in done.stdout and f"scontrol requeue {job}" in done.stdout and "tail -F" in done.stdout
    assert f"job {job} is done: {{" in done.stdout, done.stdout
    assert "2 processes" in (results(out) / "jobs" / f"{job}_0_log.out").read_text()
    return out


def start(cluster: Cluster, root: Path, out: Path, *more: object) -> str:
    """A job that has done a step, and is slow enough to be disturbed in the middle of an epoch."""
    job = job_of(submit(cluster, root, out, "--save_every_steps", 1, *more, pause=1.0))
    until(lambda: step(out) >= 1 or cluster.state(job) == "FAILED", lambda: logs(out))
    assert cluster.state(job) == "RUNNING", logs(out)
    return job


def test_requeued_by_hand_in_mid_epoch(cluster: Cluster, colours: Path, tmp_path: Path, whole: Path) -> None:
    job = start(cluster, colours, tmp_path)
    cluster.command("scontrol", "requeue", job)
    completed(cluster, job, tmp_path)
    assert "SIGTERM: stopping after this step" in logs(tmp_path) and "resuming" in logs(tmp_path)
    assert_same_run(whole, tmp_path)


def test_preempted_by_another_partition(cluster: Cluster, colours: Path, tmp_path: Path, whole: Path) -> None:
    job = start(cluster, colours, tmp_path, "--partition", "low")
    script = tmp_path / "urgent.sh"
    script.write_text("#!/bin/sh\nsleep 2\n")
    cluster.command("sbatch", "--partition=high", "--exclusive", f"--output={tmp_path}/urgent.out", str(script))
    until(lambda: cluster.state(job) in ("PENDING", "REQUEUED", "COMPLETING"), lambda: cluster.state(job) + logs(tmp_path))
    stopped_at = step(tmp_path)
    completed(cluster, job, tmp_path)
    said = logs(tmp_path)
    assert f"{'SIGUSR2' if cluster.user_signal else 'SIGTERM'}: stopping after this step" in said and "resuming" in said
    assert 1 <= stopped_at < 12
    assert_same_run(whole, tmp_path)


def test_a_time_limit_is_no_end(cluster: Cluster, colours: Path, tmp_path: Path, whole: Path) -> None:
    """SLURM tells the job a minute (or a minute and a half: so coarse is its clock) before its two are over; it queues again."""
    job = job_of(submit(cluster, colours, tmp_path, "--timeout", 2, pause=5.0))
    completed(cluster, job, tmp_path)
    assert "SIGUSR2: stopping after this step" in logs(tmp_path) and "Requeued job" in logs(tmp_path)
    assert_same_run(whole, tmp_path)


def test_a_rank_that_is_killed_ends_the_job_and_it_can_be_started_again(
    cluster: Cluster, colours: Path, tmp_path: Path, whole: Path
) -> None:
    job = start(cluster, colours, tmp_path)
    victim = [pid for pid, environment in processes() if f"SLURM_JOB_ID={job}" in environment and "SLURM_PROCID=1" in environment]
    os.kill(min(victim), signal.SIGKILL)
    completed(cluster, job, tmp_path, "FAILED")
    assert "another process of this run ended" in logs(tmp_path) and "the last checkpoint is" in logs(tmp_path)
    cluster.command("scontrol", "requeue", job)
    completed(cluster, job, tmp_path)
    assert_same_run(whole, tmp_path)


def processes() -> Iterator[tuple[int, list[str]]]:
    """Number and environment of every process that runs submitit's entry point."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"submitit.core._submit" in (folder / "cmdline").read_bytes():
                yield int(folder.name), (folder / "environ").read_text(errors="replace").split("\0")
        except OSError:
            continue


def test_cancelled_is_the_end(cluster: Cluster, colours: Path, tmp_path: Path) -> None:
    job = start(cluster, colours, tmp_path)
    cluster.command("scancel", job)
    completed(cluster, job, tmp_path, "CANCELLED")
    time.sleep(7)  # as long as a requeue would wait
    assert cluster.state(job) == "CANCELLED" and 1 <= step(tmp_path) < 12


def test_an_array_of_seeds_is_one_submission_and_one_table(cluster: Cluster, colours: Path, tmp_path: Path) -> None:
    done = submit(cluster, colours, tmp_path, "--seeds", "0-1", "--epochs", 1, "--ngpus", 1, "--wait")
    assert done.returncode == 0, done.stderr
    jobs = re.search(r"^job (\d+)_0 (\d+)_1:", done.stdout, re.MULTILINE)
    assert jobs and jobs[1] == jobs[2]
    rows = done.stdout.splitlines()[-4:]
    assert [row.split()[0] for row in rows] == ["run", "output_sub_seed0", "output_sub_seed1", "mean"] and "+-" in rows[-1]


def test_evaluation_is_a_job_too(cluster: Cluster, colours: Path, tmp_path: Path, whole: Path) -> None:
    done = submit(cluster, colours, tmp_path, "--eval", "--resume", results(whole) / "checkpoint.pth", "--wait")
    assert done.returncode == 0, done.stderr
    found = json.loads((results(tmp_path) / "eval_val" / "results.json").read_text())
    last = json.loads((results(whole) / "log.txt").read_text().splitlines()[-1])
    assert found["images"] == 12 and found["loss"] == pytest.approx(last["test_loss"], rel=1e-6)


def test_a_measurement_is_a_job_that_goes_on(cluster: Cluster, colours: Path, tmp_path: Path, whole: Path) -> None:
    """Queued again in the middle: what was measured before is not measured again."""
    if not cluster.user_signal:
        pytest.skip("once is enough: how a job is told is the same for all of them")
    flags = (
        "--tool evaluate_attribution --ngpus 2 --cpus_per_task 1 --device cpu --num_workers 0 --batch_size 2 --methods gradcam"
    )
    where = ["--resume", results(whole) / "checkpoint.pth", "--dataset_path", colours, "--dataset_name", "colours"]
    job = job_of(typed(cluster, [*flags.split(), "--metrics", "gini", *where, "--output_dir", tmp_path], pause=0.5))

    def said() -> str:
        return "".join(file.read_text()[-3000:] for file in sorted((tmp_path / "jobs").glob("*_log.*")))

    until(lambda: list(tmp_path.glob("partial/*/*/00001.pt")) or cluster.state(job) == "FAILED", said)
    made = {part: part.stat().st_mtime_ns for part in tmp_path.glob("partial/*/*/*.pt")}
    cluster.command("scontrol", "requeue", job)
    until(lambda: cluster.state(job) in ("COMPLETED", "FAILED", "CANCELLED"), lambda: cluster.state(job) + said())
    assert cluster.state(job) == "COMPLETED", said()
    assert "stopped; the same command resumes from what is done" in said()
    assert made and all(part.stat().st_mtime_ns == then for part, then in made.items())
    assert json.loads((tmp_path / "attribution.json").read_text())["settings"]["images"] == 12


def test_an_unknown_partition_is_one_line(cluster: Cluster, colours: Path, tmp_path: Path) -> None:
    done = submit(cluster, colours, tmp_path, "--partition", "nowhere")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "error: the cluster refuses the job: " in done.stderr and "nvalid partition" in done.stderr


def test_which_gpu_each_task_takes(cluster: Cluster, tmp_path: Path) -> None:
    """gpus-per-node shows both GPUs to both tasks, gpus-per-task one to each; without srun a process is alone."""
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import os, torch\n"
        "from util.device import select_device\n"
        "from util.launcher import read_launcher_env\n"
        "visible = os.environ['CUDA_VISIBLE_DEVICES'].split(',')\n"
        "torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: len(visible)\n"
        "torch.cuda.set_device = lambda device: None\n"
        "process = read_launcher_env()\n"
        "index = select_device('cuda', process).index\n"
        "print(process.rank, process.size, len(visible), visible[index or 0])\n"
    )
    for option, seen in (("--gpus-per-node=2", 2), ("--gpus-per-task=1", 1)):
        script = tmp_path / "probe.sh"
        command = f"{sys.executable} {probe}"
        script.write_text(f"#!/bin/sh\nexport PYTHONPATH={ROOT}\nsrun {option} {command}\necho alone\n{command}\n")
        flags = ["--wait", "--ntasks=2", "--gpus-per-node=2", f"--output={tmp_path}/probe.out"]
        cluster.command("sbatch", *flags, str(script))
        lines = (tmp_path / "probe.out").read_text().splitlines()
        assert sorted(lines[:2]) == [f"0 2 {seen} 0", f"1 2 {seen} 1"] and lines[2:] == ["alone", "0 1 2 0"], lines
