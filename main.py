"""Train and score an ICN: `python main.py --finetune <detr.pth> ...`, `python main.py --eval --resume <checkpoint.pth> ...`."""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch

from assembly import compiled, make_model, make_trainer
from datasets import TrainSampler, class_names, eval_transform, open_split, training_scales, verify_images
from datasets.loaders import build_datasets, build_eval_loader, build_loader
from engine import evaluate, train_one_epoch
from flags import INPUT, RECIPE, check_flags, explicit_flags, fill_from_checkpoint, get_args_parser
from models import for_inference, load_checkpoint
from run import Run, open_checkpoint, output_folder, share_batch
from util.checkpoint import remove_leftovers, seed_from
from util.cli import Parser, launch, select_device
from util.distributed import Ranks, init_distributed
from util.launcher import read_launcher_env
from util.logging import RunLog
from util.metrics import describe
from util.precision import select_precision
from util.progress import clock
from util.results import write_results
from util.stopping import StopRequest


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Train, or score with --eval; returns the numbers of the last epoch or of the evaluation.

    Raises:
        ValueError: what the user can mend, in one line.
        RunFailed: what happened to the run, in one line.
        Stopped: it was asked to stop, and did.
    """
    check_flags(args)
    torch.manual_seed(args.seed)
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(args.deterministic)
    device = select_device(args.device, read_launcher_env())
    torch.backends.cudnn.benchmark = not args.deterministic
    with init_distributed(args.dist_url, device.type == "cuda") as ranks:
        args.world_size = ranks.size
        return score(args, device, ranks) if args.eval else train(args, device, ranks)


def score(args: argparse.Namespace, device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """`--eval`: loss and accuracies of a checkpoint, and with --output_dir who was taken for whom."""
    model, meta = load_checkpoint(args.resume, device, explicit_flags(args))
    fill_from_checkpoint(args, meta.args, INPUT)
    precision = select_precision(args.precision, device)
    classes = meta.classes or class_names(args.dataset_path, args.dataset_name, args.test, model.num_classes)
    dataset = open_split(args.dataset_path, args.dataset_name, args.test, classes, eval_transform(args.image_size, args.square))
    fast = for_inference(model, precision.dtype)
    forward = compiled(fast, args.square, frozen=device.type == "cpu") if args.compile else fast
    loader = build_eval_loader(args, dataset, device, ranks.rank, ranks.size)
    try:
        found = evaluate(forward, loader, device, meta.normalisation, len(classes), args.test, precision, ranks=ranks)
    except FloatingPointError as error:
        raise ValueError(f"--resume {args.resume}: {error}: the file is damaged, or its training went wrong") from None
    averaged = "  (averaged weights)" if meta.averaged else ""
    score = f"{args.test}: {len(dataset)} images of {len(classes)} classes  {describe(found.stats)}{averaged}"
    if args.output_dir and ranks.main:
        folder = output_folder(args) / f"eval_{args.test}"
        stats = {
            **found.stats,
            "checkpoint": str(args.resume),
            "epoch": meta.epoch,
            "split": args.test,
            "precision": precision.name,
        }
        write_results(folder, classes, found.labels, found.predictions, stats)
        score += f"\nper_class.csv, confusion_matrix.csv, confusion_matrix.png, results.json: {folder}"
    print(score)
    return found.stats


def train(args: argparse.Namespace, device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """Train from scratch, from a backbone, from --finetune or on from --resume; a checkpoint after every epoch, or more often."""
    folder = output_folder(args) if args.output_dir else None
    checkpoint = open_checkpoint(args, folder, ranks)
    if checkpoint is not None:
        fill_from_checkpoint(args, checkpoint["args"], RECIPE)
        share_batch(args, checkpoint, ranks)
        check_flags(args)
    precision = select_precision(args.precision, device)
    train_set, val_set = build_datasets(args)
    classes = train_set.classes
    model, normalisation = make_model(args, classes, checkpoint)
    verify_images([*train_set.paths, *val_set.paths][ranks.rank :: ranks.size], workers=max(1, args.num_workers))
    ranks.barrier()
    if ranks.rank > 0:  # dropout is each process's own
        seed_from(args.seed, ranks.rank)

    model.to(device, memory_format=torch.channels_last)
    sizes = None if args.square else training_scales(args.image_size)
    sampler = TrainSampler(len(train_set), args.batch_size, args.seed, sizes, ranks.rank, ranks.size)
    steps_per_epoch = -(-sampler.batches_per_epoch // args.accumulate)
    ranks.check_same(model.state_dict(), "at the start")
    trainer = make_trainer(args, model, precision, normalisation, steps_per_epoch, checkpoint, ranks)
    run = Run(args, folder, trainer, classes, device, len(train_set))
    if checkpoint is not None:
        run.restore(checkpoint)
    trainer.steps = args.start_epoch * steps_per_epoch + -(-run.epoch.batches // args.accumulate)
    if args.start_epoch >= args.epochs:
        print(f"nothing left to train: {args.start_epoch} epochs are done and --epochs is {args.epochs}")
        return {"epoch": args.start_epoch - 1, "step": trainer.steps, "best_acc1": run.best["acc1"]}
    if checkpoint is not None:
        within = f", after batch {run.epoch.batches} of {sampler.batches_per_epoch}" if run.epoch.batches else ""
        print(f"going on from {args.resume} at epoch {args.start_epoch + 1} of {args.epochs}{within}")

    train_loader = build_loader(args, train_set, sampler, device)
    val_loader = build_eval_loader(args, val_set, device, ranks.rank, ranks.size)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(
        f"{len(train_set)} training and {len(val_set)} {args.test} images of {len(classes)} classes, "
        f"{parameters / 1e6:.1f} M trained parameters, {device}, {precision.name}{f', {ranks.size} processes' * (ranks.size > 1)}"
    )
    log = RunLog(folder, args.tensorboard, args.start_epoch) if ranks.main else RunLog(None)
    if folder is not None and ranks.main:
        remove_leftovers(folder)
    line: dict[str, Any] = {}
    with StopRequest(ranks.place) as request, run.failures(request):

        def after_step() -> None:
            run.stop(request)
            if args.save_every_steps and trainer.steps % args.save_every_steps == 0:
                run.save()

        for index in range(args.start_epoch, args.epochs):
            run.begin(index)
            sampler.set_epoch(index, run.epoch.batches)
            trained = train_one_epoch(trainer, train_loader, device, run.epoch, accumulate=args.accumulate, after_step=after_step)
            scored = for_inference(model if trainer.ema is None else trainer.ema.module, precision.dtype)
            found = evaluate(
                scored, val_loader, device, normalisation, len(classes), args.test, precision, lambda: run.stop(request), ranks
            ).stats
            ranks.check_same(model.state_dict(), f"after epoch {index + 1}")
            names = run.finish(found["acc1"])
            record = f"best {run.best['acc1']:.2f} % (epoch {run.best['epoch'] + 1})"
            print(f"epoch {index + 1}/{args.epochs} {args.test}: {describe(found)}  {record}", flush=True)
            line = {f"train_{key}": value for key, value in trained.items()} | {f"test_{key}": found[key] for key in found}
            line |= {"epoch": index, "step": trainer.steps, "best_acc1": run.best["acc1"], "n_parameters": parameters}
            line |= {"elapsed": run.elapsed()}
            log.epoch(line)  # before the checkpoint: a resumed run drops a line that has none, but could not write a missing one
            run.save(names)
    log.close()
    where = f"; checkpoints and log.txt: {folder}" if folder else ""
    print(f"trained for {clock(run.elapsed())}, best acc@1 {run.best['acc1']:.2f} % in epoch {run.best['epoch'] + 1}{where}")
    return line


if __name__ == "__main__":
    launch(main, Parser("main.py", parents=[get_args_parser()], description=__doc__))
