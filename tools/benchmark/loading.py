"""Data loading: how fast one thread turns image files into normalised batches, by ICN's pipeline and by INTR's on PIL images."""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import functional as F

import datasets
from tools.benchmark.cases import quartiles
from util.plotting import DATA

SIZES = ((500, 375), (1024, 683))  # width, height of the files
# INTR's, and square images: a random resized crop, or the whole image
RECIPES = ("aspect 800 training", "aspect 800 evaluation", "square 448 training", "square 448 evaluation")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALES, LONGEST = range(480, 801, 32), 1333  # INTR's, pixels
ZOOMS, CROPS = (400, 500, 600), (384, 600)
IMAGES, ROUNDS = 24, 3  # files per size; rounds at least


def measure_loading(seconds: float = 4.0, sizes: Sequence[tuple[int, int]] = SIZES, batch_size: int = 12) -> list[dict[str, Any]]:
    """Alternate a batch of each pipeline, from JPEG files in the page cache to the normalised batch.

    Args:
        seconds: for each row, at least; three rounds are always made.
        sizes: (width, height) of the JPEG files, which are made in a temporary folder.

    Returns:
        A row for each size and recipe, with the mean size of the files, `file_kb`; `icn` and `pil`: images per second, each a
        dict of `median`, `low` and `high` (quartiles over the rounds); `ratio` of the medians.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for width, height in sizes:
                root = Path(folder) / f"{width}x{height}"
                write_photographs(root / "class", width, height, IMAGES)
                file_kb = statistics.mean(path.stat().st_size for path in root.rglob("*.jpg")) / 1000
                for recipe in RECIPES:
                    row = {"recipe": recipe, "width": width, "height": height, "file_kb": round(file_kb, 1)}
                    rows.append(row | _compare(root, recipe, batch_size, seconds))
    finally:
        torch.set_num_threads(threads)
    return rows


def write_photographs(folder: Path, width: int, height: int, count: int) -> None:
    """Write crops of one photograph (matplotlib's, of Grace Hopper), with noise, as JPEG files of quality 90."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with Image.open(DATA / "sample_data" / "grace_hopper.jpg") as file:
        photograph = file.convert("RGB")
    for i in range(count):
        part_width = min(photograph.width, photograph.height * width / height) * rng.uniform(0.7, 1.0)
        part_height = part_width * height / width
        left, top = rng.uniform(0, photograph.width - part_width), rng.uniform(0, photograph.height - part_height)
        box = (left, top, left + part_width, top + part_height)
        part = np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC, box))
        grain = rng.normal(0, 4, (height, width, 1)) + rng.normal(0, 2, (height, width, 3))
        Image.fromarray(np.clip(part + grain, 0, 255).astype(np.uint8)).save(folder / f"{i:03}.jpg", quality=90)


def icn_batches(root: Path, recipe: str, batch_size: int) -> Iterator[Tensor]:
    """Yield normalised float32 batches `[B, 3, H, W]` of ICN's own data sets and samplers, endlessly."""
    kind, pixels, mode = recipe.split()
    square, size, training = kind == "square", int(pixels), mode == "training"
    make_transform = datasets.train_transform if training else datasets.eval_transform
    data = datasets.ImageFolder(root, transform=make_transform(size, square))
    train_sampler = datasets.TrainSampler(len(data), batch_size, 0, None if square else datasets.training_scales(size))
    shapes = None if training else datasets.eval_shapes(data, workers=1)
    for epoch in itertools.count():
        train_sampler.set_epoch(epoch)
        for batch in train_sampler if training else datasets.EvalSampler(len(data), batch_size, shapes=shapes):
            yield datasets.collate([data[request] for request in batch]).normalise(MEAN, STD)


def pil_batches(root: Path, recipe: str, batch_size: int) -> Iterator[Tensor]:
    """Yield normalised batches of INTR's pipeline on the same files, endlessly."""
    paths = sorted(map(str, root.rglob("*.jpg")))
    transforms: dict[str, Any] = {
        "aspect 800 training": aspect_train,
        "aspect 800 evaluation": lambda image: short_side(image, 800, LONGEST),
        "square 448 training": T.Compose([T.RandomResizedCrop(448), T.RandomHorizontalFlip()]),
        "square 448 evaluation": T.Resize((448, 448)),
    }
    random.seed(0)
    torch.manual_seed(0)
    while True:
        if recipe.endswith("training"):
            random.shuffle(paths)
        for start in range(0, len(paths), batch_size):
            images = [transforms[recipe](Image.open(path).convert("RGB")) for path in paths[start : start + batch_size]]
            yield collate_pil([F.normalize(F.to_tensor(image), MEAN, STD) for image in images])[0]


def collate_pil(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad images `[3, h, w]`: return float32 `[B, 3, H, W]`, 0 on padding, and bool `[B, H, W]`, True on padding."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    batch = torch.zeros(len(images), 3, height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for image, place, flags in zip(images, batch, mask, strict=True):
        h, w = image.shape[1:]
        place[:, :h, :w].copy_(image)
        flags[:h, :w] = False
    return batch, mask


def aspect_train(image: Image.Image) -> Image.Image:
    """Augment as INTR does at 800: flip, half of the time zoom and crop, one of eleven scales."""
    if random.random() < 0.5:
        image = F.hflip(image)
    if random.random() >= 0.5:
        image = short_side(image, random.choice(ZOOMS))
        width, height = (random.randint(CROPS[0], min(side, CROPS[1])) for side in image.size)
        image = F.crop(image, *T.RandomCrop.get_params(image, (height, width)))
    return short_side(image, random.choice(SCALES), LONGEST)


def short_side(image: Image.Image, short: int, longest: int | None = None) -> Image.Image:
    """Resize so that the short side has `short` pixels, or fewer where the long one would get more than `longest`."""
    small, large = sorted(image.size)
    if longest is not None and large / small * short > longest:
        short = round(longest * small / large)
    if small == short:
        return image
    long = int(short * large / small)
    return image.resize((short, long) if image.width < image.height else (long, short), Image.Resampling.BILINEAR)


def _compare(root: Path, recipe: str, batch_size: int, seconds: float) -> dict[str, Any]:
    """Return batch size, rounds, the rates of both pipelines and their ratio."""
    pipelines = {"icn": icn_batches(root, recipe, batch_size), "pil": pil_batches(root, recipe, batch_size)}
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    for batches in pipelines.values():
        next(batches)  # warm-up
    start = time.perf_counter()
    while len(rates["pil"]) < ROUNDS or time.perf_counter() - start < seconds:
        for name, batches in pipelines.items():
            before = time.perf_counter()
            images = next(batches)
            rates[name].append(len(images) / (time.perf_counter() - before))
            del images  # freed outside of the next measurement
    result: dict[str, Any] = {"batch_size": batch_size, "rounds": len(rates["icn"])}
    for name, values in rates.items():
        result[name] = {key: round(value, 1) for key, value in zip(("low", "median", "high"), quartiles(values), strict=True)}
    return result | {"ratio": round(statistics.median(rates["icn"]) / statistics.median(rates["pil"]), 2)}
