"""Training for one epoch and evaluation of a split. Takes tensors and loaders, no flags."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets import ImageBatch
from models import ICN
from models.losses import class_loss, class_probabilities
from trainer import Trainer
from util.calibration import calibration
from util.metrics import Sums, format_stats
from util.precision import Precision
from util.progress import Progress, clock
from util.ranks import SINGLE_PROCESS, Ranks
from util.train_state import Epoch

LOG_EVERY = 10.0  # seconds


def train_one_epoch(
    trainer: Trainer,
    loader: Iterable[ImageBatch],
    device: torch.device,
    epoch: Epoch,
    *,
    accumulate: int = 1,
    after_step: Callable[[], None] = lambda: None,
    cost: Callable[[float, float], float] = lambda start, end: end - start,
) -> dict[str, Any]:
    """Train on every batch of `loader` once, with a progress line.

    Args:
        trainer: changes.
        loader: the batches of the epoch that are not done yet; has a length.
        device: of the model.
        epoch: progress of the epoch; is kept up to date.
        accumulate: batches per optimizer step. The last step of an epoch may have fewer, of the same weight per image.
        after_step: called after every optimizer step: the moment to save, or to stop.
        cost: the computation from one time of the training to another, in epochs: what the remaining time is estimated by.

    Returns:
        Means over the images of the epoch, of all processes: `loss`, `acc1`, `acc5`, `loss_<term>`; `lr` (of the last step),
        `img_per_s`, `seconds`; and of this process `data_wait` (share of the time).

    Raises:
        FloatingPointError: the loss is not finite.
    """
    assert isinstance(loader, Sized)
    ranks, todo, done, waited, images = trainer.ranks, len(loader), 0, 0.0, 0
    sums = epoch.sums.all_reduce(ranks)
    stats, images_before = sums.means(), sums.images
    start = step_end = last_print = time.monotonic()
    for batches in _steps(loader, accumulate):
        waited += time.monotonic() - step_end
        batches = [batch.to(device) for batch in batches]
        for (logits, losses), batch in zip(trainer.step(batches), batches, strict=True):
            epoch.sums.add(logits, batch.labels, {name: loss * len(batch) for name, loss in losses.items()})
        epoch.batches += len(batches)
        done += len(batches)
        after_step()
        step_end = time.monotonic()
        if done == todo or ranks.max(step_end - last_print >= LOG_EVERY):
            last_print = step_end
            sums = epoch.sums.all_reduce(ranks)
            images = sums.images - images_before
            stats = sums.finite_means(f" by step {trainer.steps} (learning rate {trainer.lr:.2e})")  # waits for the device
            step_end = time.monotonic()
            speed = f"lr {trainer.lr:.2e}  {images / (step_end - start):.1f} img/s  data wait {waited / (step_end - start):.0%}"
            left = _eta(epoch, step_end - start, done, todo, cost)
            print(f"{_position(epoch, todo - done)}  {format_stats(stats)}  {speed}  {left}", flush=True)
    seconds = max(time.monotonic() - start, 1e-9)
    return {**stats, "lr": trainer.lr, "img_per_s": images / seconds, "data_wait": waited / seconds, "seconds": seconds}


def _steps(loader: Iterable[ImageBatch], size: int) -> Iterator[list[ImageBatch]]:
    """Yield the batches of each optimizer step."""
    batches: list[ImageBatch] = []
    for batch in loader:
        batches.append(batch)
        if len(batches) == size:
            yield batches
            batches = []
    if batches:
        yield batches


def _position(epoch: Epoch, left: int) -> str:
    total = str(epoch.batches + left)
    return f"epoch {epoch.index + 1}/{epoch.count} [{epoch.batches:>{len(total)}}/{total}]"


def _eta(epoch: Epoch, seconds: float, done: int, todo: int, cost: Callable[[float, float], float]) -> str:
    """Return the time that is left, estimated from the `done` batches of the `todo` ones of this call."""
    start, now = (epoch.index + batches / (epoch.batches + todo - done) for batches in (epoch.batches - done, epoch.batches))
    pace = seconds / cost(start, now)
    left, later = pace * cost(now, epoch.index + 1), pace * cost(epoch.index + 1, epoch.count)
    return f"ETA {clock(left)}, all epochs {clock(left + later)}"


@torch.inference_mode()
def class_means(
    model: ICN,
    loader: Iterable[ImageBatch],
    device: torch.device,
    normalisation: Mapping[str, list[float]],
    precision: Precision,
    ranks: Ranks = SINGLE_PROCESS,
) -> Tensor:
    """Average the backbone's features over the cells and the images of each class, as the transformer takes them.

    Args:
        model: in evaluation mode; its backbone and `input_proj` are used.
        loader: images without padding, some of each class; has a length. Every process has its part of them.
        device, normalisation, precision, ranks: as of `evaluate`.

    Returns:
        `[C, D]`, float32, the same in every process.
    """
    assert isinstance(loader, Sized)
    sums = torch.zeros(model.num_classes, model.query_embed.embedding_dim + 1, device=device)  # the last column counts
    with Progress(len(loader), "features of each class") as progress:
        for batch in loader:
            batch = batch.to(device)
            with precision.autocast():
                features = model.input_proj(model.backbone[0](batch.normalise(**normalisation))).mean((2, 3)).float()  # [B, D]
            sums.index_add_(0, batch.labels, torch.cat([features, features.new_ones(len(features), 1)], 1))
            progress.step()
    sums = ranks.sum(sums)
    return sums[:, :-1] / sums[:, -1:]


@dataclass
class Evaluation:
    """Result of an evaluation.

    Attributes:
        stats: `loss` (nats), `acc1`, `acc5` (percent; None with fewer than 5 classes), `ece` (expected calibration error of the
            predicted class's probability, from 0 to 1), `images`.
        labels, predictions: int64 `[N]`, class indices in the order of the data set.
        measured: float32 `[N, K]`, the rows of `measure`; K is 0 without one.
    """

    stats: dict[str, Any]
    labels: np.ndarray
    predictions: np.ndarray
    measured: np.ndarray


@torch.inference_mode()
def evaluate(
    model: Callable[..., Any],
    loader: Iterable[ImageBatch],
    device: torch.device,
    normalisation: Mapping[str, list[float]],
    num_classes: int,
    label: str = "evaluation",
    precision: Precision | None = None,
    after_batch: Callable[[], None] = lambda: None,
    ranks: Ranks = SINGLE_PROCESS,
    loss: str = "ce",
    measure: Callable[[Any, Tensor], Tensor] = lambda output, labels: output.logits[:, :0],
) -> Evaluation:
    """Score every image of `loader` once. Sums over images, not means of batches.

    Every process has its part of the images, which may be empty, and returns the result of all of them.

    Args:
        model: as for `Trainer`, in evaluation mode; a copy made by `models.for_inference` is the fastest.
        loader: batches, in any order; has a length.
        device: of the model.
        normalisation: mean and standard deviation of the input.
        num_classes: C.
        label: name of the split, for the progress line and the error.
        precision: of the forward pass; None: that of the weights.
        after_batch: called after every batch, and as often in every process: the moment to stop.
        ranks: this process and the others.
        loss: that the model was trained with; without label smoothing.
        measure: what else is kept of each image: maps the model's output for B images and their labels to `[B, K]`.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    assert isinstance(loader, Sized)
    precision = precision or Precision("fp32", torch.float32, device)
    sums = Sums(device, num_classes)
    results = [torch.empty(4, 0, dtype=torch.float64, device=device)]
    rows: list[Tensor] = []
    rounds = ranks.max(len(loader))
    with Progress(len(loader), label) as progress:
        for batch in loader:
            batch = batch.to(device)
            with precision.autocast():
                output = model(batch.normalise(**normalisation), batch.padding_mask)
            logits = output.logits  # [B, C]
            sums.add(logits, batch.labels, {"class": class_loss(loss, logits, batch.labels, reduction="sum")})
            confidence = class_probabilities(logits, loss).amax(1)
            results.append(torch.stack([x.double() for x in (batch.indices, batch.labels, logits.argmax(1), confidence)]))
            rows.append(measure(output, batch.labels).float())
            progress.step()
            after_batch()
        for _ in range(rounds - len(loader)):
            after_batch()
    *whole, confidence = np.concatenate(ranks.gather(torch.cat(results, 1).cpu().numpy()), 1)
    indices, labels, predictions = (column.astype(np.int64) for column in whole)
    stats = sums.all_reduce(ranks).finite_means(f" on {label}")
    stats |= {"ece": calibration(confidence, labels == predictions)["ece"], "images": len(indices)}
    order = indices.argsort()
    parts = ranks.gather(torch.cat(rows).cpu().numpy() if rows else None)
    measured = np.concatenate([part for part in parts if part is not None])
    return Evaluation(stats, labels[order], predictions[order], measured[order])
