"""Train and evaluate an ICN: `python main.py --finetune <detr.pth> ...`, `python main.py --eval --resume <checkpoint> ...`."""

# ruff: noqa: E402

from __future__ import annotations

from util.startup import start

if __name__ == "__main__":
    start()

from flags import get_args_parser
from util.cli import Flags, Parser, launch, parse

PARSER = Parser("main.py", parents=[get_args_parser()], description=__doc__)
ARGS = parse(PARSER) if __name__ == "__main__" else None  # before torch is imported: --help and a wrong flag answer at once

import math
import os
from functools import partial
from typing import Any

import torch

import engine
from datasets import ImageFolder, TrainSampler, class_names, eval_transform, open_split, verify_images
from datasets.decode import set_decoding
from datasets.feature_cache import FrozenBackbone
from datasets.loaders import (
    build_datasets,
    build_eval_loader,
    build_feature_loaders,
    build_train_loader,
    build_train_sampler,
    cache_pictures,
    check_features,
    training_classes,
)  # fmt: skip
from datasets.size_schedule import SizeSchedule
from epochs import count_parameters, train_epochs
from flags import check_flags, explicit_flags, fill_from_checkpoint, output_folder, resolve
from models import ICN, build_model, for_inference, load_checkpoint, load_finetune
from models.checkpoint_format import VERSION
from models.input_size import check_squares
from models.loading import read_checkpoint
from models.reading import ADDRESSES
from models.thresholds import NOT_CALIBRATED, measure_by, read_thresholds
from trainer import Trainer, build_trainer, check_compiler, compile_model
from util.checkpoint import Checkpointer, find_checkpoint, is_same_run
from util.device import memory_format, select_device
from util.distributed import init_distributed
from util.failures import describe_failures
from util.launcher import read_launcher_env
from util.memory import keep_freed_memory
from util.metrics import Sums, format_stats
from util.precision import select_precision
from util.random_state import RandomState, seed_from
from util.ranks import Ranks
from util.results import write_results
from util.results_folder import check_space, expand_job_id, is_typed, results_beside_checkpoint, results_folder
from util.stopping import StopRequest
from util.train_state import TrainState

QUERY_IMAGES = 32  # of each class, from which --query_init means computes
PARAMETERS_PER_IMAGE = 1000  # beyond that many random ones a warning names the flags for trained weights


def main(args: Flags) -> dict[str, Any]:
    """Train, or evaluate with --eval; return the numbers of the last epoch or of the evaluation.

    Raises:
        ValueError: an error that the user can fix, in one line.
        RunFailed: the run failed, in one line.
        Stopped: the run stopped after a signal.
    """
    check_flags(args)
    args = expand_job_id(args)
    torch.manual_seed(args.seed)
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(args.deterministic)
    device = select_device(args.device, read_launcher_env())
    torch.backends.cudnn.benchmark = not args.deterministic
    if device.type == "cpu":
        keep_freed_memory()
    with init_distributed(args, device.type == "cuda") as ranks:
        if args.compile:
            check_compiler(device)
        if args.eval:
            return evaluate(args, device, ranks)
        with results_folder(output_folder(args) if args.output_dir and ranks.main else None):
            return train(args, device, ranks)


def train(args: Flags, device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """Train from scratch, from a backbone, from --finetune or on from --resume; save a checkpoint after every epoch."""
    args, checkpoint = open_checkpoint(args, ranks)
    finetuned = read_checkpoint(args.finetune) if args.finetune else None
    classes = training_classes(args, None if checkpoint is None else checkpoint.get("classes"))
    args = resolve(args, classes, checkpoint, finetuned, ranks.size)
    check_features(args)
    precision = select_precision(args.precision, device)
    set_decoding(args.bit_depth, args.max_image_mb)
    train_set, val_set = build_datasets(args, classes)
    facts = {"the training images": train_set.summary(), f"the {args.test} images": val_set.summary()}
    ranks.check_equal({**facts, "the classes": train_set.classes, "the file of --resume": checkpoint})
    model, normalisation = build_initial_model(args, checkpoint, finetuned)
    schedule = SizeSchedule(args.size_schedule, args.image_size, args.epochs)
    if args.size_schedule:
        check_squares(model, schedule.smallest(args.square), "size_schedule")
        print(f"pictures grow: {schedule}; they are scored at {args.image_size}")
    verify_images([*train_set.paths, *val_set.paths][ranks.rank :: ranks.size], workers=max(1, args.num_workers))
    ranks.barrier()
    cache_pictures(args, ranks, train_set, val_set, device)
    if ranks.rank > 0:  # each process has a dropout of its own
        seed_from(args.seed, ranks.rank)
    model.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
    ranks.check_same(model.state_dict(), "at the start")

    sampler = build_train_sampler(args, train_set, schedule, ranks)
    steps_per_epoch = math.ceil(sampler.batches_per_epoch / args.accumulate)
    trainer = build_trainer(args, model, precision, normalisation, steps_per_epoch, ranks)
    stop_request = StopRequest(ranks.process)
    state, checkpointer = build_state(args, trainer, checkpoint, train_set, val_set, sampler.grouping, device, stop_request)
    trainer.steps = state.steps(steps_per_epoch)  # by the epoch: INTR's checkpoints have no step
    if state.epoch.index >= args.epochs:
        print(f"nothing left to train: {args.start_epoch} epochs are done and --epochs is {args.epochs}")
        return {"epoch": args.start_epoch - 1, "step": trainer.steps, "best_acc1": state.best["acc1"]}
    if checkpoint is not None:
        within = f", after batch {state.epoch.batches} of {sampler.batches_per_epoch}" if state.epoch.batches else ""
        alone = "" if checkpoint.get("optimizer") else " (it has weights alone: optimizer and random state start anew)"
        print(f"resuming {args.resume} at epoch {args.start_epoch + 1} of {args.epochs}{within}{alone}")
    warn_from_scratch(args, count_parameters(model), len(train_set))
    print(
        f"{len(train_set)} training and {len(val_set)} {args.test} images of {args.num_queries} classes, "
        f"{count_parameters(model) / 1e6:.1f} M trained parameters, {device}, {precision.name}"
        f"{f', {ranks.size} processes' * (ranks.size > 1)}"
    )
    if ranks.main:
        check_space(checkpointer.folder, 12 * count_parameters(model))  # weights and two moments
    train_loader, val_loader = build_loaders(args, trainer, checkpointer, train_set, val_set, sampler, schedule, device)
    with stop_request, describe_failures(checkpointer, state), checkpointer:
        start_queries(args, trainer, train_set, device)
        return train_epochs(args, trainer, state, checkpointer, sampler, train_loader, val_loader, schedule, device)


def build_loaders(
    args: Flags,
    trainer: Trainer,
    checkpointer: Checkpointer,
    train_set: ImageFolder,
    val_set: ImageFolder,
    sampler: TrainSampler,
    schedule: SizeSchedule,
    device: torch.device,
) -> tuple[Any, Any]:
    """Build the loaders of the training images and of those that are scored; with --cache_features, of their features."""
    ranks, waiting = trainer.ranks, checkpointer.interruptible
    if not args.cache_features:
        train_loader = build_train_loader(args, train_set, sampler, schedule, device, waiting)
        return train_loader, build_eval_loader(args, val_set, device, ranks.rank, ranks.size, waiting)
    network = for_inference(trainer.model, trainer.precision.dtype).backbone[0]
    backbone = FrozenBackbone(network, trainer.precision, trainer.normalisation)
    scales, stop = schedule.choices(0, args.square), checkpointer.stop_if_requested
    return build_feature_loaders(args, backbone, train_set, val_set, sampler, scales, device, stop, waiting)


def open_checkpoint(args: Flags, ranks: Ranks) -> tuple[Flags, dict[str, Any] | None]:
    """Read the checkpoint of --resume, found by rank 0 for all; `auto` becomes its path, or '' where there is none."""
    folder = output_folder(args) if args.output_dir else None
    path, checkpoint = find_checkpoint(args.resume, folder, read_checkpoint) if ranks.main else ("", None)
    path = ranks.broadcast(path)
    if path and not ranks.main:
        checkpoint = read_checkpoint(path)
    if args.resume == "auto" and path:
        # The same command line starts a run and continues it: the weights it started from no longer count.
        args = args.replace(finetune="", explicit=args.explicit - {"finetune", "backbone_weights"})
    return args.replace(resume=path), checkpoint


def build_initial_model(
    args: Flags, checkpoint: dict[str, Any] | None, finetuned: dict[str, Any] | None
) -> tuple[ICN, dict[str, list[float]]]:
    """Build the model to train, and return it with the normalisation of its input."""
    if checkpoint is not None:
        model, meta = load_checkpoint(args.resume, "cpu", explicit_flags(args), checkpoint, averaged=False)
        print(f"weights: --resume {args.resume}")
        return model, meta.normalisation
    if finetuned is not None:
        model, report = load_finetune(args.finetune, args, finetuned)
        print(f"weights: --finetune {report}")
    else:
        model = build_model(args)
        if args.backbone_weights == "none":
            print(f"weights: random (seed {args.seed})")
        else:
            print(
                f"weights: --backbone_weights {args.backbone_weights}; what is behind the backbone is random (seed {args.seed})"
            )
    return model, model.backbone[0].normalisation  # type: ignore[return-value]


def start_queries(args: Flags, trainer: Trainer, train_set: ImageFolder, device: torch.device) -> None:
    """Start the class queries from the mean features of the classes' images, as they are when they are scored (--query_init).

    The moving average of the weights may be there already: before the first step it does not count.
    """
    if not args.query_init or args.resume:
        return
    ranks, model = trainer.ranks, for_inference(trainer.model, trainer.precision.dtype)
    images = train_set.some_of_each_class(QUERY_IMAGES).with_transform(eval_transform(args.image_size, args.square))
    loader = build_eval_loader(args, images, device, ranks.rank, ranks.size)
    trainer.model.start_queries(engine.class_means(model, loader, device, trainer.normalisation, trainer.precision, ranks))
    print(f"class queries: the mean features of up to {QUERY_IMAGES} training images of each class ({len(images)} in all)")


def build_state(
    args: Flags,
    trainer: Trainer,
    checkpoint: dict[str, Any] | None,
    train_set: ImageFolder,
    val_set: ImageFolder,
    grouping: str | None,
    device: torch.device,
    stop_request: StopRequest,
) -> tuple[TrainState, Checkpointer]:
    """Build the state and the checkpointer of a run; restore the state and the trainer from `checkpoint` if there is one."""
    ranks, folder = trainer.ranks, output_folder(args) if args.output_dir else None
    settings = {"batch_size": args.batch_size, "accumulate": args.accumulate, "seed": args.seed}
    settings |= {"train_images": len(train_set), "train_files": train_set.fingerprint(), "grouping": grouping}
    val_files = {args.test: val_set.fingerprint()}
    new_sums = partial(Sums, device, args.num_queries, trainer.criterion.names)
    state = TrainState(args.epochs, args.start_epoch, new_sums, settings, ranks)
    generators = RandomState(ranks, args.seed)
    if checkpoint is not None:
        trainer.load_state_dict(checkpoint)
        # The best accuracy counts only in the folder of its file and for the same images.
        same_images = checkpoint["args"].get("test") == args.test and checkpoint.get("val_files", val_files) == val_files
        same_best = is_same_run(args.resume, folder) and same_images
        if checkpoint.get("best") and not same_images:
            print(f"{args.resume} was scored on other images than {val_set.root} has now: the best accuracy is counted anew")
        state.load_state_dict(checkpoint, args.resume, same_best)
        generators.load_state_dict(checkpoint)
    saved_flags = {key: value for key, value in vars(args).items() if key != "explicit"}
    constants = {"args": saved_flags, "classes": train_set.classes, "val_files": val_files, "version": VERSION}
    parts, every_steps = (state, generators), args.save_every_steps
    return state, Checkpointer(folder, trainer, parts, constants, stop_request, args.keep_last, every_steps, ranks)


def warn_from_scratch(args: Flags, parameters: int, images: int) -> None:
    """Print a warning where random weights are to be trained on few images, with the flags for trained ones."""
    if args.resume or args.finetune or args.backbone_weights != "none" or parameters <= PARAMETERS_PER_IMAGE * images:
        return
    detr = f", or --finetune {ADDRESSES['detr-'].format('detr-r50-e632da11.pth')} (DETR)" * (args.backbone == "resnet50")
    print(
        f"warning: {parameters / 1e6:.1f} M random weights are trained on {images} images only: expect little; for trained ones "
        f"give --backbone_weights default (ImageNet, a download) or <file>{detr}"
    )


def evaluate(args: Flags, device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """Compute loss and accuracies of a checkpoint (`--eval`); with --output_dir also per class and the confusion matrix."""
    model, meta = load_checkpoint(args.resume, device, explicit_flags(args))
    args, thresholds = fill_from_checkpoint(args, meta.args), read_thresholds(meta.thresholds)
    precision = select_precision(args.precision, device)
    classes = meta.classes or class_names(args.dataset_path, args.dataset_name, args.test, model.num_classes)
    set_decoding(args.bit_depth, args.max_image_mb)
    dataset = open_split(args.dataset_path, args.dataset_name, args.test, classes, eval_transform(args.image_size, args.square))
    ranks.check_equal({f"the {args.test} images": dataset.summary(), "the classes": classes, "the weights": model.state_dict()})
    cache_pictures(args, ranks, None, dataset, device)
    eval_model = for_inference(model, precision.dtype)
    forward = compile_model(eval_model, args.square, frozen=device.type == "cpu") if args.compile else eval_model
    loader = build_eval_loader(args, dataset, device, ranks.rank, ranks.size)
    folder = output_folder(args) / f"eval_{args.test}" if is_typed(args) else results_beside_checkpoint(args, "eval", meta.args)
    with results_folder(folder if args.output_dir and ranks.main else None, "results.json"):
        try:
            evaluation = engine.evaluate(
                forward, loader, device, meta.normalisation, len(classes), args.test, precision, ranks=ranks, loss=model.loss,
                measure=measure_by(thresholds, model.loss),
            )  # fmt: skip
        except FloatingPointError as error:
            raise ValueError(f"--resume {args.resume}: {error}: the file is damaged, or its training diverged") from None
        averaged = "  (averaged weights)" if meta.averaged else ""
        print(f"{args.test}: {len(dataset)} images of {len(classes)} classes  {format_stats(evaluation.stats)}{averaged}")
        reliability = thresholds and thresholds.test(evaluation.measured, dataset.fingerprint())
        print(f"none of the known classes: {reliability or NOT_CALIBRATED}")
        if args.output_dir and ranks.main:
            stats = {**evaluation.stats, "thresholds": reliability and reliability.as_table()}
            source = {"checkpoint": str(args.resume), "epoch": meta.epoch, "split": args.test, "precision": precision.name}
            write_results(folder, classes, evaluation.labels, evaluation.predictions, stats | source)
            print(f"per_class.csv, confusion_matrix.csv, confusion_matrix.png, results.json: {folder}")
    return evaluation.stats


if __name__ == "__main__":
    launch(main, PARSER, args=ARGS, shared=True)
