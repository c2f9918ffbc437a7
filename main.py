"""Train and score an ICN: `python main.py --finetune <detr.pth> ...`, `python main.py --eval --resume <checkpoint.pth> ...`."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from datasets import (
    EvalSampler,
    ImageFolder,
    TrainSampler,
    class_names,
    collate,
    eval_transform,
    open_split,
    train_transform,
    training_scales,
    verify_images,
    worker_init,
)
from engine import evaluate, train_one_epoch
from flags import INPUT, RECIPE, adopt, check_flags, get_args_parser, given
from models import ARCHITECTURE, ICN, build_model, load_checkpoint, load_finetune
from models.checkpoint import VERSION, read_checkpoint
from util.checkpoint import BEST, LAST, milestone, rng_state, save_checkpoint, set_rng_state
from util.cli import Parser, launch, select_device
from util.logging import RunLog
from util.metrics import describe
from util.optimizer import make_optimizer, restore_optimizer
from util.progress import clock
from util.results import write_results
from util.schedule import learning_rate


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Train, or score with --eval; returns the numbers of the last epoch or of the evaluation.

    Raises:
        ValueError: what the user can mend, in one line.
    """
    check_flags(args)
    torch.manual_seed(args.seed)
    device = select_device(args.device)
    return score(args, device) if args.eval else train(args, device)


def score(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """`--eval`: loss and accuracies of a checkpoint, and with --output_dir who was taken for whom."""
    model, meta = load_checkpoint(args.resume, device, given(args))
    adopt(args, meta.args, INPUT)
    classes = meta.classes or class_names(args.dataset_path, args.dataset_name, args.test, model.num_classes)
    dataset = open_split(args.dataset_path, args.dataset_name, args.test, classes, eval_transform(args.image_size, args.square))
    model.to(memory_format=torch.channels_last)
    loader = make_loader(args, dataset, EvalSampler(len(dataset), args.batch_size), device)
    try:
        found = evaluate(model, loader, device, meta.normalisation, len(classes), args.test)
    except FloatingPointError as error:
        raise ValueError(f"--resume {args.resume}: {error}: the file is damaged, or its training went wrong") from None
    print(f"{args.test}: {len(dataset)} images of {len(classes)} classes  {describe(found.stats)}")
    if args.output_dir:
        folder = output_folder(args) / f"eval_{args.test}"
        stats = {**found.stats, "checkpoint": str(args.resume), "epoch": meta.epoch, "split": args.test}
        write_results(folder, classes, found.labels, found.predictions, stats)
        print(f"per_class.csv, confusion_matrix.csv, confusion_matrix.png, results.json: {folder}")
    return found.stats


def train(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Train from scratch, from a backbone, from --finetune or on from --resume; a checkpoint after every epoch."""
    checkpoint = read_checkpoint(args.resume) if args.resume else None
    if checkpoint is not None:
        adopt(args, checkpoint["args"], RECIPE)
        check_flags(args)
    train_set, val_set = open_training_data(args)
    classes = train_set.classes
    model, normalisation = make_model(args, classes, checkpoint)
    folder = output_folder(args) if args.output_dir else None
    refuse_to_overwrite(args.resume, checkpoint, folder)
    verify_images([*train_set.paths, *val_set.paths], workers=max(1, args.num_workers))

    model.to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, args.lr, args.lr_backbone, args.weight_decay)
    best: dict[str, Any] = {"acc1": None, "epoch": None}
    step = 0
    if checkpoint is not None:
        args.start_epoch = checkpoint["epoch"] + 1 if isinstance(checkpoint.get("epoch"), int) else args.start_epoch
        step = checkpoint.get("step") or 0
        # The best so far counts where its file is, and against accuracies on the same split.
        if is_same_run(args.resume, folder) and checkpoint["args"].get("test") == args.test:
            best = checkpoint.get("best") or best
        if checkpoint.get("optimizer"):
            restore_optimizer(optimizer, checkpoint["optimizer"])
        if checkpoint.get("rng"):
            set_rng_state(checkpoint["rng"][0])
    if args.start_epoch >= args.epochs:
        print(f"nothing left to train: {args.start_epoch} epochs are done and --epochs is {args.epochs}")
        return {"epoch": args.start_epoch - 1, "step": step, "best_acc1": best["acc1"]}
    if checkpoint is not None:
        print(f"going on from {args.resume} at epoch {args.start_epoch + 1} of {args.epochs}")

    sizes = None if args.square else training_scales(args.image_size)
    sampler = TrainSampler(len(train_set), args.batch_size, args.seed, sizes)
    train_loader = make_loader(args, train_set, sampler, device)
    val_loader = make_loader(args, val_set, EvalSampler(len(val_set), args.batch_size), device)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(
        f"{len(train_set)} training and {len(val_set)} {args.test} images of {len(classes)} classes, "
        f"{parameters / 1e6:.1f} M trained parameters, {device}"
    )
    log = RunLog(folder, args.tensorboard, args.start_epoch)
    start = time.monotonic()
    line: dict[str, Any] = {}
    for epoch in range(args.start_epoch, args.epochs):
        sampler.set_epoch(epoch)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                group["base_lr"],
                epoch * len(sampler),
                args.lr_scheduler,
                steps_per_epoch=len(sampler),
                epochs=args.epochs,
                lr_drop=args.lr_drop,
                min_lr=args.min_lr,
            )
        try:
            trained = train_one_epoch(
                model, train_loader, optimizer, device, epoch, args.epochs, normalisation, len(classes), args.clip_max_norm
            )
            found = evaluate(model, val_loader, device, normalisation, len(classes), args.test).stats
        except FloatingPointError as error:
            kept = f"the last good checkpoint is {folder / LAST}" if folder and (folder / LAST).exists() else "none was saved yet"
            raise SystemExit(f"main.py: error: epoch {epoch + 1}: {error}; {kept}; try a smaller --lr") from None
        step += len(sampler)
        names = []
        if best["acc1"] is None or found["acc1"] > best["acc1"]:
            best = {"acc1": found["acc1"], "epoch": epoch}
            names.append(BEST)
        if (epoch + 1) % args.lr_drop == 0 or epoch + 1 == args.epochs:
            names.append(milestone(epoch))
        record = f"best {best['acc1']:.2f} % (epoch {best['epoch'] + 1})"
        print(f"epoch {epoch + 1}/{args.epochs} {args.test}: {describe(found)}  {record}", flush=True)
        line = {f"train_{key}": value for key, value in trained.items()} | {f"test_{key}": value for key, value in found.items()}
        line |= {"epoch": epoch, "step": step, "best_acc1": best["acc1"], "n_parameters": parameters}
        log.epoch(line)  # before the checkpoint: a resumed run drops a line that has none, but could not write a missing one
        if folder is not None:
            state = {
                "model": model.state_dict(),
                "ema": None,
                "optimizer": optimizer.state_dict(),
                "scaler": None,
                "epoch": epoch,
                "step": step,
                "best": best,
                "rng": [rng_state()],
                "args": {key: value for key, value in vars(args).items() if key != "given"},
                "classes": classes,
                "normalisation": normalisation,
                "version": VERSION,
            }
            save_checkpoint(state, folder, names)
    log.close()
    where = f"; checkpoints and log.txt: {folder}" if folder else ""
    print(f"trained for {clock(time.monotonic() - start)}, best acc@1 {best['acc1']:.2f} % in epoch {best['epoch'] + 1}{where}")
    return line


def open_training_data(args: argparse.Namespace) -> tuple[ImageFolder, ImageFolder]:
    """The training split, and the split that is scored after every epoch, with the classes of the first."""
    transform = train_transform(args.image_size, args.square, args.crop_min, args.hflip)
    train_set = open_split(args.dataset_path, args.dataset_name, "train", None, transform)
    if len(train_set.classes) < 2:
        raise ValueError(f"{train_set.root} has a single class, {train_set.classes[0]}: there is nothing to tell apart")
    transform = eval_transform(args.image_size, args.square)
    val_set = open_split(args.dataset_path, args.dataset_name, args.test, train_set.classes, transform)
    for split in (train_set, val_set):
        if split.ignored:
            print(f"{split.root}: {split.ignored} files are hidden or not named like an image, and are left out")
    return train_set, val_set


def make_model(args: argparse.Namespace, classes: list[str], checkpoint: dict[str, Any] | None) -> tuple[ICN, dict[str, Any]]:
    """The model to train, with `args` completed by its architecture, and the normalisation of its input."""
    if args.num_queries not in (None, len(classes)) and checkpoint is None:
        raise ValueError(
            f"--num_queries {args.num_queries}, but {args.dataset_path}/{args.dataset_name}/train has {len(classes)} classes: "
            "leave the flag out, or mend the folder"
        )
    if checkpoint is not None:
        model, meta = load_checkpoint(args.resume, "cpu", given(args), checkpoint)
        if (meta.classes or classes) != classes or model.num_classes != len(classes):
            raise ValueError(
                f"--resume {args.resume} was trained on {model.num_classes} classes{named(meta.classes)}, the data set has "
                f"{len(classes)}{named(classes)}: they must be the same (other classes: --finetune)"
            )
        for key in ARCHITECTURE:
            setattr(args, key, meta.args[key])
        return model, meta.normalisation
    args.num_queries = len(classes)
    from_scratch = not args.finetune and args.backbone_weights == "none"
    if args.backbone_norm is None:
        args.backbone_norm = "batch" if from_scratch else "frozen"
    if from_scratch and (args.backbone_norm == "frozen" or args.lr_backbone == 0):
        flag = "--backbone_norm frozen" if args.backbone_norm == "frozen" else "--lr_backbone 0"
        raise ValueError(f"{flag} would freeze random weights: give --backbone_weights or --finetune, or leave it out")
    if args.finetune:
        model, report = load_finetune(args.finetune, args, given(args))
        print(f"--finetune {report}")
    else:
        model = build_model(args)
    return model, model.backbone[0].normalisation


def make_loader(args: argparse.Namespace, dataset: ImageFolder, sampler: Any, device: torch.device) -> DataLoader:
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=min(args.num_workers, len(sampler)),
        worker_init_fn=worker_init,
        generator=torch.Generator(),  # the loader's own draws must not move the state that dropout draws from
        persistent_workers=args.num_workers > 0,
        pin_memory=device.type == "cuda",
    )


def output_folder(args: argparse.Namespace) -> Path:
    return Path(args.output_dir) / args.dataset_name / args.output_sub_dir


def is_same_run(resume: str, folder: Path | None) -> bool:
    """Whether the checkpoint that is resumed lies in the folder that is written to."""
    return bool(resume) and folder is not None and Path(resume).resolve().parent == folder.resolve()


def refuse_to_overwrite(resume: str, checkpoint: dict[str, Any] | None, folder: Path | None) -> None:
    """A ValueError where this run would write over an earlier one, or over later epochs of its own."""
    if folder is None or not (folder / LAST).exists():
        return
    if checkpoint is None or not is_same_run(resume, folder):
        raise ValueError(
            f"{folder / LAST} is there already: go on from it with --resume {folder / LAST}, "
            "or choose another --output_sub_dir; nothing was overwritten"
        )
    if not os.path.samefile(resume, folder / LAST):
        last = read_checkpoint(folder / LAST).get("epoch") or 0
        if last > (checkpoint.get("epoch") or 0):
            raise ValueError(
                f"--resume {resume} would write over the later epochs of {folder / LAST} (up to {last + 1}): "
                "choose another --output_sub_dir; nothing was overwritten"
            )


def named(classes: list[str] | None) -> str:
    return f" ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})" if classes else ""


if __name__ == "__main__":
    launch(main, Parser("main.py", parents=[get_args_parser()], description=__doc__))
