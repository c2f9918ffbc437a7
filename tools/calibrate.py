"""Calibrate a checkpoint on images that it was not trained on: `python -m tools.calibrate --resume <checkpoint.pth> ...`

Keeps in it the thresholds by which it says "none of the known classes" and gives conformal sets. Training does so by itself,
after every epoch: this is for checkpoints of earlier versions and of INTR, for other images, and for another score.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/calibrate.py` works too

import cv2
import torch
from torch import Tensor

import engine
from datasets import ImageFolder, class_names, open_split, set_decoding
from datasets.loaders import build_eval_loader
from datasets.transforms import eval_transform
from flags import add_data_flags, add_model_flags, explicit_flags, fill_from_checkpoint
from models import ICN, ICNOutput, for_inference, load_checkpoint
from models.checkpoint_format import WEIGHTS
from models.reading import read_file
from models.saving import describe, save_folder, save_weights
from models.thresholds import RANKED, SCORE, SCORES, Thresholds, measure_batch
from models.unknown import DISTANCE, Mahalanobis, pool
from util.atomic import atomic_write, replacing
from util.cli import Flags, Parser, launch
from util.device import select_device
from util.errors import RunFailed
from util.precision import select_precision

PROG = "python -m tools.calibrate"
INPUT = ("image_size", "square", "bit_depth")  # flags by which the images of a prediction are made: the checkpoint's


def get_args_parser() -> Parser:
    """Return the flags."""
    parser = Parser(PROG, description=__doc__)
    parser.add_argument(
        "--resume", required=True, help="the checkpoint, which is rewritten (a file, or a folder of tools.export)"
    )
    parser.add_argument(
        "--score", default=SCORE, choices=SCORES, help="by which images are refused; the last one needs the training images"
    )
    add_model_flags(parser)
    add_data_flags(parser)
    return parser


def main(args: Flags) -> Thresholds:
    """Calibrate, write the thresholds into the checkpoint, and return them; a ValueError is raised for a wrong flag or file."""
    cv2.setNumThreads(1)  # OpenCV's own threads do not survive the fork of a loader
    path = check_writable(args.resume, args.score)
    device = select_device(args.device)
    model, meta = load_checkpoint(path, device, explicit_flags(args))
    classes = meta.classes or class_names(args.dataset_path, args.dataset_name, args.test, model.num_classes)
    for name in INPUT:
        if name in args.explicit and getattr(args, name) != meta.args.get(name, getattr(args, name)):
            raise ValueError(f"--{name} {getattr(args, name)}: predictions are made with {meta.args[name]}: leave the flag out")
    args = fill_from_checkpoint(args, meta.args)
    precision = select_precision(args.precision, device)
    set_decoding(args.bit_depth, args.max_image_mb)
    transform = eval_transform(args.image_size, args.square)

    def open_images(name: str) -> ImageFolder:
        return open_split(args.dataset_path, args.dataset_name, name, classes, transform)

    split = open_images(args.test)
    inference = for_inference(model, precision.dtype)

    def evaluate(images: ImageFolder, name: str, measure: Callable[[ICNOutput, Tensor], Tensor]) -> engine.Evaluation:
        loader = build_eval_loader(args, images, device)
        return engine.evaluate(
            inference, loader, device, meta.normalisation, model.num_classes, name, precision, loss=model.loss, measure=measure
        )

    gaussians = None
    if args.score == DISTANCE:
        train = open_images("train")
        found = evaluate(train, "train", lambda output, labels: pool(output.features))
        features, labels = torch.from_numpy(found.measured), torch.from_numpy(found.labels)
        gaussians = vars(Mahalanobis.fit(features, labels, model.num_classes))
    measure = partial(measure_batch, loss=model.loss, score=args.score, ranked=RANKED, gaussians=gaussians)
    evaluation = evaluate(split, args.test, measure)
    thresholds = Thresholds.fit(evaluation.measured, args.test, split.fingerprint(), args.score, gaussians)
    model.meta = replace(meta, thresholds=thresholds.entry())
    try:
        write(path, model)
    except OSError as error:
        raise RunFailed(f"{path} cannot be written ({error.strerror or error}); it is as it was") from error
    print(f"{len(split)} images of {args.test}, score {args.score}: {thresholds.test(evaluation.measured, split.fingerprint())}")
    print(f"thresholds written into {path}")
    return thresholds


def check_writable(resume: str, score: str) -> Path:
    """Return the file of --resume that is to be rewritten; a ValueError where that is not possible."""
    path = Path(resume)
    file = path / WEIGHTS if path.is_dir() else path
    if "://" in resume:
        raise ValueError(f"--resume {resume}: thresholds are kept in the checkpoint: give a file here, not an address")
    if file.suffix != ".safetensors":
        content = read_file(file)
        if not isinstance(content, dict) or "version" not in content:
            advice = f"python -m tools.export --resume {path} --to safetensors --out model.safetensors"
            raise ValueError(f"--resume {path} was not written by ICN and stays as it is: calibrate a copy ({advice})")
    elif score == DISTANCE:
        raise ValueError(f"--score {score} needs Gaussians, which are kept in .pth files alone: give one, or another score")
    if not os.access(file.parent, os.W_OK):
        raise ValueError(f"--resume {path}: the folder {file.parent} is read-only: copy the checkpoint elsewhere")
    return path


def write(path: Path, model: ICN) -> None:
    """Write the thresholds of `model.meta` into its checkpoint, in one step (OSError)."""
    assert model.meta is not None
    if path.is_dir():
        save_folder(path, model, path.resolve().name)
    elif path.suffix == ".safetensors":
        with replacing(path) as temporary:
            save_weights(temporary, model, describe(model.meta))
    else:
        content = {**read_file(path), "thresholds": model.meta.thresholds}
        with atomic_write(path, "wb", durable=True) as file:
            torch.save(content, file)


if __name__ == "__main__":
    launch(main, get_args_parser())
