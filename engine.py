"""One epoch of training, one evaluation. Knows tensors and loaders, not flags."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from datasets import ImageBatch
from models.adversarial import fgsm_perturb
from models.criterion import Criterion, cross_entropy
from util.distributed import ALONE, Ranks
from util.metrics import Sums, describe
from util.precision import Precision
from util.progress import Progress, clock

LOG_EVERY = 10.0  # seconds


@dataclass
class Trainer:
    """A model and everything that moves while it learns.

    model: maps normalised images and their padding mask to an output with `logits` `[B, C]`; holds the weights.
    optimizer: its groups have `base_lr`.
    schedule: `(base_lr, step) -> lr`, a pure function of the optimizer step.
    precision: of the forward pass.
    normalisation: mean and standard deviation of the input.
    max_norm: gradients of a larger total norm are scaled down to it; 0 leaves them.
    criterion: the loss.
    ema: the average of the weights, or None.
    adversarial: how far pixels move, in grey levels of 255, to make the loss as high as they can before the step; 0 leaves them.
    forward: what is called in the place of the model: a compiled form of it, or one whose gradients are means over processes.
    ranks: this process and the others.
    steps: optimizer steps done so far.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Callable[[float, int], float]
    precision: Precision
    normalisation: Mapping[str, list[float]]
    max_norm: float = 0.0
    criterion: Criterion = field(default_factory=Criterion)
    ema: ModelEmaV3 | None = None
    adversarial: float = 0.0
    forward: Callable[..., Any] | None = None
    ranks: Ranks = ALONE
    steps: int = 0
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = self.precision.scaler()
        self.trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
        self.statistics = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]

    @property
    def lr(self) -> float:
        """The rate of the last step, of the first group: the same before and after a resume."""
        return self.schedule(self.optimizer.param_groups[0]["base_lr"], max(0, self.steps - 1))

    def step(self, batches: Iterable[ImageBatch]) -> list[Tensor]:
        """One optimizer step on the mean loss over all images of `batches` (of all processes together).

        Returns:
            The logits of each batch of this process, detached.
        """
        batches = list(batches)
        total = self.ranks.sum(sum(map(len, batches)))
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(group["base_lr"], self.steps)
        outputs = []
        for index, batch in enumerate(batches, 1):
            with self._exchange(index == len(batches)):
                with self.precision.autocast():
                    images = self._input(batch)
                    output = (self.forward or self.model)(images, batch.padding_mask)
                    loss = sum(self.criterion(self.model, output, images, batch.labels).values())
                share = len(batch) * self.ranks.size / total  # the gradient will be divided by the number of processes
                self.scaler.scale(loss if share == 1 else loss * share).backward()
            outputs.append(output.logits.detach())
        if self.max_norm > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trained, self.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.ranks.average_(self.statistics)
        if self.ema is not None:
            self.ema.update(self.model, step=self.steps)
        return outputs

    def _input(self, batch: ImageBatch) -> Tensor:
        images = batch.normalise(**self.normalisation)
        if not self.adversarial:
            return images
        bound = self.adversarial / 255 / torch.tensor(self.normalisation["std"])[:, None, None]
        return fgsm_perturb(self.model, images, batch.padding_mask, batch.labels, bound, self.scaler.scale)

    def _exchange(self, now: bool) -> Any:
        """Where gradients of several batches add up, the processes exchange them once, with the last."""
        return nullcontext() if now or not isinstance(self.forward, DistributedDataParallel) else self.forward.no_sync()

    def check(self) -> None:
        """A FloatingPointError where a weight is no longer a finite number: such a model is not to be saved."""
        norms = torch.stack(torch._foreach_norm(self.trained, torch.inf)) if self.trained else torch.zeros(1)
        if not norms.isfinite().all():
            raise FloatingPointError(f"the weights are no longer finite after step {self.steps} (learning rate {self.lr:.2e})")


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
    trainer: Trainer,
    loader: Iterable[ImageBatch],
    device: torch.device,
    epoch: Epoch,
    *,
    accumulate: int = 1,
    after_step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train on every batch of `loader` once.

    Args:
        trainer: changes.
        loader: the batches of the epoch that are not done yet; has a length.
        device: where the model is.
        epoch: where the epoch stands; is kept up to date.
        accumulate: batches per optimizer step. The last step of an epoch may have fewer, of the same weight per image.
        after_step: called after every optimizer step: the moment to save, or to stop.

    Returns:
        Means over the images of the epoch, of all processes: `loss`, `acc1`, `acc5`; `lr` (of the last step), `img_per_s`,
        `seconds`; and of this process `data_wait` (share of the time).

    Raises:
        FloatingPointError: the loss is no longer a finite number.
    """
    assert isinstance(loader, Sized)
    ranks = trainer.ranks
    todo, done, waited = len(loader), 0, 0.0
    sums = epoch.sums.over(ranks)
    total, stats, before, images = epoch.batches + todo, sums.means(), sums.images, 0
    start = mark = logged = time.monotonic()
    for window in _windows(loader, accumulate):
        waited += time.monotonic() - mark
        window = [batch.to(device) for batch in window]
        for logits, batch in zip(trainer.step(window), window, strict=True):
            epoch.sums.add(logits, batch.labels, cross_entropy(logits, batch.labels, reduction="sum"))
        epoch.batches += len(window)
        done += len(window)
        after_step()
        mark = time.monotonic()
        if done == todo or ranks.max(mark - logged >= LOG_EVERY):
            logged = mark
            sums = epoch.sums.over(ranks)
            images = sums.images - before
            stats = finite(sums, f" by step {trainer.steps} (learning rate {trainer.lr:.2e})")  # waits for the device
            mark = time.monotonic()
            seconds = mark - start
            left = seconds / done * (todo - done)
            print(
                f"epoch {epoch.index + 1}/{epoch.count} [{epoch.batches:>{len(str(total))}}/{total}]  {describe(stats)}  "
                f"lr {trainer.lr:.2e}  {images / seconds:.1f} img/s  data wait {waited / seconds:.0%}  ETA {clock(left)}, "
                f"all epochs {clock(left + seconds / done * total * (epoch.count - epoch.index - 1))}",
                flush=True,
            )
    seconds = max(time.monotonic() - start, 1e-9)
    return {**stats, "lr": trainer.lr, "img_per_s": images / seconds, "data_wait": waited / seconds, "seconds": seconds}


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
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Score every image of `loader` once. Sums over images, not means of batches.

    Every process gives its part of the images, which may be none, and returns what all of them found.

    Args:
        model: as for `Trainer`, in evaluation mode; a copy made by `models.for_inference` is the fastest.
        loader: batches, in any order; has a length.
        device: where the model is.
        normalisation: mean and standard deviation of the input.
        num_classes: C.
        label: what is scored, for the progress line and the error.
        precision: of the forward pass; None: that of the weights.
        after_batch: called after every batch, and as often in every process: the moment to stop.
        ranks: this process and the others.

    Raises:
        FloatingPointError: the loss is not a finite number.
    """
    assert isinstance(loader, Sized)
    precision = precision or Precision("fp32", torch.float32, device)
    sums = Sums(device, num_classes)
    found = [torch.empty(3, 0, dtype=torch.int64, device=device)]
    rounds = ranks.max(len(loader))
    with Progress(len(loader), label) as progress:
        for batch in loader:
            batch = batch.to(device)
            with precision.autocast():
                logits = model(batch.normalise(**normalisation), batch.padding_mask).logits  # [B, C]
            sums.add(logits, batch.labels, cross_entropy(logits, batch.labels, reduction="sum"))
            found.append(torch.stack([batch.indices, batch.labels, logits.argmax(1)]))
            progress.step()
            after_batch()
        for _ in range(rounds - len(loader)):
            after_batch()
    indices, labels, predictions = np.concatenate(ranks.gather(torch.cat(found, 1).cpu().numpy()), 1)
    stats = {**finite(sums.over(ranks), f" on {label}"), "images": len(indices)}
    order = indices.argsort()
    return Evaluation(stats, labels[order], predictions[order])


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
