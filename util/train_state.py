"""Progress of a training run between two optimizer steps: its epoch, its best accuracy and its time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .metrics import Sums
from .ranks import Ranks


@dataclass
class Epoch:
    """Progress within an epoch.

    Attributes:
        index: from 0, of `count` epochs.
        sums: losses and accuracies so far.
        grouping: a hash of what groups its batches (`datasets.grouping.Buckets`); None: they are not grouped.
        batches: number of batches done.
    """

    index: int
    count: int
    sums: Sums
    grouping: str | None = None
    batches: int = 0


class TrainState:
    """State of a training besides weights, optimizer and random numbers: epoch in progress, best accuracy, elapsed time.

    Args:
        epochs: of the whole training.
        start_epoch: first epoch, counted from 0.
        new_sums: returns the sums of a new epoch.
        settings: `batch_size`, `accumulate`, `train_images`, `train_files` (a hash of their names), `seed` and `grouping` (as of
            `Epoch`), which determine the batches of an epoch.
        ranks: the processes.

    Attributes:
        epoch: the epoch in progress.
        finished: index of the last epoch that was trained, and scored if it is to be; None before the first.
        thresholds: entry of a checkpoint at the end of an epoch that was scored (`models.thresholds`), of its weights.
        best: `{"acc1": percent, "epoch": index, "loss": nats}`, all None before the first; earlier versions have no loss.
    """

    def __init__(
        self, epochs: int, start_epoch: int, new_sums: Callable[[], Sums], settings: dict[str, Any], ranks: Ranks
    ) -> None:
        self.epochs, self.new_sums, self.settings, self.ranks = epochs, new_sums, settings, ranks
        self.best: dict[str, Any] = {"acc1": None, "epoch": None, "loss": None}
        self.finished: int | None = start_epoch - 1 if start_epoch else None
        self.thresholds: dict[str, Any] | None = None
        self.seconds_before, self.start = 0.0, time.monotonic()
        self.epoch = Epoch(start_epoch, epochs, new_sums(), settings["grouping"])

    def begin_epoch(self, index: int) -> None:
        """Start an epoch, unless it is in progress already."""
        if index != self.epoch.index:
            self.epoch = Epoch(index, self.epochs, self.new_sums(), self.settings["grouping"])

    def finish_epoch(self, acc1: float | None = None, loss: float | None = None) -> bool:
        """Mark the epoch in progress as trained and, unless `acc1` is None, as scored; return whether it is the best so far.

        The best has the highest accuracy (percent), of equal ones the lowest loss, and of equal losses it is the first.
        """
        self.finished = self.epoch.index
        if acc1 is None or loss is None:
            self.thresholds = None  # those of earlier weights
            return False
        best_acc1, best_loss = self.best["acc1"], self.best.get("loss")
        is_tie_won = acc1 == best_acc1 and best_loss is not None and loss < best_loss
        is_best = best_acc1 is None or acc1 > best_acc1 or is_tie_won
        if is_best:
            self.best = {"acc1": acc1, "epoch": self.epoch.index, "loss": loss}
        return is_best

    def elapsed(self) -> float:
        """Return the seconds of training so far, including those before a resume."""
        return self.seconds_before + time.monotonic() - self.start

    def steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps done."""
        return self.epoch.index * steps_per_epoch + math.ceil(self.epoch.batches / self.settings["accumulate"])

    def state_dict(self) -> dict[str, Any]:
        """Return the entries of a checkpoint; every process calls it. FloatingPointError if the loss is not finite."""
        epoch = self.epoch
        sums = epoch.sums.all_reduce(self.ranks)
        in_epoch = None
        if epoch.index != self.finished:
            if epoch.batches:
                sums.finite_means()
            in_epoch = {
                "epoch": epoch.index,
                "batches": epoch.batches,
                "batch_size": self.settings["batch_size"],
                "world_size": self.ranks.size,
                "accumulate": self.settings["accumulate"],
                "train_images": self.settings["train_images"],
                "train_files": self.settings["train_files"],
                "grouping": epoch.grouping,
                "images": sums.images,
                "sums": sums.values.cpu(),
                "terms": list(sums.terms),
            }
        state = {"epoch": self.finished, "in_epoch": in_epoch, "best": self.best, "elapsed": self.elapsed()}
        return {**state, "thresholds": self.thresholds if in_epoch is None else None}

    def load_state_dict(self, checkpoint: dict[str, Any], source: str, same_best: bool = True) -> None:
        """Restore the state of a checkpoint, whose path is `source`; its best accuracy only if `same_best` (run and split).

        Raises:
            ValueError: it was saved within an epoch whose batches differ under the current settings.
        """
        if isinstance(checkpoint.get("epoch"), int):
            self.finished = checkpoint["epoch"]
        in_epoch = checkpoint.get("in_epoch")
        if in_epoch:
            self._check_same_batches(in_epoch, source, checkpoint["args"].get("seed", self.settings["seed"]))
        self.begin_epoch(next_epoch(checkpoint, self.epoch.index))
        if in_epoch:
            self.epoch.batches = in_epoch["batches"]
            self.epoch.grouping = in_epoch.get("grouping")  # earlier versions group no batches: such an epoch is finished so
            if self.ranks.main:  # the saved sums are those of all processes
                self.epoch.sums.restore(in_epoch["sums"], in_epoch["images"], in_epoch.get("terms", ["class"]))
        if same_best:
            self.best = checkpoint.get("best") or self.best
        self.seconds_before = float(checkpoint.get("elapsed") or 0)

    def _check_same_batches(self, in_epoch: dict[str, Any], source: str, seed: int) -> None:
        """Raise a ValueError if the rest of the epoch would have other batches than it was begun with."""
        files = self.settings["train_files"]  # which earlier versions do not save
        saved = {"world_size": 1, "seed": seed, "train_files": files, **in_epoch}
        current = {**self.settings, "world_size": self.ranks.size}
        labels = {"accumulate": "--accumulate", "seed": "--seed", "train_images": "number of training images"}
        labels["train_files"] = "hash of the names and classes of the training images"
        if saved.get("grouping"):
            labels["grouping"] = "hash of what groups its batches (image sizes, their schedule, the version)"
        if saved["batch_size"] * saved["world_size"] != current["batch_size"] * current["world_size"]:
            labels = {"batch_size": "--batch_size", "world_size": "number of processes", **labels}
        for name, label in labels.items():
            if saved[name] != current[name]:
                raise ValueError(
                    f"{source} was saved in the middle of an epoch with {label} {saved[name]}, now it is {current[name]}: "
                    "finish the epoch with the same settings, or resume from a checkpoint at its end"
                )


def next_epoch(checkpoint: dict[str, Any], default: int = 0) -> int:
    """Return the epoch at which training resumes from a checkpoint; `default` where it has none (DETR's)."""
    if checkpoint.get("in_epoch"):
        return checkpoint["in_epoch"]["epoch"]
    return checkpoint["epoch"] + 1 if isinstance(checkpoint.get("epoch"), int) else default
