"""Expected hours and memory of the recipes for the public data sets: computed, not run.

`python -m tools.recipe_costs` writes the table of docs/training.md anew, from the recipes' flags, the numbers of images in
docs/data.md, the operations that torch counts in the network, and the figures below.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/recipe_costs.py` works too

import torch
from torch.utils.flop_counter import FlopCounterMode

from flags import get_args_parser as main_flags
from models import build_model
from util.atomic import atomic_write
from util.cli import Flags, Parser, launch, parse
from util.tables import markdown_table, replace_table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "training.md"
SETS = ("fgvc_aircraft", "cub", "stanford_cars", "stanford_dogs", "oxford_pets", "oxford_flowers", "nabirds")
# Assumptions, as in docs/distributed.md: operations per second of a GPU, bytes per second between those of a machine.
GPU, LINK = 30e12, 20e9
# Measured (docs/distributed.md, docs/speed.md), in seconds: a training step of 8 images of 100 classes on two threads in bf16;
# the time of one core per image to decode and augment, and to decode.
CPU_STEP, AUGMENT, DECODE = 2.92, 0.040, 0.005
# Measured, docs/speed.md: peak memory in GiB of a step at 448 pixels (bf16) by (batch size, classes); CUDA itself: an assumption.
MEMORY = {(4, 100): 1.12, (16, 100): 2.47, (4, 555): 1.59}
CUDA = 1.0


class DataSet(NamedTuple):
    """Numbers of a data set: images to train on and to score after an epoch, classes."""

    train: int
    scored: int
    classes: int


class Network(NamedTuple):
    """Multiply-adds of a forward pass of one image, and trained parameters."""

    multiply_adds: float
    parameters: int


def get_args_parser() -> Parser:
    """Return the flags: there are none."""
    return Parser("python -m tools.recipe_costs", description=__doc__)


def main(args: argparse.Namespace) -> None:
    """Write the table into docs/training.md."""
    page = replace_table(PAGE.read_text(encoding="utf-8"), "costs", table())
    with atomic_write(PAGE) as file:
        file.write(page)
    print(f"written: the table of {PAGE}")


def table(names: Sequence[str] = SETS) -> str:
    """Return the table of expected hours and memory of some data sets as Markdown."""
    rows = []
    for name in names:
        one, four, control = recipe("one_gpu_448", name), recipe("four_gpus_448", name), recipe("one_gpu_448", name, "control")
        data = read_numbers(one.dataset_name)
        network, plain = (measure(args, data.classes) for args in (one, control))
        cells = [f"`{name}`", f"{data.train:,} / {data.scored:,}", f"{data.classes}", f"{one.epochs}"]
        cells += [f"{hours(one, network, data):.1f} h", f"{memory(one, network, data):.1f} GiB"]
        cells += [f"{hours(four, network, data, 4):.1f} h", f"{memory(four, network, data):.1f} GiB"]
        rows.append([*cells, f"{hours(control, plain, data):.1f} h", f"{cpu_days(one, network, data):.1f} days"])
    heads = ["data set", "train / scored", "classes", "epochs", "1 GPU", "memory", "4 GPUs", "memory of each", "control, 1 GPU"]
    return markdown_table([*heads, "two CPU threads"], rows, text_columns=1)


def recipe(*names: str) -> Flags:
    """Return the flags of recipes, one after the other."""
    return parse(main_flags(), [f"@{ROOT / 'recipes' / name}.args" for name in names])


def read_numbers(name: str) -> DataSet:
    """Return the numbers of a public data set from the table of docs/data.md."""
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{name}` \|[^|]*\| ([\d,]+) / ([\d,]+)[^|]*\| (\d+)", text, re.MULTILINE)
    assert row, f"docs/data.md has no row of {name}"
    return DataSet(*(int(number.replace(",", "")) for number in row.groups()))


def measure(args: Flags, classes: int) -> Network:
    """Count the operations of the network of a recipe, without memory for its tensors."""
    layered = args.decoder == "detr"
    layers = {} if layered else {"enc_layers": 0, "dec_layers": 0}
    args = args.replace(num_queries=classes, backbone_norm="frozen", **layers)
    with torch.device("meta"):
        model = build_model(args).eval()
        image = torch.zeros(1, 3, args.image_size, args.image_size)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    model.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model(image)
    return Network(counter.get_total_flops() / 2, trained)


def hours(args: Flags, network: Network, data: DataSet, gpus: int = 1) -> float:
    """Return the expected hours: a step takes the longest of computing, exchanging gradients and loading.

    A training step is three forward passes; the backward pass hides as much of the exchange as it is long.
    """
    compute = args.batch_size * 3 * 2 * network.multiply_adds / GPU
    exchange = 2 * (gpus - 1) / gpus * 4 * network.parameters / LINK
    step = max(compute, compute / 3 + exchange, args.batch_size * AUGMENT / args.num_workers)
    scoring = data.scored / gpus * max(2 * network.multiply_adds / GPU, DECODE / args.num_workers)
    return args.epochs * (data.train / (args.batch_size * gpus) * step + scoring) / 3600


def memory(args: Flags, network: Network, data: DataSet) -> float:
    """Return the expected memory of a GPU in GiB: the benchmark's, linear in batch size and classes, and that of the EMA."""
    per_image = (MEMORY[16, 100] - MEMORY[4, 100]) / 12
    per_class = (MEMORY[4, 555] - MEMORY[4, 100]) / (4 * 455)  # and image
    fixed = MEMORY[4, 100] - 4 * per_image
    images = args.batch_size * (per_image + per_class * (data.classes - 100))
    return fixed + images + 4 * network.parameters / 2**30 * bool(args.ema) + CUDA


def cpu_days(args: Flags, network: Network, data: DataSet) -> float:
    """Return the expected days on two threads, at the benchmark's operations per second; scoring is a third of training."""
    benchmark = measure(args, 100)
    image = CPU_STEP / 8 * network.multiply_adds / benchmark.multiply_adds
    return args.epochs * (data.train + data.scored / 3) * image / 86400


if __name__ == "__main__":
    launch(main, get_args_parser())
