"""From flags to data sets and loaders: the only file of this package that sees `args`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeAlias

import torch
from torch.utils.data import Sampler

from datasets.batch import collate
from datasets.cache_folder import Split, use_cache
from datasets.cache_place import GPU
from datasets.device_cache import DeviceLoader, use_device
from datasets.feature_cache import FeatureLoader, FeatureMaps, FrozenBackbone, compute_maps
from datasets.feature_store import FeatureStore
from datasets.folders import class_folders
from datasets.grouping import Buckets, FewShapes
from datasets.image_folder import ImageFolder, Sample, Size, open_split, split_folder
from datasets.samplers import EvalSampler, TrainSampler, ViewSampler
from datasets.scan import eval_shapes, image_sizes
from datasets.size_schedule import SizeSchedule
from datasets.transforms import EvalTransform, Reduction, TrainTransform, eval_transform, train_transform
from datasets.workers import Loader
from util.classes import class_key
from util.ranks import Ranks

Batches: TypeAlias = Loader | DeviceLoader
NEEDS_PICTURES = ("adversarial", "mosaic", "locality", "size_schedule", "window")  # in every step, or at several sizes
MAPS_DEPEND_ON = (
    "backbone",
    "dilation",
    "feature_stride",
    "fuse",
    "image_size",
    "square",
    "bit_depth",
    "precision",
    "batch_size",
)
VIEWS_DEPEND_ON = ("seed", "crop_min", "hflip", "color_jitter", "randaugment", "random_erasing")


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
    augmented = train_transform(
        args.image_size, args.square, args.crop_min, args.hflip, args.color_jitter, args.randaugment, args.random_erasing
    )
    train_set = open_split(args.dataset_path, args.dataset_name, "train", classes, augmented, complete=True)
    transform = eval_transform(args.image_size, args.square)
    return train_set, open_split(args.dataset_path, args.dataset_name, args.test, classes, transform)


def cache_pictures(
    args: argparse.Namespace, ranks: Ranks, train_set: ImageFolder | None, scored: ImageFolder, device: torch.device
) -> None:
    """Give the training images, if there are any, and those that are scored the cache of --cache.

    Raises a ValueError as `use_cache` and `use_device`.
    """
    if not args.cache:
        return
    assert isinstance(scored.transform, EvalTransform), "a random transform cannot be kept"
    splits: list[Split] = [(scored, scored.transform)]
    if train_set is not None:
        splits.insert(0, (train_set, Reduction(args.image_size, args.square, args.crop_min)))
    if args.cache == GPU:
        use_device(splits, max(1, args.num_workers), ranks, device)
    else:
        use_cache(args.cache, splits, max(1, args.num_workers), ranks)


def build_train_sampler(args: argparse.Namespace, dataset: ImageFolder, schedule: SizeSchedule, ranks: Ranks) -> TrainSampler:
    """Build the sampler of this rank's training batches, grouped by aspect ratio unless all images have one.

    Each rank reads the headers of its share of the files. Raises a ValueError as `eval_shapes` and `TrainSampler`.
    """
    buckets = None
    if not args.square and not args.cache_features:  # kept features are padded at little cost
        parts = ranks.gather(image_sizes(dataset, dataset.paths[ranks.rank :: ranks.size], args.num_workers), slow=True)
        header = [parts[index % ranks.size][index // ranks.size] for index in range(len(dataset))]
        assert isinstance(dataset.transform, TrainTransform), "what is drawn decides over the aspect ratio"
        buckets = Buckets(header, dataset.transform, schedule)
    sizes = partial(schedule.choices, square=args.square)
    return TrainSampler(len(dataset), args.batch_size, args.seed, sizes, ranks.rank, ranks.size, buckets)


def build_loader(
    args: argparse.Namespace,
    dataset: ImageFolder,
    sampler: Sampler[list[Sample]] | Sampler[list[int]],
    device: torch.device,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    round_up: FewShapes | None = None,
) -> Batches:
    """Build the loader of the batches that `sampler` chooses, in pinned memory for a GPU.

    `waiting` is as of `Loader`, `round_up` as of `collate`.
    """
    if dataset.resident is not None:
        return DeviceLoader(dataset, sampler, round_up=round_up)
    return Loader(
        dataset,
        waiting=waiting,
        batch_sampler=sampler,
        collate_fn=partial(collate, round_up=round_up),
        num_workers=args.num_workers,
        generator=torch.Generator(),  # the loader's own draws must not move the state that dropout draws from
        persistent_workers=args.num_workers > 0,
        pin_memory=device.type == "cuda",
    )


def build_train_loader(
    args: argparse.Namespace,
    dataset: ImageFolder,
    sampler: TrainSampler,
    schedule: SizeSchedule,
    device: torch.device,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Batches:
    """Build the loader of the training batches that `sampler` chooses, of few shapes whatever those of the images."""
    return build_loader(args, dataset, sampler, device, waiting, None if args.square else FewShapes.of(schedule))


def build_eval_loader(
    args: argparse.Namespace,
    dataset: ImageFolder,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Batches:
    """Build the loader of this rank's share of a split, in batches without padding: no image changes the score of another."""
    shapes = eval_shapes(dataset, args.num_workers) if dataset.resident is None else dataset.resident.sizes
    return build_loader(args, dataset, EvalSampler(len(dataset), args.batch_size, rank, world_size, shapes), device, waiting)


def check_features(args: argparse.Namespace) -> None:
    """Raise ValueError where --cache_features goes with flags under which features are not the same in every epoch."""
    flag = f"--cache_features {args.cache_features}"
    if not args.cache_features:
        return
    if args.cache == GPU:
        raise ValueError(f"{flag}: features are kept, pictures are read once a view: give --cache a folder, or leave it out")
    if args.lr_backbone:
        raise ValueError(f"{flag}: the backbone is trained (--lr_backbone {args.lr_backbone:g}): give --lr_backbone 0")
    if args.backbone_norm == "batch":
        raise ValueError(f"{flag}: --backbone_norm batch computes features from a whole batch: give --backbone_norm frozen")
    if args.world_size > 1:
        raise ValueError(f"{flag}: {args.world_size} processes cannot share features: start one process")
    for name in NEEDS_PICTURES:
        if getattr(args, name):
            raise ValueError(f"{flag}: --{name} {getattr(args, name)} needs the pictures in every epoch: leave one out")


def build_feature_loaders(
    args: argparse.Namespace,
    backbone: FrozenBackbone,
    train_set: ImageFolder,
    val_set: ImageFolder,
    sampler: TrainSampler,
    scales: Sequence[Size],
    device: torch.device,
    after_batch: Callable[[], None],
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[FeatureLoader, FeatureLoader]:
    """Build the loaders of --cache_features: of the training, whose batches `sampler` chooses, and of the split that is scored.

    View v of a picture has the augmentation of epoch v, at one scale for all: the largest of `scales`, then the smaller ones.

    Args:
        args: resolved flags that `check_features` allows.
        backbone: computes the features, once for each view, when it is first needed.
        train_set, val_set, sampler, device, waiting: as of a training on pictures.
        scales: those of which a training on pictures draws one for each batch, ascending.
        after_batch: called between batches while features are computed.

    Raises:
        ValueError: they do not fit.
    """
    views = min(args.cache_features, args.epochs)
    channels = int(backbone.network.num_channels)  # type: ignore[arg-type]
    store = FeatureStore(args.cache, channels, f"1 {device.type} {[getattr(args, name) for name in MAPS_DEPEND_ON]}")
    weights, seeds = backbone.fingerprint(), [getattr(args, name) for name in VIEWS_DEPEND_ON]
    train_files = [store.path(train_set, f"{weights} {view} {seeds} {scales}") for view in range(views)]
    val_file = store.path(val_set, weights)
    scored = EvalSampler(len(val_set), args.batch_size, shapes=eval_shapes(val_set, args.num_workers))
    shapes = eval_shapes(train_set.with_transform(eval_transform(args.image_size, args.square)), args.num_workers)
    needed = views * backbone.size(shapes) + backbone.size(eval_shapes(val_set, args.num_workers))
    store.check_room(needed, [*train_files, val_file])
    print(
        f"features: {views} view{'s' * (views > 1)} of each training picture and the {args.test} pictures take about "
        f"{needed / 1e6:.1f} MB {'in memory' if store.folder is None else f'in {store.folder}'} (float16)"
    )

    def train_view(view: int) -> FeatureMaps:
        once = ViewSampler(len(train_set), args.batch_size, args.seed, view, scales[-1 - view % len(scales)])
        loader = build_loader(args, train_set, once, device, waiting)
        label = f"features, view {view + 1} of {views}"
        return store.keep(
            train_files[view], range(len(train_set)), lambda: compute_maps(backbone, loader, device, label, after_batch)
        )

    def val_view(view: int) -> FeatureMaps:
        order = [index for batch in scored for index in batch]
        loader = build_loader(args, val_set, scored, device, waiting)
        return store.keep(val_file, order, lambda: compute_maps(backbone, loader, device, f"features, {args.test}", after_batch))

    return FeatureLoader(train_set, sampler, views, train_view), FeatureLoader(val_set, scored, 1, val_view)
