"""A run is killed, starved, interrupted and lied to; it ends with one line, and what was saved goes on to the same weights."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import COLOURS, TINY, make_images

from models.loading import read_checkpoint
from util.checkpoint import newest_valid, save_checkpoint

ROOT = Path(__file__).parents[1]
RECIPE = (
    "--backbone test_resnet --square --image_size 48 --feature_stride 16 --batch_size 5 --accumulate 2 --lr 1e-3 "
    "--lr_backbone 1e-3 --clip_max_norm 1 --num_workers 0"
)
PATIENCE = 120.0  # seconds; only a run that hangs needs them


def words(root: Path, out: Path, *more: object) -> list[str]:
    where = ["--dataset_path", root, "--dataset_name", "colours", "--output_dir", out]
    return [*TINY.split(), *RECIPE.split(), *map(str, where), "--device", "cpu", *map(str, more)]


def start(argv: list[str]) -> subprocess.Popen[str]:
    """main.py as a user starts it, in a process group of its own."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pipes["env"] = {**os.environ, "OMP_NUM_THREADS": "1"}  # as many threads as the undisturbed run: they decide how sums round
    return subprocess.Popen([sys.executable, str(ROOT / "main.py"), *argv], cwd=ROOT, start_new_session=True, **pipes)


def train(argv: list[str], log: Path | None = None, file_size: int | None = None, pause: float = 0.0) -> None:
    """The body of a child process: main.py in an interpreter that has imported everything already, in a session of its own.

    What it prints goes to `<log>.out` and `<log>.err`; `pause` makes each step slow, and each write of a checkpoint, by a thread.
    """
    import main
    from trainer import Trainer
    from util import atomic
    from util.cli import Parser, launch

    torch.set_num_threads(1)
    os.setsid()
    if log is not None:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if pause:
        step, flush = Trainer.step, atomic._fsync
        Trainer.step = lambda *args: (time.sleep(pause), step(*args))[1]  # type: ignore[method-assign, assignment]
        atomic._fsync = lambda handle: (time.sleep(2 * pause), flush(handle))[1]  # so that the next step is done meanwhile
    launch(main.main, Parser("main.py", parents=[main.get_args_parser()]), argv, shared=True)


@pytest.fixture(scope="module")
def spawn() -> Callable[..., Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["main", "conftest"])

    def begin(argv: list[str], **options: Any) -> Any:
        child = context.Process(target=train, args=(argv,), kwargs=options)
        child.start()
        return child

    return begin


def until(condition: Callable[[], bool], child: Any = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        if child is not None and child.exitcode is not None:
            return
        time.sleep(0.002)


def results(out: Path) -> Path:
    return out / "colours" / "output_sub"


def finish(child: Any) -> int:
    child.join(PATIENCE)
    assert child.exitcode is not None, "it hangs"
    return child.exitcode


def assert_same_run(one: Path, two: Path) -> None:
    a, b = (torch.load(results(out) / "checkpoint.pth", weights_only=True) for out in (one, two))
    for part in ("model", "ema"):
        assert a[part].keys() == b[part].keys()
        assert all(torch.equal(a[part][key], b[part][key]) for key in a[part]), part
    for x, y in zip(a["optimizer"]["state"].values(), b["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(x[key], y[key]) for key in x)
    assert (a["step"], a["epoch"], a["best"]) == (b["step"], b["epoch"], b["best"])
    lines = [[json.loads(line) for line in (results(out) / "log.txt").read_text().splitlines()] for out in (one, two)]
    names = ("epoch", "step", "train_loss", "train_acc1", "train_lr", "test_loss", "test_acc1")
    kept = [[tuple(line[name] for name in names) for line in run] for run in lines]
    assert kept[0] == kept[1]


SCHEDULE = "--lr_scheduler cosine --warmup_epochs 1"
LONG = f"--epochs 4 --save_every_steps 1 --ema 0.9 {SCHEDULE} --resume auto".split()


@pytest.fixture(scope="module")
def undisturbed(colours: Path, tmp_path_factory: pytest.TempPathFactory, spawn: Callable[..., Any]) -> Path:
    """24 images in 4 batches of 5, two to a step: 2 steps an epoch, 8 in all."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert finish(spawn(words(colours, out, *LONG))) == 0
    return out


def test_twenty_kills_lose_nothing(colours: Path, tmp_path: Path, spawn: Callable[..., Any], undisturbed: Path) -> None:
    """SIGKILL at 20 random moments, every other one in the middle of a save; with and without workers in turn."""
    draw = random.Random(0)
    folder = results(tmp_path)
    steps: list[int] = []
    saving = 0
    for kill in range(20):
        child = spawn(words(colours, tmp_path, *LONG, "--num_workers", int(kill % 4 == 3)), pause=0.02)
        if kill % 2:
            until(lambda: any(folder.glob(".checkpoint*.tmp")) if folder.exists() else False, child)
            time.sleep(draw.uniform(0, 0.02) if kill % 4 == 1 else 0)  # the others at its very beginning
            saving += any(folder.glob(".checkpoint*.tmp"))
        else:
            until(folder.exists, child)
            time.sleep(draw.uniform(0, 0.3))
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        found = newest_valid(folder, read_checkpoint)
        if found is not None:
            steps.append(found[1]["step"])
    assert steps == sorted(steps), "a step that was saved was lost"
    assert saving >= 3, "no kill came in the middle of a save"
    assert finish(spawn(words(colours, tmp_path, *LONG))) == 0
    assert_same_run(tmp_path, undisturbed)
    assert not list(folder.glob(".*"))


def one_line(err: str) -> bool:
    """Whether all that was said is one line; how far a slow evaluation is does not count."""
    return len([line for line in err.splitlines() if " elapsed, " not in line]) == 1


@pytest.mark.parametrize("group", [False, True], ids=["alone", "with_workers"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(
    colours: Path, tmp_path: Path, spawn: Callable[..., Any], undisturbed: Path, number: signal.Signals, group: bool
) -> None:
    log = tmp_path / "log"
    child = spawn(words(colours, tmp_path, *LONG, "--num_workers", 1), log=log, pause=0.1)
    until(lambda: (results(tmp_path) / "checkpoint.pth").exists(), child)
    (os.killpg if group else os.kill)(child.pid, number)
    assert finish(child) == 128 + number, log.with_suffix(".err").read_text()
    err = log.with_suffix(".err").read_text()
    last = err.strip().splitlines()[-1]
    assert last.startswith("main.py: stopped after step") and "checkpoint.pth (resume with --resume auto)" in last
    assert "Traceback" not in err
    step = torch.load(results(tmp_path) / "checkpoint.pth", weights_only=True)["step"]
    assert f"stopped after step {step};" in last and not list(results(tmp_path).glob(".*"))
    assert finish(spawn(words(colours, tmp_path, *LONG), log=log)) == 0
    assert "resuming" in log.with_suffix(".out").read_text()
    assert_same_run(tmp_path, undisturbed)


def test_a_worker_that_is_killed(colours: Path, tmp_path: Path) -> None:
    process = start(words(colours, tmp_path, "--epochs", 1000, "--num_workers", 1))
    until(lambda: (results(tmp_path) / "checkpoint.pth").exists())
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    workers = [int(pid) for pid in listed if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and workers, out + err
    assert one_line(err) and "a process that loads images died" in err and "the last checkpoint is" in err
    read_checkpoint(results(tmp_path) / "checkpoint.pth")


def test_an_image_that_vanishes(tmp_path: Path, spawn: Callable[..., Any]) -> None:
    make_images(tmp_path / "colours", {"train": 8, "val": 2}, COLOURS, (40, 48))
    child = spawn(words(tmp_path, tmp_path / "out", "--epochs", 1000), log=tmp_path / "log")
    until(lambda: (results(tmp_path / "out") / "checkpoint.pth").exists(), child)
    gone = tmp_path / "colours" / "train" / "red" / "3.png"
    gone.unlink()
    assert finish(child) == 1
    err = (tmp_path / "log.err").read_text()
    assert one_line(err) and f"{gone}: does not exist (any more)" in err and "the last checkpoint is" in err


def test_a_full_disk(colours: Path, tmp_path: Path, spawn: Callable[..., Any]) -> None:
    """The system refuses to write more than a part of the file."""
    assert finish(spawn(words(colours, tmp_path, "--epochs", 1))) == 0
    before = (results(tmp_path) / "checkpoint.pth").read_bytes()
    again = words(colours, tmp_path, "--epochs", 2, "--resume", "auto")
    assert finish(spawn(again, log=tmp_path / "log", file_size=len(before) // 2)) == 1
    err = (tmp_path / "log.err").read_text()
    assert one_line(err) and "the checkpoint cannot be written to" in err and "intact" in err
    assert (results(tmp_path) / "checkpoint.pth").read_bytes() == before and not list(results(tmp_path).glob(".*"))
    assert finish(spawn(again)) == 0
    assert [json.loads(line)["epoch"] for line in (results(tmp_path) / "log.txt").read_text().splitlines()] == [0, 1]


def test_a_folder_that_cannot_be_written_to(colours: Path, tmp_path: Path, spawn: Callable[..., Any]) -> None:
    (tmp_path / "file").write_text("")
    assert finish(spawn(words(colours, tmp_path / "file", "--epochs", 1), log=tmp_path / "log")) == 2
    err = (tmp_path / "log.err").read_text()
    assert one_line(err) and "cannot be written to" in err


def test_nan_is_never_saved(colours: Path, tmp_path: Path, spawn: Callable[..., Any]) -> None:
    steps = words(colours, tmp_path, "--epochs", 1, "--save_every_steps", 1)
    assert finish(spawn(steps)) == 0
    before = (results(tmp_path) / "checkpoint.pth").read_bytes()
    more = words(colours, tmp_path, "--epochs", 3, "--save_every_steps", 1, "--resume", "auto", "--lr", 1e38)
    assert finish(spawn(more, log=tmp_path / "log")) == 1
    err = (tmp_path / "log.err").read_text()
    assert one_line(err) and "epoch 2" in err and "step 3" in err and "the last checkpoint is" in err
    assert (results(tmp_path) / "checkpoint.pth").read_bytes() == before


def saved(folder: Path, step: int, keep_last: int = 1) -> Path:
    state = {"model": {"query_embed.weight": torch.full((64, 64), float(step))}, "step": step}
    return save_checkpoint(state, folder, keep_last=keep_last)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_newest_file_is_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture, damage: str) -> None:
    saved(tmp_path, 1, keep_last=2)
    path = saved(tmp_path, 2, keep_last=2)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)  # in place: the hard link of step 2 is as damaged
    found = newest_valid(tmp_path, read_checkpoint)
    assert found is not None and found[0].name == "checkpoint_step00000001.pth" and found[1]["step"] == 1
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and all(line.startswith("warning: checkpoint") and line.endswith("; skipped") for line in warnings)
    found[0].write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 3 checkpoints .* can be read: remove them to start anew"):
        newest_valid(tmp_path, read_checkpoint)
    assert newest_valid(tmp_path / "new", read_checkpoint) is None


def test_the_latest_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        saved(tmp_path, step, keep_last=3)
    names = {"checkpoint.pth", *(f"checkpoint_step0000000{step}.pth" for step in (3, 4, 5))}
    assert {file.name for file in tmp_path.iterdir()} == names
