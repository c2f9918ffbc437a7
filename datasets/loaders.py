"""From flags to data sets and loaders: the only file of this package that sees `args`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.utils.data import Sampler

from datasets.batch import collate
from datasets.cache_folder import Split, use_cache
from datasets.folders import class_folders
from datasets.image_folder import ImageFolder, Sample, open_split, split_folder
from datasets.samplers import EvalSampler
from datasets.scan import eval_shapes
from datasets.transforms import EvalTransform, Reduction, eval_transform, train_transform
from datasets.workers import Loader
from util.classes import class_key
from util.ranks import Ranks


def training_classes(args: argparse.Namespace, saved: Sequence[str] | None = None) -> list[str]:
    """Return the names of the training split's classes, in label order; a ValueError if there are fewer than two.

    Where those of a checkpoint, `saved`, are the same but for their Unicode form and order, the result is `saved`.
    """
    folder = split_folder(args.dataset_path, args.dataset_name, "train")
    classes = list(class_folders(folder))
    if len(classes) < 2:
        raise ValueError(f"{folder} has a single class, {classes[0]}: a classifier needs two")
    same = saved is not None and sorted(map(class_key, saved)) == sorted(map(class_key, classes))
    return list(saved) if saved is not None and same else classes


def build_datasets(args: argparse.Namespace, classes: Sequence[str]) -> tuple[ImageFolder, ImageFolder]:
    """Build the training split, each of whose `classes` has an image, and the split that is scored after every epoch.

    Raises a ValueError as `open_split` and `train_transform`.
    """
    transform = train_transform(
        args.image_size, args.square, args.crop_min, args.hflip, args.color_jitter, args.randaugment, args.random_erasing
    )
    train_set = open_split(args.dataset_path, args.dataset_name, "train", classes, transform, complete=True)
    transform = eval_transform(args.image_size, args.square)
    return train_set, open_split(args.dataset_path, args.dataset_name, args.test, classes, transform)


def cache_pictures(args: argparse.Namespace, ranks: Ranks, train_set: ImageFolder | None, scored: ImageFolder) -> None:
    """Give the training images, if there are any, and those that are scored the cache of --cache; ValueError as `use_cache`."""
    if not args.cache:
        return
    assert isinstance(scored.transform, EvalTransform), "a random transform cannot be kept"
    splits: list[Split] = [(scored, scored.transform)]
    if train_set is not None:
        splits.insert(0, (train_set, Reduction(args.image_size, args.square, args.crop_min)))
    use_cache(args.cache, splits, max(1, args.num_workers), ranks)


def build_loader(
    args: argparse.Namespace,
    dataset: ImageFolder,
    sampler: Sampler[list[Sample]] | Sampler[list[int]],
    device: torch.device,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Loader:
    """Build the loader of the batches that `sampler` chooses, in pinned memory for a GPU; `waiting` as of `Loader`."""
    return Loader(
        dataset,
        waiting=waiting,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=args.num_workers,
        generator=torch.Generator(),  # the loader's own draws must not move the state that dropout draws from
        persistent_workers=args.num_workers > 0,
        pin_memory=device.type == "cuda",
    )


def build_eval_loader(
    args: argparse.Namespace,
    dataset: ImageFolder,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Loader:
    """Build the loader of this rank's share of a split, in batches without padding: no image changes the score of another."""
    shapes = eval_shapes(dataset, args.num_workers)
    return build_loader(args, dataset, EvalSampler(len(dataset), args.batch_size, rank, world_size, shapes), device, waiting)
