"""Learning-rate schedules: pure functions of the optimizer step, without a state to save."""

from __future__ import annotations

import math

SCHEDULERS = ("StepLR", "CosineAnnealingLR", "cosine")


def learning_rate(
    base: float, step: int, scheduler: str, *, steps_per_epoch: int, epochs: int, lr_drop: int, min_lr: float, warmup_steps: int
) -> float:
    """Return the learning rate of an optimizer step.

    `StepLR` (a tenth after every `lr_drop` epochs) and `CosineAnnealingLR` (half a cosine down to `min_lr`) are constant within
    an epoch, equal to torch's schedulers of these names, as INTR uses them. `cosine` decreases with every step after the warm-up:
    `min_lr + (base - min_lr) * (1 + cos(pi * t)) / 2` with t from 0 to just below 1 (SGDR, Loshchilov and Hutter, ICLR 2017,
    eq. 5, without restarts). A `base` below `min_lr` stays as it is: no rate ever rises above its base.

    Args:
        base: the largest rate, that of a parameter group.
        step: optimizer steps done so far, counted from 0 over the whole training.
        scheduler: one of `SCHEDULERS`.
        steps_per_epoch: optimizer steps, not batches, where several batches make a step.
        epochs: of the whole training.
        lr_drop: epochs between the drops of StepLR.
        min_lr: final rate of the cosines.
        warmup_steps: steps of linear warm-up: `base / warmup_steps` in the first, `base` in the last.

    Raises:
        ValueError: no such scheduler.
    """
    epoch = step // steps_per_epoch
    if scheduler == "StepLR":
        rate = base * 0.1 ** (epoch // lr_drop)
    elif scheduler == "CosineAnnealingLR":
        rate = _cosine(base, min_lr, epoch / epochs)
    elif scheduler == "cosine":
        rate = _cosine(base, min_lr, (step - warmup_steps) / max(1, epochs * steps_per_epoch - warmup_steps))
    else:
        raise ValueError(f"--lr_scheduler {scheduler!r} is not known: choose {', '.join(SCHEDULERS)}")
    return rate * min(1.0, (step + 1) / warmup_steps) if warmup_steps else rate


def _cosine(base: float, min_lr: float, progress: float) -> float:
    """Return `base` at progress 0, `min_lr` at 1, half a cosine in between, constant before and after."""
    low = min(base, min_lr)
    return low + (base - low) * (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2
