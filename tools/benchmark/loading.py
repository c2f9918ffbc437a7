"""Data loading: how fast one thread turns image files into normalised batches, by ICN's pipeline and by INTR's on PIL images."""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets import (
    EvalSampler,
    ImageFolder,
    TrainSampler,
    collate,
    eval_shapes,
    eval_transform,
    train_transform,
    training_scales,
)
from tools.benchmark.implementations import pil_loading as pil

SIZES = ((500, 375), (1024, 683))  # width, height of the files
RECIPES = ("aspect 800 training", "aspect 800 evaluation", "square 448 training", "square 448 evaluation")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = 24  # files per size
ROUNDS = 3  # at least

Step = Callable[[], Tensor]  # one batch, normalised: float32 [B, 3, H, W]


def measure_loading(
    seconds: float = 4.0,
    sizes: Sequence[tuple[int, int]] = SIZES,
    recipes: Sequence[str] = RECIPES,
    batch_size: int = 12,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Alternate a batch of each pipeline, from JPEG files in the page cache to the normalised batch.

    Args:
        seconds: for each row, at least; three rounds are always made.
        sizes: (width, height) of the JPEG files, which are made in a temporary folder.
        recipes: of `RECIPES`: `aspect 800` is INTR's, `square 448` a random resized crop or the whole image.
        batch_size: images per batch.
        seed: of the images and of the augmentation.

    Returns:
        A row for each size and recipe: `recipe`, `width`, `height`, `file_kb` (mean size of the files), `batch_size`,
        `rounds`; `icn` and `pil`, images per second, each a dict of `median`, `low` and `high` (quartiles over the rounds);
        `ratio` of the medians.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = []
            for width, height in sizes:
                root = Path(folder) / f"{width}x{height}"
                write_photographs(root / "class", width, height, IMAGES, seed)
                file_kb = statistics.mean(path.stat().st_size for path in root.rglob("*.jpg")) / 1000
                for recipe in recipes:
                    row = {"recipe": recipe, "width": width, "height": height, "file_kb": round(file_kb, 1)}
                    rows.append(row | _compare(root, recipe, batch_size, seconds, seed))
            return rows
    finally:
        torch.set_num_threads(threads)


def write_photographs(folder: Path, width: int, height: int, count: int, seed: int = 0) -> None:
    """Write crops of one photograph (matplotlib's, of Grace Hopper), with noise, as JPEG files of quality 90."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    source = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    with Image.open(source) as file:
        photograph = file.convert("RGB")
    for i in range(count):
        part_width = min(photograph.width, photograph.height * width / height) * rng.uniform(0.7, 1.0)
        part_height = part_width * height / width
        left = rng.uniform(0, photograph.width - part_width)
        top = rng.uniform(0, photograph.height - part_height)
        box = (left, top, left + part_width, top + part_height)
        part = np.asarray(photograph.resize((width, height), Image.Resampling.BICUBIC, box))
        grain = rng.normal(0, 4, (height, width, 1)) + rng.normal(0, 2, (height, width, 3))
        Image.fromarray(np.clip(part + grain, 0, 255).astype(np.uint8)).save(folder / f"{i:03}.jpg", quality=90)


def icn_batches(root: Path, recipe: str, batch_size: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield normalised batches of ICN's own data sets and samplers, endlessly."""
    kind, size, mode = _parse(recipe)
    square = kind == "square"
    if mode == "training":
        data = ImageFolder(root, transform=train_transform(size, square))
        sampler: TrainSampler | EvalSampler = TrainSampler(len(data), batch_size, seed, None if square else training_scales(size))
    else:
        data = ImageFolder(root, transform=eval_transform(size, square))
        sampler = EvalSampler(len(data), batch_size, shapes=eval_shapes(data, workers=1))
    for epoch in itertools.count():
        if isinstance(sampler, TrainSampler):
            sampler.set_epoch(epoch)
        for batch in sampler:
            yield collate([data[request] for request in batch]).normalise(MEAN, STD)


def pil_batches(root: Path, recipe: str, batch_size: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield normalised batches of INTR's pipeline on the same files, endlessly."""
    kind, size, mode = _parse(recipe)
    paths = sorted(map(str, root.rglob("*.jpg")))
    transforms: dict[tuple[str, str], Any] = {
        ("aspect", "training"): pil.aspect_train,
        ("aspect", "evaluation"): pil.aspect_eval,
        ("square", "training"): pil.square_train(size),
        ("square", "evaluation"): pil.square_eval(size),
    }
    random.seed(seed)
    torch.manual_seed(seed)
    while True:
        if mode == "training":
            random.shuffle(paths)
        for start in range(0, len(paths), batch_size):
            images = [pil.load(path, transforms[kind, mode], MEAN, STD) for path in paths[start : start + batch_size]]
            yield pil.collate(images)[0]


def _compare(root: Path, recipe: str, batch_size: int, seconds: float, seed: int) -> dict[str, Any]:
    """Return batch size, rounds, the rates of both pipelines and their ratio."""
    pipelines = {"icn": icn_batches(root, recipe, batch_size, seed), "pil": pil_batches(root, recipe, batch_size, seed)}
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
        low, median, high = np.percentile(values, [25, 50, 75])
        result[name] = {"median": round(float(median), 1), "low": round(float(low), 1), "high": round(float(high), 1)}
    return result | {"ratio": round(statistics.median(rates["icn"]) / statistics.median(rates["pil"]), 2)}


def _parse(recipe: str) -> tuple[str, int, str]:
    if recipe not in RECIPES:
        raise ValueError(f"recipe {recipe!r} is not known; allowed: {', '.join(RECIPES)}")
    kind, size, mode = recipe.split()
    return kind, int(size), mode
