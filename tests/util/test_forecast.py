"""The line that says what a training will take, on a clock that the test moves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import tiny_flags

import main
from datasets import TrainSampler
from datasets.size_schedule import SizeSchedule
from epochs import make_forecast
from flags import get_args_parser
from util import forecast
from util.cli import parse
from util.forecast import Forecast, shorter_recipe

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def printed(capsys: pytest.CaptureFixture, ends: list[float], **changes: Any) -> list[tuple[int, str]]:
    """The lines, each with the number of the step after which it was printed; `ends` are the times of the ends of steps."""
    time, lines = [0.0], []
    settings: dict[str, Any] = {
        "todo": 60,
        "steps_per_epoch": 60,
        "epochs": 10,
        "evaluated": 0.5,
        "device": CPU,
        "advice": "rest",
    }
    measured = Forecast(**{**settings, **changes}, now=lambda: time[0])
    for step, end in enumerate(ends, 1):
        time[0] = end
        measured.after_step()
        if said := capsys.readouterr().out:
            lines.append((step, said))
    return lines


def test_one_line_after_five_seconds_without_the_first_step(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "resident", lambda name: 3 * 2**29)
    lines = printed(capsys, [20.0, 22.0, 24.0, 26.0, 30.0, 99.0])
    # 2 s a step, 60 steps and half as many images scored, at a third: 140 s an epoch; 56 steps and 10 evaluations are left.
    said = "with these flags: 2:20 an epoch (measured on 3 steps; evaluation estimated), 23:12 for the 10 epochs to go"
    assert lines == [(4, f"{said}, 1.5 GiB of memory\n")]


@pytest.mark.parametrize(
    ("ends", "changes", "step", "said"),
    [
        ([1.0, 1.5, 2.0], {"todo": 3, "steps_per_epoch": 3}, 3, "0:02 an epoch (measured on 2 steps; "),  # a short epoch
        ([4.0, 90.0], {"todo": 1, "steps_per_epoch": 1}, 1, "0:05 an epoch (measured on 1 step; "),  # a single step
        ([20.0, 30.0], {"growth": 3.0}, 2, "11:40 an epoch (measured on 1 step; evaluation estimated), 5:15:40 for"),
        ([9.0, 69.0], {"epochs": 1}, 2, "1:10:00 an epoch (measured on 1 step; evaluation estimated), "),
    ],
)
def test_few_steps_and_a_single_epoch(
    capsys: pytest.CaptureFixture, ends: list[float], changes: dict[str, int], step: int, said: str
) -> None:
    ((printed_at, line),) = printed(capsys, ends, **changes)
    assert printed_at == step and said in line and line.count("\n") == 1 and ("to go" in line) == ("epochs" not in changes)


def test_a_hopeless_training_is_told_what_to_do_instead(capsys: pytest.CaptureFixture) -> None:
    # 140 epochs of 3,200 images in batches of 12 at 3.6 s an image, as of ResNet-50 at 800 pixels on two cores
    hopeless: dict[str, Any] = {"todo": 266, "steps_per_epoch": 266, "epochs": 140, "evaluated": 0.125}
    ((_, line),) = printed(capsys, [45.0, 88.0], **hopeless)
    assert "19.3 days for the 140 epochs to go" in line and line.endswith("; that is more than 3 days: rest\n")
    ((_, line),) = printed(capsys, [45.0, 88.0], **{**hopeless, "epochs": 20})  # the end of a resumed run
    assert "days" in line and "more than" not in line
    flags = tiny_flags("--image_size", 800)
    assert shorter_recipe(flags, CPU) == "take @recipes/small_cpu.args instead, or a GPU"
    assert shorter_recipe(flags, CUDA) == "take @recipes/one_gpu_448.args instead"
    assert shorter_recipe(flags.replace(image_size=448), CUDA) == "give --precision auto"
    assert "@recipes/four_gpus_448.args" in shorter_recipe(flags.replace(image_size=448, precision="auto"), CUDA)


def test_the_recipes_that_are_advised_are_smaller() -> None:
    """Who follows the advice does not get it again, as long as there is any other."""
    for name, device in (("small_cpu", CPU), ("one_gpu_448", CUDA), ("four_gpus_448", CUDA)):
        assert (
            f"{name}.args" not in shorter_recipe(parse(get_args_parser(), [f"@{RECIPES}/{name}.args"]), device) or name[0] == "f"
        )


@pytest.mark.parametrize(
    "every, start, done, scored", [(1, 0, 0, 7), (3, 0, 0, 3), (3, 4, 0, 2), (3, 2, 2, 2), (100, 0, 0, 1), (2, 6, 2, 0)]
)
def test_the_epochs_that_are_scored_are_counted(every: int, start: int, done: int, scored: int) -> None:
    """Of seven epochs of two batches, every third and the last: 3, 6 and 7; from a start within them, those that are left."""
    args = tiny_flags("--epochs", 7, "--eval_every", every, "--start_epoch", start)
    schedule = SizeSchedule("", args.image_size, args.epochs)
    made = make_forecast(args, TrainSampler(24, 12, 0, None), done, 12, schedule, CPU)
    assert made.evaluation * made.epochs == pytest.approx(scored * 12 / 24 * forecast.FORWARD_SHARE * 2)


def test_a_gpu_is_waited_for_twice_only(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[object] = []
    cuda = SimpleNamespace(synchronize=waits.append, max_memory_allocated=lambda device: 2**31)
    monkeypatch.setattr(forecast, "torch", SimpleNamespace(cuda=cuda))
    ((step, line),) = printed(capsys, [float(n) for n in range(1, 20)], device=CUDA)
    assert step == 6 and waits == [CUDA, CUDA] and line.endswith("2.0 GiB of GPU memory\n")


def test_a_training_prints_the_line_once_and_its_numbers_do_not_change(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "--square --image_size 48 --feature_stride 16 --batch_size 6 --epochs 2 --accumulate 2 --ema 0.5 --dataset_name colours"
    )
    weights, lines = [], []
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr(Forecast, "after_step", lambda self: None)
        main.main(tiny_flags(*words.split(), "--dataset_path", colours, "--output_dir", tmp_path / name))
        weights.append(torch.load(tmp_path / name / "colours" / "output_sub" / "checkpoint.pth", weights_only=True))
        lines.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("with these flags: ")])
    assert len(lines[0]) == 1 and "measured on 1 step;" in lines[0][0] and "the 2 epochs to go" in lines[0][0] and not lines[1]
    for entry in ("model", "ema"):
        assert all(torch.equal(weights[0][entry][key], value) for key, value in weights[1][entry].items())
