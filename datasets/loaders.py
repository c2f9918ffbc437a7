"""From flags to data sets and loaders, and the lifetime of loader workers: the only file of this package that sees `args`."""

from __future__ import annotations

import argparse
import multiprocessing.util
import signal
import sys
from collections.abc import Sequence
from types import TracebackType

import torch
from torch.utils.data import DataLoader, Sampler

from datasets.batch import collate
from datasets.folders import class_folders, class_key
from datasets.image_folder import ImageFolder, Sample, open_split, split_folder
from datasets.samplers import EvalSampler
from datasets.scan import eval_shapes
from datasets.transforms import eval_transform, train_transform


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


def build_loader(
    args: argparse.Namespace, dataset: ImageFolder, sampler: Sampler[list[Sample]] | Sampler[list[int]], device: torch.device
) -> DataLoader:
    """Build the loader of the batches that `sampler` chooses, in pinned memory for a GPU."""
    kill_workers_at_exit()
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=args.num_workers,
        worker_init_fn=preemption_worker_init,
        generator=torch.Generator(),  # the loader's own draws must not move the state that dropout draws from
        persistent_workers=args.num_workers > 0,
        pin_memory=device.type == "cuda",
    )


def build_eval_loader(
    args: argparse.Namespace, dataset: ImageFolder, device: torch.device, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """Build the loader of this rank's share of a split, in batches without padding: no image changes the score of another."""
    shapes = eval_shapes(dataset, args.num_workers)
    return build_loader(args, dataset, EvalSampler(len(dataset), args.batch_size, rank, world_size, shapes), device)


def worker_init(worker_id: int) -> None:
    """Set up a worker (`DataLoader(worker_init_fn=)`): one thread, and Ctrl-C is left to the main process.

    Ctrl-C reaches every process of a terminal: each worker would print a traceback of its own. So would its thread that
    passes tensors on when the main process dies in the middle of that.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _ignore_lost_connection


def preemption_worker_init(worker_id: int) -> None:
    """Set up a worker as `worker_init` does, and leave the signals of preemption, SIGTERM and SIGUSR2, to the main process.

    A cluster sends them to every process of a job, while its main processes still need the batches of their step.
    """
    worker_init(worker_id)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def kill_workers_at_exit() -> None:
    """Kill the remaining workers when this process exits: multiprocessing would send SIGTERM, which they ignore, and wait."""

    def kill() -> None:
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()

    multiprocessing.util.Finalize(None, kill, exitpriority=100)


def _ignore_lost_connection(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print uncaught errors (`sys.excepthook`) but those of a main process that ended; errors of the data do not come here."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
