"""Images per second of a training at one size or several: of its loaders, of its bare step, and of `main.py`, which has both.

The pictures are crops of a photograph, of which many are hard links to one file: what is decoded is as much as in a data set of
as many pictures, what is read from the disk is not. The weights are random, but loaded from a file, so that batch norms and
learning rates are those of a start from ImageNet weights.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch

import main
from datasets import TrainSampler
from datasets.decode import set_decoding
from datasets.device_cache import use_device
from datasets.loaders import build_datasets, build_loader, training_classes
from datasets.transforms import Reduction
from flags import get_args_parser, resolve
from models import build_model
from tools.benchmark.implementations.icn import make_batch
from tools.benchmark.loading import write_photographs
from trainer import build_trainer
from util.atomic import atomic_write
from util.cli import Flags, Parser, launch, parse
from util.device import memory_format, select_device
from util.precision import select_precision
from util.ranks import SINGLE_PROCESS

CLASSES, ORIGINALS = 100, 60  # of the data set; different pictures in it
RESIDENT, REPEATS = 1000, 10  # pictures that are loaded onto the device to measure --cache gpu, and epochs of them at most
MEASURED = 6.0  # seconds of the loader, and of the bare step


def make_data(root: Path, pictures: int) -> int:
    """Write `root/pictures/{train,val}/<class>/<n>.jpg`; half as many to score. Return the number of classes."""
    classes = min(CLASSES, pictures // 2)
    originals = root / "originals"
    if not originals.exists():
        write_photographs(originals, 1024, 683, min(ORIGINALS, pictures))
    files = sorted(originals.iterdir())
    for split, count in (("train", pictures), ("val", max(classes, pictures // 2))):
        for index in range(count):
            file = root / "pictures" / split / f"class{index % classes:03}" / f"{index:05}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                os.link(files[index % len(files)], file)
    return classes


def measure(args: Flags, folder: Path) -> dict[str, Any]:
    """Return the rates and seconds of a training with these flags: the second epoch's, in which all is warm."""
    device = select_device(args.device)
    set_decoding(args.bit_depth, args.max_image_mb)
    classes = training_classes(args)
    resolved = resolve(args, classes)
    precision = select_precision(args.precision, device)
    row: dict[str, Any] = {"size": args.image_size, "batch_size": args.batch_size, "precision": precision.name}
    row |= {"workers": args.num_workers, "bare_img_per_s": bare_rate(resolved, device), "loader_img_per_s": loader_rate(resolved)}
    row["cache_gpu_img_per_s"] = loader_rate(resolved, device)
    main.main(args)
    log = (folder / args.dataset_name / args.output_sub_dir / "log.txt").read_text().splitlines()
    first, last = (json.loads(line) for line in log[-2:])
    row |= {"training_img_per_s": last["train_img_per_s"], "data_wait": last["train_data_wait"]}
    row |= {"train_seconds": last["train_seconds"], "epoch_seconds": last["elapsed"] - first["elapsed"]}
    if device.type == "cuda":
        row |= {"gpu_gib": torch.cuda.max_memory_allocated(device) / 2**30}
    return row


def bare_rate(args: Flags, device: torch.device) -> float:
    """Return images per second of the training step alone, on one batch in pinned memory."""
    torch.backends.cudnn.benchmark = True
    model = build_model(args).to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
    trainer = build_trainer(args, model, select_precision(args.precision, device), model.backbone[0].normalisation, 1000)
    side, count = args.image_size, args.batch_size
    batch = make_batch({"batch_size": count, "height": side, "width": side, "classes": args.num_queries}, device)

    def steps(number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            trainer.step([batch.to(device)])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    steps(3)  # warm-up
    number = max(2, min(200, int(MEASURED / steps(1))))
    return number * count / steps(number)


def loader_rate(args: Flags, resident: torch.device | None = None) -> float:
    """Return images per second of the loader alone, once its workers run; `resident`: with the pictures on that device."""
    train_set, _ = build_datasets(args, training_classes(args))
    if resident is not None:
        train_set.paths, train_set.labels = train_set.paths[:RESIDENT], train_set.labels[:RESIDENT]
        kept = Reduction(args.image_size, args.square, args.crop_min)
        use_device([(train_set, kept)], max(1, args.num_workers), SINGLE_PROCESS, resident)
    sampler = TrainSampler(len(train_set), args.batch_size, args.seed, None)
    loader = build_loader(args, train_set, sampler, torch.device("cpu"))
    batches = chain.from_iterable(repeat(loader, 1 if resident is None else REPEATS))
    next(batches)
    start, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch)
        if time.perf_counter() - start > MEASURED:
            break
    if resident is not None and resident.type == "cuda":
        torch.cuda.synchronize(resident)
    return count / (time.perf_counter() - start)


def random_backbone(path: Path, args: Flags) -> Path:
    """Write a file of random weights of the backbone, to start from."""
    torch.manual_seed(0)
    body = build_model(args.replace(num_queries=2, backbone_norm="frozen")).backbone[0].body
    torch.save({name.removeprefix("model."): tensor for name, tensor in body.state_dict().items()}, path)
    return path


def training_words(args: argparse.Namespace, folder: Path) -> list[str]:
    """Return the command line of the training: the recipe for two epochs on the pictures in `folder`, then the flags."""
    words = [f"@{args.recipe}", "--epochs", 2, "--warmup_epochs", 0, "--num_workers", min(16, os.cpu_count() or 1)]
    words += ["--dataset_path", folder, "--dataset_name", "pictures", "--output_dir", folder / "output"]
    return [*map(str, words), *args.flags.split(), "--device", args.device]


def run(args: argparse.Namespace) -> None:
    """Measure each size that has no file yet, and write its file at once."""
    folder = Path(args.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    make_data(folder, args.pictures)
    words = training_words(args, folder)
    for size in args.sizes:
        if (folder / f"{size}.json").exists():  # of the part before
            continue
        flags = parse(get_args_parser(), [*words, "--image_size", str(size), "--output_sub_dir", f"size{size}"])
        weights = random_backbone(folder / "backbone.pth", flags)
        row = measure(parse_again(flags, weights), folder / "output")
        with atomic_write(folder / f"{size}.json") as file:
            file.write(json.dumps(row, indent=1) + "\n")
        print(row, flush=True)


def parse_again(flags: Flags, weights: Path) -> Flags:
    """Return the flags with the backbone's weights as if they had been typed."""
    return flags.replace(backbone_weights=str(weights), explicit=flags.explicit | {"backbone_weights"})


def own_parser() -> argparse.ArgumentParser:
    parser = Parser("python -m tests.gpu.epochs", description=__doc__)
    parser.add_argument("--device", required=True, help="of the training")
    parser.add_argument("--recipe", required=True, help="file of flags")
    parser.add_argument("--flags", default="", help="further flags")
    parser.add_argument("--folder", required=True, help="of the pictures and the results")
    parser.add_argument("--pictures", type=int, required=True, help="training pictures")
    parser.add_argument("--sizes", nargs="+", type=int, required=True, help="in pixels")
    return parser


if __name__ == "__main__":
    launch(run, own_parser())
