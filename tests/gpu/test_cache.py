"""`--cache gpu` on the device: the views of a DataLoader, and no batch makes the host wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import COLOURS, tiny_flags

from datasets import TrainSampler
from datasets.device_cache import DeviceLoader
from datasets.loaders import build_datasets, build_eval_loader, build_loader, cache_pictures
from util.ranks import SINGLE_PROCESS

CPU = torch.device("cpu")


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Make whatever lets the host wait for CUDA an error."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("flags, levels", [
    ("--square", 0.4), ("--hflip 1", 0.4), ("--square --color_jitter 0.4 --random_erasing 1", 0.6),
    ("--color_jitter 0.2 --randaugment 4 --random_erasing 0.5", 1.0),
])  # fmt: skip
def test_batches_are_those_of_a_data_loader(colours: Path, device: torch.device, flags: str, levels: float) -> None:
    """To the rounding of crops and operations, in grey levels; what is scored is the same bit for bit."""
    words = ["--dataset_path", colours, "--dataset_name", "colours", "--image_size", 48, *flags.split()]
    args, kept = tiny_flags(*words), tiny_flags(*words, "--cache", "gpu")
    plain, sets = build_datasets(args, [*COLOURS]), build_datasets(kept, [*COLOURS])
    cache_pictures(kept, SINGLE_PROCESS, *sets, device)
    sampler = TrainSampler(24, 7, 1, [32, 48] if args.square else [(32, 48), (48, 48)])
    loader = DeviceLoader(sets[0], sampler, batched=True)
    list(loader)  # what is done once may wait
    with no_waiting(device):
        batches = list(loader)
        scored = list(build_eval_loader(kept, sets[1], device))
    for batch, expected in zip(batches, build_loader(args, plain[0], sampler, CPU), strict=True):
        assert batch.images.device.type == batch.labels.device.type == device.type
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert (batch.images.cpu().int() - expected.images.int()).abs().float().mean() < levels
        assert torch.equal(batch.labels.cpu(), expected.labels) and torch.equal(batch.indices.cpu(), expected.indices)
        assert (batch.padding_mask is None) == (expected.padding_mask is None)
        assert expected.padding_mask is None or torch.equal(batch.padding_mask.cpu(), expected.padding_mask)
    for batch, expected in zip(scored, build_eval_loader(args, plain[1], CPU), strict=True):
        assert torch.equal(batch.images.cpu(), expected.images) and torch.equal(batch.labels.cpu(), expected.labels)
