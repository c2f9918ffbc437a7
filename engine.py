"""One epoch of training, one evaluation. Knows tensors and loaders, not flags."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from datasets import ImageBatch
from util.metrics import Sums, describe
from util.precision import Precision
from util.progress import Progress, clock

LOG_EVERY = 10.0  # seconds


@dataclass
class Learner:
    """A model and everything that moves while it learns.

    model: maps normalised images and their padding mask to an output with `logits` `[B, C]`; holds the weights.
    optimizer: its groups have `base_lr`.
    schedule: `(base_lr, step) -> lr`, a pure function of the optimizer step.
    precision: of the forward pass.
    normalisation: mean and standard deviation of the input.
    max_norm: gradients of a larger total norm are scaled down to it; 0 leaves them.
    label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016, section 7).
    ema: the average of the weights, or None.
    forward: what is called in the place of the model: a compiled form of it.
    step: optimizer steps done.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Callable[[float, int], float]
    precision: Precision
    normalisation: Mapping[str, list[float]]
    max_norm: float = 0.0
    label_smoothing: float = 0.0
    ema: ModelEmaV3 | None = None
    forward: Callable[..., Any] | None = None
    step: int = 0
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = self.precision.scaler()
        self.trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @property
    def lr(self) -> float:
        """The rate of the last step, of the first group: the same before and after a resume."""
        return self.schedule(self.optimizer.param_groups[0]["base_lr"], max(0, self.step - 1))

    def update(self, batches: Iterable[ImageBatch]) -> list[Tensor]:
        """One optimizer step on the mean loss over all images of `batches`; returns the logits of each batch, detached."""
        batches = list(batches)
        images = sum(map(len, batches))
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(group["base_lr"], self.step)
        outputs = []
        for batch in batches:
            with self.precision.autocast():
                logits = (self.forward or self.model)(batch.normalise(**self.normalisation), batch.padding_mask).logits
            loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.label_smoothing)
            self.scaler.scale(loss if len(batches) == 1 else loss * (len(batch) / images)).backward()
            outputs.append(logits.detach())
        if self.max_norm > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trained, self.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        return outputs

    def check(self) -> None:
        """A FloatingPointError where a weight is no longer a finite number: such a model is not to be saved."""
        norms = torch.stack(torch._foreach_norm(self.trained, torch.inf)) if self.trained else torch.zeros(1)
        if not norms.isfinite().all():
            raise FloatingPointError(f"the weights are no longer finite after step {self.step} (learning rate {self.lr:.2e})")


@dataclass
class Epoch:
    """How far an epoch has come: what a checkpoint in its middle holds.

    index, count: this epoch (from 0), and how many there are in the whole training.
    batches: batches that are done.
    sums: loss and hits over the images so far.
    """

    index: int
    count: int
    sums: Sums
    batches: int = 0


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
    learner: Learner,
    loader: Iterable[ImageBatch],
    device: torch.device,
    epoch: Epoch,
    *,
    accumulate: int = 1,
    after_step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train on every batch of `loader` once.

    Args:
        learner: changes.
        loader: the batches of the epoch that are not done yet; has a length.
        device: where the model is.
        epoch: where the epoch stands; is kept up to date.
        accumulate: batches per optimizer step. The last step of an epoch may have fewer, of the same weight per image.
        after_step: called after every optimizer step: the moment to save, or to stop.

    Returns:
        Means over the images of the epoch: `loss`, `acc1`, `acc5`; and `lr` (of the last step), and of this process
        `img_per_s`, `data_wait` (share of the time), `seconds`.

    Raises:
        FloatingPointError: the loss is no longer a finite number.
    """
    assert isinstance(loader, Sized)
    todo, done, images, waited = len(loader), 0, 0, 0.0
    total, stats = epoch.batches + todo, epoch.sums.means()
    start = mark = logged = time.monotonic()
    for window in _windows(loader, accumulate):
        waited += time.monotonic() - mark
        window = [batch.to(device) for batch in window]
        for logits, batch in zip(learner.update(window), window, strict=True):
            epoch.sums.add(logits, batch.labels)
            images += len(batch)
        epoch.batches += len(window)
        done += len(window)
        after_step()
        mark = time.monotonic()
        if mark - logged >= LOG_EVERY or done == todo:
            logged = mark
            stats = finite(epoch.sums, f" by step {learner.step} (learning rate {learner.lr:.2e})")  # waits for the device
            mark = time.monotonic()
            seconds = mark - start
            left = seconds / done * (todo - done)
            print(
                f"epoch {epoch.index + 1}/{epoch.count} [{epoch.batches:>{len(str(total))}}/{total}]  {describe(stats)}  "
                f"lr {learner.lr:.2e}  {images / seconds:.1f} img/s  data wait {waited / seconds:.0%}  ETA {clock(left)}, "
                f"all epochs {clock(left + seconds / done * total * (epoch.count - epoch.index - 1))}",
                flush=True,
            )
    seconds = max(time.monotonic() - start, 1e-9)
    return {**stats, "lr": learner.lr, "img_per_s": images / seconds, "data_wait": waited / seconds, "seconds": seconds}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Iterable[ImageBatch],
    device: torch.device,
    normalisation: Mapping[str, list[float]],
    num_classes: int,
    label: str = "evaluation",
    precision: Precision | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score every image of `loader` once. Sums over images, not means of batches.

    Args:
        model: as for `Learner`, in evaluation mode; a copy made by `models.for_inference` is the fastest.
        loader: batches, in any order; has a length.
        device: where the model is.
        normalisation: mean and standard deviation of the input.
        num_classes: C.
        label: what is scored, for the progress line and the error.
        precision: of the forward pass; None: that of the weights.
        after_batch: called after every batch: the moment to stop.

    Raises:
        FloatingPointError: the loss is not a finite number.
    """
    assert isinstance(loader, Sized)
    precision = precision or Precision("fp32", torch.float32, device)
    sums = Sums(device, num_classes)
    indices, labels, predictions = [], [], []
    with Progress(len(loader), label) as progress:
        for batch in loader:
            batch = batch.to(device)
            with precision.autocast():
                logits = model(batch.normalise(**normalisation), batch.padding_mask).logits  # [B, C]
            sums.add(logits, batch.labels)
            indices.append(batch.indices)
            labels.append(batch.labels)
            predictions.append(logits.argmax(1))
            progress.step()
            after_batch()
    order = torch.cat(indices).argsort()
    stats = {**finite(sums, f" on {label}"), "images": len(order)}
    return Evaluation(stats, *(torch.cat(column)[order].cpu().numpy() for column in (labels, predictions)))


def finite(sums: Sums, where: str = "") -> dict[str, Any]:
    """The means of `sums`; a FloatingPointError where the loss is not a finite number."""
    stats = sums.means()
    if not math.isfinite(stats["loss"]):
        raise FloatingPointError(f"the loss is {stats['loss']}{where}")
    return stats


def _windows(loader: Iterable[ImageBatch], size: int) -> Iterator[list[ImageBatch]]:
    """The batches of each optimizer step."""
    window: list[ImageBatch] = []
    for batch in loader:
        window.append(batch)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window
