"""What the flags of a training mean here: its time, measured on its own first steps, and its memory, in one line."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from .memory import resident
from .progress import clock

MEASURED_SECONDS = 5.0  # of steps, unless the epoch is shorter; the first step, which warms up, is left out
FORWARD_SHARE = 1 / 3  # of a training step: its backward pass takes about twice the time of the forward pass
HOPELESS_DAYS = 3.0  # a training that takes longer gets advice
SMALL_BACKBONE, SMALL_SIZE, GPU_SIZE = "tf_efficientnet_lite0", 224, 448  # of recipes/small_cpu.args and one_gpu_448.args


class Forecast:
    """Measurement of the first optimizer steps of a run, after which one line is printed, once; changes nothing else.

    Args:
        todo: optimizer steps left of the first epoch, at least 1.
        steps_per_epoch: optimizer steps of a whole epoch.
        epochs: that are left, the first included.
        evaluated: images that are scored after an epoch, as a share of the training images.
        device: that the steps are computed on.
        advice: what to do instead where the training takes longer than `HOPELESS_DAYS`.
        growth: mean time of the steps that are left, as a multiple of that of the first ones.
        now: a clock, in seconds.
    """

    def __init__(
        self, todo: int, steps_per_epoch: int, epochs: int, evaluated: float, device: torch.device, advice: str,
        growth: float = 1.0, now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.todo, self.steps_per_epoch, self.epochs, self.device, self.now = todo, steps_per_epoch, epochs, device, now
        self.evaluation, self.advice = evaluated * FORWARD_SHARE * steps_per_epoch, advice  # the first in steps
        self.growth = growth
        self.done, self.counted, self.start = 0, 0, now()

    def after_step(self) -> None:
        """Count an optimizer step; print the line after enough of them."""
        if self.done >= self.todo:
            return
        self.done += 1
        self.counted += 1
        is_last = self.done == self.todo
        if self.done == 1 and not is_last:
            self.start, self.counted = self._finished(), 0
        elif is_last or self.now() - self.start >= MEASURED_SECONDS:
            print(self.line((self._finished() - self.start) / self.counted), flush=True)
            self.todo = 0

    def line(self, seconds: float) -> str:
        """Return what `seconds` a step mean for the run."""
        left = (self.todo - self.done + self.steps_per_epoch * (self.epochs - 1)) * self.growth  # in steps like those measured
        left += self.evaluation * self.epochs
        epoch = seconds * (self.steps_per_epoch + self.evaluation)
        basis = f"measured on {self.counted} step{'s' * (self.counted > 1)}; evaluation estimated"
        later = f", {_duration(seconds * left)} for the {self.epochs} epochs to go" if self.epochs > 1 else ""
        hopeless = seconds * left > HOPELESS_DAYS * 86400
        advice = f"; that is more than {HOPELESS_DAYS:.0f} days: {self.advice}" * hopeless
        return f"with these flags: {_duration(epoch)} an epoch ({basis}){later}, {self._memory()}{advice}"

    def _finished(self) -> float:
        """Return the time at which the device has finished what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return self.now()

    def _memory(self) -> str:
        if self.device.type == "cuda":
            return f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB of GPU memory"
        return f"{resident('VmHWM') / 2**30:.1f} GiB of memory"


def shorter_recipe(args: argparse.Namespace, device: torch.device) -> str:
    """Return what to train with instead of flags that take too long on `device`."""
    if device.type == "cpu":
        if args.image_size > SMALL_SIZE or args.backbone != SMALL_BACKBONE:
            return "take @recipes/small_cpu.args instead, or a GPU"
        return "give fewer --epochs or a smaller --image_size, or take a GPU"
    if args.image_size > GPU_SIZE:
        return "take @recipes/one_gpu_448.args instead"
    if args.precision == "fp32":
        return "give --precision auto"
    return "give fewer --epochs, or take more GPUs (torchrun --nproc_per_node=4 main.py @recipes/four_gpus_448.args ...)"


def _duration(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days" if seconds >= 2 * 86400 else clock(seconds)
