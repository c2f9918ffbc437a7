"""Two ranks are one run: data, scores, files, and how they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import COLOURS, TINY, make_images, tiny_flags, tiny_model
from ranks import Launched, until

import main
from datasets import ImageBatch
from datasets.image_folder import Sample
from datasets.loaders import build_datasets, build_loader, cache_pictures
from trainer import Trainer
from util.cli import Parser, launch, parse
from util.distributed import init_distributed

ROOT = Path(__file__).resolve().parents[1]
RECIPE = (
    "--backbone test_resnet --square --image_size 48 --feature_stride 16 --batch_size 3 --epochs 2 --lr 1e-3 --lr_backbone 1e-3 "
    "--clip_max_norm 1 --num_workers 0 --dataset_name colours --resume auto"
)

SQUARE = ("--square", "--image_size", "48", "--crop_min", "0.5")


def train(argv: list[str], record: Path | None = None, pause: float = 0.0) -> None:
    """main.py; each process records the images of its steps, and can be made slow."""
    update = Trainer.step

    def recorded(trainer: Trainer, batches: list[ImageBatch]) -> Any:
        time.sleep(pause)
        outputs = update(trainer, batches)
        if record is not None:
            seen = [batch.indices.tolist() for batch in batches]
            with record.with_name(f"{record.name}.{trainer.ranks.rank}").open("a") as file:
                file.write(json.dumps([trainer.steps, seen]) + "\n")
        return outputs

    Trainer.step = recorded  # type: ignore[method-assign]
    launch(main.main, Parser("main.py", parents=[main.get_args_parser()]), argv, shared=True)


def words(root: Path, out: Path, *more: object) -> list[str]:
    where = ("--device", "cpu", "--dataset_path", root, "--output_dir", out)
    return [*TINY.split(), *RECIPE.split(), *map(str, where), *map(str, more)]


def results(out: Path) -> Path:
    return out / "colours" / "output_sub"


def load(out: Path, name: str = "checkpoint.pth") -> dict[str, Any]:
    return torch.load(results(out) / name, weights_only=True)


def order(record: Path) -> dict[int, list[list[int]]]:
    """The images of each batch of each step, of all processes together."""
    seen: dict[int, list[list[int]]] = {}
    for file in sorted(record.parent.glob(f"{record.name}.*")):
        for step, batches in map(json.loads, file.read_text().splitlines()):
            known = seen.setdefault(step, [[] for _ in batches])
            for images, more in zip(known, batches, strict=True):
                images += more
    return seen


def assert_same_weights(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (one["step"], one["epoch"]) == (two["step"], two["epoch"])
    for part in ("model", "ema"):
        assert (one[part] or {}).keys() == (two[part] or {}).keys()
        for key, value in (one[part] or {}).items():
            assert torch.equal(value, two[part][key]), f"{part}.{key}"


# Four global batches of 6 an epoch, three of them to a step: the second step of an epoch is a short one.
LONG = ("--ema", 0.5, "--accumulate", 3, "--save_every_steps", 1, "--keep_last", 9)


@pytest.fixture(scope="module")
def whole(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks that nobody disturbed: 4 steps."""
    out = tmp_path_factory.mktemp("whole")
    assert Launched(2, out / "log", train, words(colours, out, *LONG), out / "seen").end() == [0, 0]
    return out


def test_only_the_first_writes_and_the_file_holds_both(whole: Path) -> None:
    state = load(whole)
    assert state["step"] == 4 and len(state["rng"]) == 2 and state["args"]["world_size"] == 2
    assert not torch.equal(state["rng"][0]["cpu"], state["rng"][1]["cpu"])
    assert (whole / "log.1.out").read_text() == (whole / "log.1.err").read_text() == ""
    assert "cpu, fp32, 2 processes" in (whole / "log.0.out").read_text()
    lines = [json.loads(line) for line in (results(whole) / "log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1] and [line["step"] for line in lines] == [2, 4]
    middle = load(whole, "checkpoint_step00000003.pth")["in_epoch"]
    assert (middle["images"], middle["batches"], middle["batch_size"], middle["world_size"]) == (18, 3, 3, 2)
    seen = order(whole / "seen")
    assert sorted(image for step in (1, 2) for batch in seen[step] for image in batch) == list(range(24))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_another_number_of_ranks_goes_on_with_the_same_images(colours: Path, tmp_path: Path, whole: Path, size: int) -> None:
    """From the middle of an epoch; with as many ranks, bit for bit, dropout and all."""
    argv = words(colours, tmp_path, *LONG, "--resume", results(whole) / "checkpoint_step00000003.pth")
    del argv[argv.index("--batch_size") : argv.index("--batch_size") + 2]
    more = Launched(size, tmp_path / "log", train, argv, tmp_path / "seen")
    if size == 4:  # 6 images a step are not to be shared by four
        assert more.end() == [2] * 4
        assert "rank 0: " in more.err(0) and "6 images a step by 2 processes, which 4 cannot share evenly" in more.err(0)
        return
    assert more.end() == [0] * size, more.err()
    there, here = order(whole / "seen"), order(tmp_path / "seen")
    assert here == {4: there[4]}
    if size == 2:
        assert_same_weights(load(whole), load(tmp_path))


def test_at_the_end_of_an_epoch_any_number_goes_on(colours: Path, tmp_path: Path) -> None:
    """Two ranks, then four, then one: the images of every step are those of one rank alone."""
    for size, epochs in ((2, 1), (4, 2), (1, 3)):
        flags = ("--batch_size", 4) if size == 2 else ()
        argv = words(colours, tmp_path, "--dropout", 0, "--epochs", epochs, *flags)
        if not flags:
            del argv[argv.index("--batch_size") : argv.index("--batch_size") + 2]
        life = Launched(size, tmp_path / "log", train, argv, tmp_path / "seen")
        assert life.end() == [0] * size, life.err()
    assert (load(tmp_path)["args"]["batch_size"], load(tmp_path)["step"]) == (8, 9)
    argv = words(colours, tmp_path / "alone", "--dropout", 0, "--epochs", 3, "--batch_size", 8)
    assert Launched(1, tmp_path / "log", train, argv, tmp_path / "all").end() == [0]
    assert order(tmp_path / "seen") == order(tmp_path / "all")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_all_stop_at_one_step_when_one_is_asked(colours: Path, tmp_path: Path, whole: Path, number: signal.Signals) -> None:
    argv = words(colours, tmp_path, *LONG, "--num_workers", 1)
    both = Launched(2, tmp_path / "log", train, argv, tmp_path / "seen", 0.5)
    until(lambda: (results(tmp_path) / "checkpoint.pth").exists(), both.log.name)
    os.kill(both.children[1].pid, number)  # type: ignore[arg-type]
    assert both.end() == [128 + number] * 2, both.err()
    assert f"main.py: stopped after step {load(tmp_path)['step']}; the last checkpoint is" in both.err(0) and both.err(1) == ""
    assert 1 <= load(tmp_path)["step"] < 4
    assert Launched(2, tmp_path / "log", train, words(colours, tmp_path, *LONG), tmp_path / "seen").end() == [0, 0]
    assert_same_weights(load(whole), load(tmp_path))
    assert order(whole / "seen") == order(tmp_path / "seen")
    epochs = [json.loads(line)["epoch"] for line in (results(tmp_path) / "log.txt").read_text().splitlines()]
    assert epochs == [0, 1]


def test_one_that_is_killed_ends_the_other_at_once(colours: Path, tmp_path: Path) -> None:
    both = Launched(2, tmp_path / "log", train, words(colours, tmp_path, "--epochs", 1000, "--num_workers", 1))
    until(lambda: (results(tmp_path) / "checkpoint.pth").exists())
    both.children[1].kill()
    assert both.end() == [1, -signal.SIGKILL]
    assert both.err().count("\n") == 1, both.err()
    assert "main.py: error: rank 0: epoch" in both.err() and "another process of this run ended" in both.err()
    assert "the last checkpoint is" in both.err()


def test_one_that_fails_says_why_and_ends_the_other(tmp_path: Path) -> None:
    make_images(tmp_path / "colours", {"train": 8, "val": 2}, COLOURS, (40, 48))
    both = Launched(2, tmp_path / "log", train, words(tmp_path, tmp_path / "out", "--epochs", 1000, "--batch_size", 2))
    until(lambda: (results(tmp_path / "out") / "checkpoint.pth").exists())
    gone = tmp_path / "colours" / "train" / "red" / "3.png"
    gone.unlink()
    assert both.end() == [1, 1]
    causes = [both.err(rank) for rank in range(2) if f"{gone}: does not exist (any more)" in both.err(rank)]
    assert len(causes) == 1 and ": error: rank " in causes[0] and both.err().count("\n") == 2, both.err()


def test_nan_in_one_stops_both_with_the_same_words(colours: Path, tmp_path: Path) -> None:
    assert Launched(2, tmp_path / "log", train, words(colours, tmp_path, "--epochs", 1)).end() == [0, 0]
    before = (results(tmp_path) / "checkpoint.pth").read_bytes()
    both = Launched(2, tmp_path / "log", train, words(colours, tmp_path, "--lr", 1e38))
    assert both.end() == [1, 1]
    lines = [both.err(rank).replace(f"rank {rank}: ", "") for rank in range(2)]
    assert lines[0] == lines[1] and "epoch 2: the loss is nan by step" in lines[0] and lines[0].count("\n") == 1
    assert (results(tmp_path) / "checkpoint.pth").read_bytes() == before


def refusal(flags: list[Any], change: list[Any]) -> str:
    """The message of a rank; the flags of rank 1 end with `change`."""
    argv = list(map(str, [*flags, "--device", "cpu", *(change if os.environ["RANK"] == "1" else [])]))
    with pytest.raises(ValueError) as error:
        main.main(parse(main.get_args_parser(), argv))
    return str(error.value)


def test_ranks_that_see_other_things_do_not_begin(colours: Path, tmp_path: Path) -> None:
    model = tiny_model(3, feature_stride=16)
    flags = {key: value for key, value in vars(tiny_flags("--feature_stride", 16)).items() if key != "explicit"}
    flags |= {"num_queries": 3, "backbone_norm": "frozen"}
    torch.save({"model": model.state_dict(), "args": flags}, tmp_path / "model.pth")
    fewer = tmp_path / "fewer" / "colours"
    shutil.copytree(colours / "colours", fewer)
    for split in ("train", "val"):
        next((fewer / split / "red").iterdir()).unlink()
    training = words(colours, tmp_path / "out", "--epochs", 1)
    scoring = ["--eval", "--resume", tmp_path / "model.pth", "--dataset_path", colours, "--dataset_name", "colours"]
    other = ["--dataset_path", fewer.parent]
    # Each in processes of its own: torch can hang when it destroys the groups of a run that failed.
    cases = [(training, ["--batch_size", 2]), (training, other), (scoring, other)]
    runs = [Launched(2, tmp_path / f"log{number}", refusal, *case) for number, case in enumerate(cases)]
    found = [run.results() for run in runs]
    assert all(first == second for first, second in found) and not list((tmp_path / "out").rglob("*.pth"))
    assert found[0][0].startswith("rank 1 differs from rank 0 in --batch_size (2 (given); rank 0: 3 (given)): all processes")
    assert "rank 1 differs from rank 0 in the training images (23 images, hash " in found[1][0]
    assert "the val images (11 images, hash " in found[1][0] and "the val images (11 images, hash " in found[2][0]


@pytest.mark.parametrize("size", [2, 5])
def test_scores_are_those_of_one_process(tmp_path: Path, size: int) -> None:
    """Seven images of two sizes: shards of different lengths, and with five ranks one that has none."""
    make_images(tmp_path / "data" / "colours", {"train": 2, "val": 2}, COLOURS, (40, 48))
    make_images(tmp_path / "more" / "colours", {"val": 1}, {"red": COLOURS["red"]}, (48, 64))
    (tmp_path / "more/colours/val/red/0.png").rename(tmp_path / "data/colours/val/red/odd.png")
    argv = words(tmp_path / "data", tmp_path / "out", "--epochs", 1)
    assert Launched(1, tmp_path / "log", train, argv).end() == [0]
    found = []
    for ranks in (1, size):
        out = tmp_path / str(ranks)
        flags = ["--eval", "--batch_size", "2", "--resume", str(results(tmp_path / "out") / "checkpoint.pth")]
        argv = ["--device", "cpu", "--dataset_path", str(tmp_path / "data"), "--dataset_name", "colours"]
        scored = Launched(ranks, tmp_path / f"log{ranks}", train, [*argv, "--output_dir", str(out), "--num_workers", "0", *flags])
        assert scored.end() == [0] * ranks, scored.err()
        folder = results(out) / "eval_val"
        found.append([(folder / name).read_text() for name in ("per_class.csv", "confusion_matrix.csv")])
        found[-1].append(json.loads((folder / "results.json").read_text()))
        assert scored.out(0).count("7 images of 3 classes") == 1
    one, more = found
    assert one[:2] == more[:2]
    assert one[2].pop("loss") == pytest.approx(more[2].pop("loss"), rel=1e-12)
    assert one[2] == more[2]


def test_torchrun_starts_a_killed_run_again(colours: Path, tmp_path: Path, whole: Path) -> None:
    """As a user types it; the rank is killed once, torchrun restarts both, and they go on from the newest checkpoint."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--max-restarts=1", "--rdzv-backend=c10d"]
    argv = words(colours, tmp_path, *LONG)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ICN_TEST_PAUSE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "slurm")))
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = [*command, "--rdzv-endpoint=localhost:0", str(ROOT / "main.py"), *argv]
    process = subprocess.Popen(run, cwd=ROOT, env=environment, **pipes)
    try:
        until(lambda: (results(tmp_path) / "checkpoint.pth").exists())
        os.kill(process_of(tmp_path, rank=1), signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "resuming" in out and out.count("24 training and 12 val images") == 2
    assert "error: rank 0: epoch" in err and "another process of this run ended" in err
    assert_same_weights(load(whole), load(tmp_path))


def process_of(out: Path, rank: int) -> int:
    """The number of the process of main.py that writes to `out` and has that rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(out) in words and f"RANK={rank}".encode() in variables:
            return int(folder.name)
    raise AssertionError("no such process")


def read_through_caches(root: Path) -> list[list[Any]]:
    """The pictures that a rank gets from a cache in memory and one in a folder, which all ranks fill, and from its own device."""
    read: list[list[Any]] = []
    with init_distributed() as ranks:
        for cache in ("ram", root / "cache"):
            args = tiny_flags("--dataset_path", root, "--dataset_name", "colours", *SQUARE, "--cache", cache)
            train_set, val_set = build_datasets(args, [*COLOURS])
            cache_pictures(args, ranks, train_set, val_set, torch.device("cpu"))
            first = [train_set[Sample(index, 7)][0].tolist() for index in range(ranks.rank, len(train_set), 2)]
            ranks.barrier()  # the pictures of both ranks are there
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("datasets.image_folder.decode_image", pytest.fail)
                read.append([train_set[Sample(index, 7)][0].tolist() for index in range(len(train_set))])
            assert first == read[-1][ranks.rank :: 2]
        args = args.replace(cache="gpu")
        train_set, val_set = build_datasets(args, [*COLOURS])
        cache_pictures(args, ranks, train_set, val_set, torch.device("cpu"))
        samples: Any = [[Sample(index, 7)] for index in range(len(train_set))]
        read.append([batch.images[0].tolist() for batch in build_loader(args, train_set, samples, torch.device("cpu"))])
    return read


def test_two_ranks_fill_one_cache(colours: Path, tmp_path: Path) -> None:
    shutil.copytree(colours / "colours", tmp_path / "colours")
    one, two = Launched(2, tmp_path / "log", read_through_caches, tmp_path).results()
    train_set, _ = build_datasets(tiny_flags("--dataset_path", tmp_path, "--dataset_name", "colours", *SQUARE), [*COLOURS])
    expected = [train_set[Sample(index, 7)][0].tolist() for index in range(len(train_set))]
    assert one == two == [expected] * 3
