"""The files of flags in recipes/: each parses, goes with the others as documented, and trains a step of a small network."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from documentation_commands import ROOT

import main
import run_with_submitit
from datasets.prepare import SOURCES
from util.cli import Flags, parse

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.args"))
SETS = ["fgvc_aircraft", "cub", "stanford_cars", "stanford_dogs", "oxford_pets", "oxford_flowers", "nabirds"]
HARDWARE = {"one_gpu_448": 1, "four_gpus_448": 4, "slurm_448": 4}  # processes
ADDITIONS = [*SETS, "control"]  # come after another recipe
SMALL = "--backbone test_resnet --hidden_dim 32 --dim_feedforward 64 --nheads 4 --feature_stride 16 --image_size 48 --device cpu"
SMALL += " --num_workers 0 --batch_size 12 --epochs 1 --warmup_epochs 0 --dataset_name colours"


def flags(*names: str, more: str = "") -> Flags:
    """The flags of recipes, one after the other, as run_with_submitit.py reads them: those of main.py and of a job."""
    return parse(run_with_submitit.get_args_parser(), [*(f"@{ROOT}/recipes/{name}.args" for name in names), *more.split()])


def test_each_is_for_what_its_first_line_says() -> None:
    assert {*SETS, *HARDWARE, "control", "small_cpu", "from_intr", "fine_grained_448", "intr"} <= set(RECIPES)
    for name in RECIPES:
        lines = (ROOT / "recipes" / f"{name}.args").read_text().splitlines()
        assert lines[0].startswith("# ") and max(map(len, lines)) <= 130, name


def test_data_sets_go_with_all_hardware() -> None:
    for (hardware, processes), name in product(HARDWARE.items(), SETS):
        args, alone = flags(hardware, name), flags("fine_grained_448", name)
        assert args.dataset_name == name.replace("_", "-") and args.dataset_name in SOURCES
        assert args.batch_size * processes == alone.batch_size == 16, "a step has the same images on all"
        same = {"lr", "epochs", "image_size", "decoder", "ema", "color_jitter", "lr_scheduler", "square"}
        assert {each: getattr(args, each) for each in same} == {each: getattr(alone, each) for each in same}
    assert flags("slurm_448").ngpus == 4 and flags("slurm_448").cluster == "slurm"


def test_the_control_differs_in_its_decoder_and_folder_only() -> None:
    control, alone = vars(flags("one_gpu_448", "cub", "control")), vars(flags("one_gpu_448", "cub"))
    names = {name for name in alone if control[name] != alone[name]} - {"explicit"}
    assert names == {"decoder", "output_sub_dir"} and control["decoder"] == "average"


SAME = ["one_gpu_448", "four_gpus_448"]  # train what fine_grained_448 and slurm_448 do
TRAINED = [(name,) for name in RECIPES if name not in (*ADDITIONS, *SAME)] + [("one_gpu_448", "oxford_flowers", "control")]


@pytest.mark.parametrize("names", TRAINED, ids="-".join)
def test_each_trains_a_step(names: tuple[str, ...], colours: Path, tmp_path: Path) -> None:
    recipe = flags(*names)
    changes = " --enc_layers 1 --dec_layers 1" * (recipe.decoder == "detr") + " --size_schedule 32:0.5,48" * bool(
        recipe.size_schedule
    )
    args = flags(*names, more=f"{SMALL}{changes} --dataset_path {colours} --output_dir {tmp_path}")
    line: dict[str, Any] = main.main(args)
    assert line["step"] == 2 and line["test_images"] == 12 and line["train_loss"] > 0
