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
from models import ARCHITECTURE, ICN, build_model, load_checkpoint, load_finetune
from models.checkpoint import VERSION, read_checkpoint
from util.checkpoint import BEST, LAST, milestone, rng_state, save_checkpoint, set_rng_state
from util.cli import Parser, launch, select_device
from util.logging import RunLog
from util.metrics import describe
from util.optimizer import learning_rate, make_optimizer, restore_optimizer
from util.progress import clock
from util.results import write_results

# Flags that say how to train, not where things are: a resumed run takes them from its checkpoint unless they are given.
INPUT = ("image_size", "square")
RECIPE = (
    *("lr", "lr_backbone", "min_lr", "weight_decay", "batch_size", "epochs", "lr_drop", "lr_scheduler", "clip_max_norm"),
    *("dropout", "seed", "crop_min", "hflip", *INPUT),
)


def get_args_parser() -> argparse.ArgumentParser:
    """All flags of training and evaluation, with INTR's names and defaults; no help flag, to be a parent parser."""
    parser = Parser("main.py", add_help=False)
    add_model_flags(parser)
    add_data_flags(parser)

    group = parser.add_argument_group("training")
    group.add_argument("--lr", default=5e-5, type=float, help="learning rate of everything but the backbone")
    group.add_argument("--min_lr", default=1e-6, type=float, help="last learning rate of CosineAnnealingLR")
    group.add_argument("--weight_decay", default=1e-6, type=float, help="weight decay of AdamW")
    group.add_argument("--epochs", default=140, type=int, help="epochs in all, those before a resume included")
    group.add_argument("--lr_drop", default=80, type=int, help="StepLR: a tenth of the rate after so many epochs")
    group.add_argument("--lr_scheduler", default="StepLR", choices=["StepLR", "CosineAnnealingLR"], help="course of the rate")
    group.add_argument("--clip_max_norm", default=0.1, type=float, help="largest norm of the gradients; 0 does not clip")
    group.add_argument("--noise_frac", default=0.1, type=float, help="noise in queries that repeat those of --finetune")
    group.add_argument("--finetune", default="", help="start from the weights of a DETR, INTR or ICN file (path or URL)")
    group.add_argument("--start_epoch", default=0, type=int, metavar="N", help="first epoch; --resume sets it")
    group.add_argument("--seed", default=42, type=int, help="of weights, data order, augmentation and dropout")
    group.add_argument("--crop_min", default=0.08, type=float, help="--square: smallest random crop, as a share of the area")
    group.add_argument("--hflip", default=0.5, type=float, help="probability of a random horizontal flip")

    group = parser.add_argument_group("run")
    group.add_argument("--eval", action="store_true", help="score the checkpoint of --resume and stop")
    group.add_argument("--resume", default="", help="go on from, or score, this checkpoint (ICN's or INTR's; path or URL)")
    group.add_argument("--output_sub_dir", default="output_sub", help="results: <output_dir>/<dataset_name>/<output_sub_dir>")
    group.add_argument("--tensorboard", action="store_true", help="also write TensorBoard's files")
    return parser


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the architecture. A checkpoint knows them: next to --resume they may only agree with it."""
    group = parser.add_argument_group("model")
    group.add_argument("--backbone", default=ARCHITECTURE["backbone"], help="a torchvision ResNet or a timm model, by name")
    group.add_argument("--backbone_weights", default="none", metavar="none|default|FILE", help="weights to train from")
    group.add_argument(
        "--backbone_norm",
        choices=["frozen", "batch"],
        help="batch norms: fixed as in DETR, or learned; None: learned when training from scratch, else fixed",
    )
    group.add_argument("--lr_backbone", default=1e-5, type=float, help="learning rate of the backbone; 0 freezes it")
    group.add_argument("--dilation", action="store_true", help="the last stage keeps its resolution (DC5)")
    group.add_argument("--feature_stride", type=int, help="pixels per cell of the map; None: that of the last stage")
    group.add_argument(
        "--position_embedding", default=ARCHITECTURE["position_embedding"], choices=["sine", "learned"], help="of the encoder"
    )
    group.add_argument("--enc_layers", default=ARCHITECTURE["enc_layers"], type=int, help="encoder layers")
    group.add_argument("--dec_layers", default=ARCHITECTURE["dec_layers"], type=int, help="decoder layers")
    group.add_argument("--dim_feedforward", default=ARCHITECTURE["dim_feedforward"], type=int, help="width of the feed-forward")
    group.add_argument("--hidden_dim", default=ARCHITECTURE["hidden_dim"], type=int, help="width of the transformer")
    group.add_argument("--dropout", default=0.1, type=float, help="dropout in the transformer")
    group.add_argument("--nheads", default=ARCHITECTURE["nheads"], type=int, help="attention heads")
    group.add_argument("--num_queries", type=int, help="number of classes; None: that of the data or the checkpoint")
    group.add_argument("--pre_norm", action="store_true", help="normalise before each step, not after it")


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say which images are read, how large, and where the results go."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset_path", default="datasets", help="folder of data sets")
    group.add_argument("--dataset_name", default="cub", help="<dataset_path>/<dataset_name>/{train,val,test}/<class>/<image>")
    group.add_argument("--test", default="val", choices=["val", "test"], help="the split that is scored")
    group.add_argument("--batch_size", default=12, type=int, help="images per step")
    group.add_argument("--num_workers", default=2, type=int, help="processes that load images; 0: none but this one")
    group.add_argument("--image_size", default=800, type=int, help="short side in pixels (the long one: up to 5/3 of it)")
    group.add_argument("--square", action="store_true", help="images of image_size x image_size")
    group.add_argument("--output_dir", default="output", help="folder of the results; '' writes nothing")
    group.add_argument("--device", default="cuda", help="cuda (falls back to cpu), cuda:<index> or cpu")
    group.add_argument("--world_size", default=1, type=int, help="number of processes (one is supported)")
    group.add_argument("--dist_url", default="env://", help="how processes find each other (accepted, not needed for one)")


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Train, or score with --eval; returns the numbers of the last epoch or of the evaluation.

    Raises:
        ValueError: what the user can mend, in one line.
    """
    check_flags(args)
    torch.manual_seed(args.seed)
    device = select_device(args.device)
    return score(args, device) if args.eval else train(args, device)


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that contradict each other or that nothing can be done with."""
    if args.resume and args.finetune:
        raise ValueError("--resume goes on with a run, --finetune starts one from other weights: give one of them")
    if args.eval and not args.resume:
        raise ValueError("--eval needs --resume <checkpoint>: there is nothing to score")
    if (args.resume or args.finetune) and "backbone_weights" in args.given:
        raise ValueError("--backbone_weights: the file of --resume or --finetune brings the backbone's weights; leave it out")
    if args.world_size > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("several processes are not supported: start one, with --world_size 1 and without a launcher")
    for name in ("epochs", "lr_drop", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)} must be at least 1")
    for name in ("lr", "lr_backbone", "min_lr", "weight_decay", "clip_max_norm", "noise_frac", "num_workers", "start_epoch"):
        if not getattr(args, name) >= 0:
            raise ValueError(f"--{name} {getattr(args, name)} must not be negative")


def score(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """`--eval`: loss and accuracies of a checkpoint, and with --output_dir who was taken for whom."""
    model, meta = load_checkpoint(args.resume, device, given(args))
    adopt(args, meta.args, INPUT)
    classes = meta.classes or class_names(args.dataset_path, args.dataset_name, args.test, model.num_classes)
    dataset = open_split(args.dataset_path, args.dataset_name, args.test, classes, eval_transform(args.image_size, args.square))
    model.to(memory_format=torch.channels_last)
    loader = make_loader(args, dataset, EvalSampler(len(dataset), args.batch_size), device)
    found = evaluate(model, loader, device, meta.normalisation, len(classes), args.test)
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
    transform = train_transform(args.image_size, args.square, args.crop_min, args.hflip)
    train_set = open_split(args.dataset_path, args.dataset_name, "train", None, transform)
    classes = train_set.classes
    val_set = open_split(args.dataset_path, args.dataset_name, args.test, classes, eval_transform(args.image_size, args.square))
    model, normalisation = make_model(args, classes, checkpoint)
    folder = output_folder(args) if args.output_dir else None
    if folder is not None and (folder / LAST).exists() and not is_same_run(args.resume, folder):
        raise ValueError(
            f"{folder / LAST} is there already: go on from it with --resume {folder / LAST}, "
            "or choose another --output_sub_dir; nothing was overwritten"
        )
    verify_images([*train_set.paths, *val_set.paths], workers=max(1, args.num_workers))

    model.to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, args.lr, args.lr_backbone, args.weight_decay)
    best: dict[str, Any] = {"acc1": None, "epoch": None}
    step = 0
    if checkpoint is not None:
        args.start_epoch = checkpoint["epoch"] + 1 if isinstance(checkpoint.get("epoch"), int) else args.start_epoch
        best, step = checkpoint.get("best") or best, checkpoint.get("step") or 0
        if checkpoint.get("optimizer"):
            restore_optimizer(optimizer, checkpoint["optimizer"])
        if checkpoint.get("rng"):
            set_rng_state(checkpoint["rng"][0])
        print(f"going on from {args.resume} at epoch {args.start_epoch + 1} of {args.epochs}")
    if args.start_epoch >= args.epochs:
        print(f"nothing left to train: {args.start_epoch} epochs are done and --epochs is {args.epochs}")
        return {"epoch": args.start_epoch - 1, "step": step, "best_acc1": best["acc1"]}

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
                group["base_lr"], epoch, args.lr_scheduler, lr_drop=args.lr_drop, epochs=args.epochs, min_lr=args.min_lr
            )
        try:
            trained = train_one_epoch(
                model, train_loader, optimizer, device, epoch, args.epochs, normalisation, len(classes), args.clip_max_norm
            )
        except FloatingPointError as error:
            kept = f"the last good checkpoint is {folder / LAST}" if folder and (folder / LAST).exists() else "none was saved yet"
            raise SystemExit(f"main.py: error: {error}; {kept}; try a smaller --lr") from None
        step += len(sampler)
        found = evaluate(model, val_loader, device, normalisation, len(classes), args.test).stats
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
        log.epoch(line)
    log.close()
    where = f"; checkpoints and log.txt: {folder}" if folder else ""
    print(f"trained for {clock(time.monotonic() - start)}, best acc@1 {best['acc1']:.2f} % in epoch {best['epoch'] + 1}{where}")
    return line


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
    if args.backbone_norm is None:
        args.backbone_norm = "frozen" if args.finetune or args.backbone_weights != "none" else "batch"
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
        num_workers=args.num_workers,
        worker_init_fn=worker_init,
        generator=torch.Generator(),  # the loader's own draws must not move the state that dropout draws from
        persistent_workers=args.num_workers > 0,
        pin_memory=device.type == "cuda",
    )


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The flags that the user typed."""
    return {key: getattr(args, key) for key in args.given}


def adopt(args: argparse.Namespace, source: dict[str, Any], names: Any) -> None:
    """Take the flags `names` from a checkpoint's, unless the user typed them."""
    for name in names:
        if name not in args.given and source.get(name) is not None:
            setattr(args, name, source[name])


def output_folder(args: argparse.Namespace) -> Path:
    return Path(args.output_dir) / args.dataset_name / args.output_sub_dir


def is_same_run(resume: str, folder: Path) -> bool:
    return bool(resume) and Path(resume).resolve().parent == folder.resolve()


def named(classes: list[str] | None) -> str:
    return f" ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})" if classes else ""


if __name__ == "__main__":
    launch(main, Parser("main.py", parents=[get_args_parser()], description=__doc__))
