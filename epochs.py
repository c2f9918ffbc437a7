"""The epochs of a training: train, score, log and save each; what main.py calls once everything is built."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch

import engine
from datasets import TrainSampler
from datasets.size_schedule import SizeSchedule
from flags import logged_flags
from models import ICN, for_inference
from models.icn import FromFeatures
from models.thresholds import Thresholds, measure_batch
from trainer import Trainer
from util.checkpoint import BEST, Checkpointer, is_same_run, milestone_name
from util.cli import Flags
from util.forecast import Forecast, shorter_recipe
from util.logging import RunLog
from util.metrics import format_stats
from util.progress import clock
from util.ranks import Ranks
from util.train_state import TrainState

FEATURES_ONCE = "its accuracy is comparable to others with --lr_backbone 0; see 'Features once' in docs/training.md"


def train_epochs(
    args: Flags,
    trainer: Trainer,
    state: TrainState,
    checkpointer: Checkpointer,
    sampler: TrainSampler,
    train_loader: Any,
    val_loader: Any,
    schedule: SizeSchedule,
    device: torch.device,
) -> dict[str, Any]:
    """Train the epochs that are left, and score those of --eval_every; return the last line of log.txt."""
    ranks, model, folder = trainer.ranks, trainer.model, checkpointer.folder
    forecast = make_forecast(args, sampler, state.epoch.batches, len(val_loader.dataset), schedule, device)
    line: dict[str, Any] = {}

    def after_step() -> None:
        forecast.after_step()
        checkpointer.after_step()

    with open_log(args, folder, ranks) as log:
        for index in range(args.start_epoch, args.epochs):
            state.begin_epoch(index)
            sampler.set_epoch(index, state.epoch.batches, grouped=state.epoch.grouping is not None)
            train_stats = engine.train_one_epoch(
                trainer, train_loader, device, state.epoch, accumulate=args.accumulate, after_step=after_step, cost=schedule.cost
            )
            test_stats = score(args, trainer, state, checkpointer, val_loader, device) if is_scored(args, index) else {}
            ranks.check_same(model.state_dict(), f"after epoch {index + 1}")
            is_best = state.finish_epoch(test_stats.get("acc1"), test_stats.get("loss"))
            if test_stats:
                best = f"best {state.best['acc1']:.2f} % (epoch {state.best['epoch'] + 1})"
                print(f"epoch {index + 1}/{args.epochs} {args.test}: {format_stats(test_stats)}  {best}", flush=True)
            line = log_line(trainer, state, train_stats, test_stats)
            log.epoch(line)  # before the checkpoint: a resumed run drops a line that has none, but could not write a missing one
            is_milestone = (index + 1) % args.lr_drop == 0 or index + 1 == args.epochs
            checkpointer.save([BEST] * is_best + [milestone_name(index)] * is_milestone)
    checkpointer.finish()
    best = f"best acc@1 {state.best['acc1']:.2f} % in epoch {state.best['epoch'] + 1}"
    print(f"trained for {clock(state.elapsed())}, {best}{f'; checkpoints and log.txt: {folder}' if folder else ''}")
    if args.cache_features:
        print(f"the backbone was frozen, {args.cache_features} kept views stood for new ones in every epoch: {FEATURES_ONCE}")
    return line


def is_scored(args: Flags, index: int) -> bool:
    """Return whether an epoch, counted from 0, is followed by an evaluation: every --eval_every-th one and the last are."""
    return (index + 1) % args.eval_every == 0 or index + 1 == args.epochs


def score(
    args: Flags, trainer: Trainer, state: TrainState, checkpointer: Checkpointer, val_loader: Any, device: torch.device
) -> dict[str, Any]:
    """Evaluate the weights, or their average, on the split that is scored; fit their thresholds; return loss and accuracies."""
    model = trainer.model
    scored: Any = for_inference(model if trainer.ema is None else trainer.ema.module, trainer.precision.dtype)
    scored = FromFeatures(scored) if args.cache_features else scored
    evaluation = engine.evaluate(
        scored, val_loader, device, trainer.normalisation, model.num_classes, args.test, trainer.precision,
        checkpointer.stop_if_requested, trainer.ranks, model.loss, partial(measure_batch, loss=model.loss),
    )  # fmt: skip
    files = checkpointer.constants["val_files"][args.test]
    state.thresholds = Thresholds.fit(evaluation.measured, args.test, files).entry()
    return evaluation.stats


def open_log(args: Flags, folder: Path | None, ranks: Ranks) -> RunLog:
    """Open the log of a run in its folder; rank 0 alone writes one."""
    if not ranks.main:
        return RunLog(None)
    wandb = logged_flags(args) if args.wandb else None
    return RunLog(folder, args.tensorboard, args.start_epoch, wandb, is_same_run(args.resume, folder))


def log_line(trainer: Trainer, state: TrainState, train_stats: dict[str, Any], test_stats: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of the epoch that was just finished, as log.txt has them."""
    line = {f"train_{key}": value for key, value in train_stats.items()}
    line |= {f"test_{key}": value for key, value in test_stats.items()}
    line |= {"epoch": state.epoch.index, "step": trainer.steps, "best_acc1": state.best["acc1"]}
    return {**line, "n_parameters": count_parameters(trainer.model), "elapsed": state.elapsed()}


def make_forecast(
    args: Flags, sampler: TrainSampler, done: int, evaluated: int, schedule: SizeSchedule, device: torch.device
) -> Forecast:
    """Build the forecast of a run: `done` batches of the epoch are trained, `evaluated` images are scored each time."""
    batches = sampler.batches_per_epoch
    epochs = args.epochs - args.start_epoch - (done == batches)
    scored = sum(is_scored(args, args.epochs - 1 - index) for index in range(epochs)) / max(epochs, 1)
    share = scored * evaluated / min(sampler.n, batches * sampler.batch_size * sampler.world_size)
    todo, steps = (math.ceil(number / args.accumulate) for number in (batches - done % batches, batches))
    start = args.start_epoch + min(done / batches, 1)
    area = (schedule.at(start) / args.image_size) ** 2  # of the first pictures, as a share of those that are scored
    growth = schedule.cost(start, args.epochs) / max(args.epochs - start, 1e-9) / area
    return Forecast(todo, steps, epochs, share / area, device, shorter_recipe(args, device), growth)


def count_parameters(model: ICN) -> int:
    """Return the number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
