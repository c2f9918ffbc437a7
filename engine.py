"""One epoch of training, one evaluation. Knows tensors and loaders, not flags."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from datasets import ImageBatch
from util.metrics import Sums, describe
from util.progress import Progress, clock

LOG_EVERY = 10.0  # seconds


@dataclass
class Evaluation:
    """What an evaluation found.

    stats: `loss` (nats), `acc1`, `acc5` (percent; None with fewer than 5 classes), `images`.
    labels, predictions: int64 `[N]`, class indices in the order of the data set.
    """

    stats: dict[str, Any]
    labels: np.ndarray
    predictions: np.ndarray


def train_one_epoch(
    model: nn.Module,
    loader: Iterable[ImageBatch],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    epoch: int,
    epochs: int,
    normalisation: Mapping[str, list[float]],
    num_classes: int,
    max_norm: float = 0.0,
) -> dict[str, Any]:
    """Train on every batch of `loader` once.

    Args:
        model: maps normalised images and their padding mask to an output with `logits` `[B, C]`.
        loader: batches; has a length.
        optimizer: with this epoch's learning rates set.
        device: where the model is.
        epoch, epochs: this one (from 0) and how many there are, for the lines that are printed.
        normalisation: mean and standard deviation of the input.
        num_classes: C.
        max_norm: gradients of a larger total norm are scaled down to it; 0 leaves them.

    Returns:
        Means over the images of the epoch: `loss`, `acc1`, `acc5`; and `lr`, `img_per_s`, `data_wait`, `seconds`.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
    """
    assert isinstance(loader, Sized)
    model.train()
    sums = Sums(device, num_classes)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    lr = optimizer.param_groups[0]["lr"]
    steps, images, waited = len(loader), 0, 0.0
    start = mark = logged = time.monotonic()
    for step, batch in enumerate(loader, 1):
        waited += time.monotonic() - mark
        batch = batch.to(device)
        logits = model(batch.normalise(**normalisation), batch.padding_mask).logits  # [B, C]
        loss = F.cross_entropy(logits, batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if max_norm > 0:
            nn.utils.clip_grad_norm_(trained, max_norm)
        optimizer.step()
        sums.add(logits, batch.labels)
        images += len(batch)
        mark = time.monotonic()
        if mark - logged >= LOG_EVERY or step == steps:
            logged = mark
            stats = _finite(sums, f" by step {step} (learning rate {lr:.2e})")  # waits for the device: only when a line is due
            mark = time.monotonic()
            seconds = mark - start
            left = seconds / step * (steps - step)
            print(
                f"epoch {epoch + 1}/{epochs} [{step:>{len(str(steps))}}/{steps}]  {describe(stats)}  lr {lr:.2e}  "
                f"{images / seconds:.1f} img/s  data wait {waited / seconds:.0%}  ETA {clock(left)}, "
                f"all epochs {clock(left + seconds / step * steps * (epochs - epoch - 1))}",
                flush=True,
            )
    seconds = time.monotonic() - start
    return {**stats, "lr": lr, "img_per_s": images / seconds, "data_wait": waited / seconds, "seconds": seconds}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable[ImageBatch],
    device: torch.device,
    normalisation: Mapping[str, list[float]],
    num_classes: int,
    label: str = "evaluation",
) -> Evaluation:
    """Score every image of `loader` once; arguments as for `train_one_epoch`. Sums over images, not means of batches.

    Raises:
        FloatingPointError: the loss is not a finite number.
    """
    assert isinstance(loader, Sized)
    model.eval()
    sums = Sums(device, num_classes)
    indices, labels, predictions = [], [], []
    with Progress(len(loader), label) as progress:
        for batch in loader:
            batch = batch.to(device)
            logits = model(batch.normalise(**normalisation), batch.padding_mask).logits  # [B, C]
            sums.add(logits, batch.labels)
            indices.append(batch.indices)
            labels.append(batch.labels)
            predictions.append(logits.argmax(1))
            progress.step()
    order = torch.cat(indices).argsort()
    stats = {**_finite(sums, f" on {label}"), "images": len(order)}
    return Evaluation(stats, *(torch.cat(column)[order].cpu().numpy() for column in (labels, predictions)))


def _finite(sums: Sums, where: str = "") -> dict[str, Any]:
    stats = sums.means()
    if not math.isfinite(stats["loss"]):
        raise FloatingPointError(f"the loss is {stats['loss']}{where}")
    return stats
