"""Measure maps on grids of images of different classes: `python -m tools.grid --resume <checkpoint.pth> --dataset_path ...`

GridPG, DiFull and DiPart (Rao et al., CVPR 2022): how much of the map of a class lies on its own image. Writes grid.json,
grid.md, grid.png and grid.jpg to --output_dir, by default `grid_<split>` beside the checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/grid.py` works too

import cv2
import torch
from torch import Tensor

from attribution.evaluation.grids import SETTINGS, Candidates, choose_images, draw_grids, join, measure_grids
from attribution.evaluation.harness import Harness
from attribution.evaluation.protocol import QUICK, choose_methods, score_split
from attribution.methods.registry import METHODS, Method
from attribution.report.grids import summarise, write_example, write_grids
from datasets import ImageFolder, collate, open_split, set_decoding
from datasets.loaders import build_eval_loader
from datasets.transforms import CentreSquare, eval_transform
from flags import add_data_flags, add_model_flags
from models import ICN, for_inference
from tools.opening import open_checkpoint
from util.cli import Flags, Parser, comma_separated, launch
from util.device import select_device
from util.errors import did_you_mean
from util.number import COUNT, SEED, SHARE, Number
from util.precision import select_precision
from util.ranks import SINGLE_PROCESS
from util.results_folder import expand_job_id, results_folder
from util.tables import markdown_table

PROG = "python -m tools.grid"
SIDE = Number(int, 2, 10)  # images along a side of a grid
MIN_SIDE = 32  # pixels of an image


def get_args_parser() -> Parser:
    """Return the flags of the grids, the model and the data."""
    parser = Parser(PROG, description=__doc__)
    group = parser.add_argument_group("grids")
    group.add_argument("--resume", required=True, help="the checkpoint (ICN's or INTR's; path, URL or hf://owner/repo)")
    group.add_argument(
        "--methods", type=comma_separated, help="maps to measure, with commas between; controls are added; None: all"
    )
    group.add_argument("--ours", help="the map that represents ICN; None: that of the decoder")
    group.add_argument("--sizes", nargs="+", default=[2, 3], type=SIDE, metavar="N", help="images along a side of a grid")
    group.add_argument("--grids", default=500, type=COUNT, help="number of grids of each size")
    choice = f"what a logit can depend on, with commas between: {', '.join(SETTINGS)}"
    group.add_argument("--settings", default=["gridpg"], type=comma_separated, help=choice)
    group.add_argument("--confidence", default=0.99, type=SHARE, help="least probability of the true class, of the image alone")
    group.add_argument("--seed", default=0, type=SEED, help="of the choice of images, and of random maps and masks")
    add_model_flags(parser)
    add_data_flags(parser)
    parser.set_defaults(batch_size=16)
    return parser


def main(args: Flags) -> dict[str, Any]:
    """Measure, write, and return the content of grid.json; a ValueError is raised for a wrong flag or file."""
    cv2.setNumThreads(1)  # OpenCV's own threads do not survive the fork of a loader
    args = expand_job_id(args)
    if unknown := [setting for setting in args.settings if setting not in SETTINGS]:
        raise ValueError(
            f"--settings {unknown[0]} is unknown: choose from {', '.join(SETTINGS)}{did_you_mean(unknown[0], SETTINGS)}"
        )
    device = select_device(args.device, float64=True)
    opened = open_checkpoint(args, device)
    args, model, meta, classes = opened
    folder = opened.results("grid")
    harness, split, scored, load = open_images(args, model, classes, meta.normalisation, device)
    methods, ours = choose_methods(model, args.methods, args.ours, harness.budget, truth=())
    candidates = choose_images(scored["probability"], scored["predicted"], split.labels, args.confidence, max(args.sizes) ** 2)
    report_choice(candidates, args.confidence)
    with results_folder(folder, "grid.json"):
        results = []
        for setting in dict.fromkeys(args.settings):
            for n in sorted(set(args.sizes)):
                grids = draw_grids(candidates, n, args.grids, args.seed)
                shares = measure_grids(harness, methods, grids, load, split.labels, setting, args.batch_size)
                entries = {
                    method.name: {
                        "label": method.title,
                        "family": method.family,
                        **summarise(shares[method.name].flatten().numpy()),
                        "shares": shares[method.name],
                    }
                    for method in methods
                }
                results.append({"setting": setting, "n": n, "grids": len(grids), "methods": entries})
        content = {"settings": describe(args, model, meta.args, candidates, split), "ours": ours, "results": results}
        write_grids(content, folder)
        draw_example(harness, METHODS[ours], draw_grids(candidates, max(args.sizes), 1, args.seed)[0], split, load, folder)
    print_summary(content)
    print(f"{folder / 'grid.md'}, and grid.json, grid.png and grid.jpg beside it")
    return content


def open_images(
    args: Flags, model: ICN, classes: Sequence[str], normalisation: dict[str, list[float]], device: torch.device
) -> tuple[Harness, ImageFolder, dict[str, Tensor], Callable[[Sequence[int]], Tensor]]:
    """Score the split's images as they will be in the grids.

    Returns:
        What makes maps, the images, `score_split` of them, and a function from places to images, normalised `[N, 3, H, H]`.
    """
    stride: int = model.backbone[0].stride  # type: ignore[assignment]
    side = args.image_size // stride * stride  # so that no cell lies on a border
    if side < MIN_SIDE:
        raise ValueError(f"--image_size {args.image_size} is below {MIN_SIDE} pixels, in cells of {stride}: too small for a grid")
    set_decoding(args.bit_depth, args.max_image_mb)
    transform = eval_transform(side, True) if args.square else CentreSquare(side)
    split = open_split(args.dataset_path, args.dataset_name, args.test, classes, transform)
    precision = select_precision(args.precision, device)
    inference = for_inference(model)
    scorer = inference if precision.dtype == torch.float32 else for_inference(model, precision.dtype)

    def score(images: Tensor) -> Tensor:
        with torch.no_grad(), precision.autocast():
            return scorer.probabilities(scorer(images).logits)

    def load(places: Sequence[int]) -> Tensor:
        return collate([split[place] for place in places]).to(device).normalise(**normalisation)

    loader = build_eval_loader(args, split, device)
    scored = score_split(score, loader, normalisation, len(split), len(classes), device, SINGLE_PROCESS)
    budget = replace(QUICK, costly_images=None)
    harness = Harness(
        model, inference, score, scored["siblings"], budget, frozenset(), batch_size=args.batch_size, seed=args.seed
    )
    return harness, split, scored, load


def report_choice(candidates: Candidates, confidence: float) -> None:
    """Print how many images the grids are made of, and whether they reach the confidence."""
    images, classes = sum(map(len, candidates.by_class.values())), len(candidates.by_class)
    print(f"grids of {images} images of {classes} classes that are classified right with p >= {confidence:g}", end="")
    few = f", {candidates.below} of them with less (p >= {candidates.lowest:.3f}), of classes where few reach it"
    print(few if candidates.below else "", flush=True)


def describe(args: Flags, model: ICN, saved: dict[str, Any], candidates: Candidates, split: ImageFolder) -> dict[str, Any]:
    """Return what the numbers depend on, beside the weights and the files."""
    side = split.transform.image_size  # type: ignore[union-attr]
    return {
        "checkpoint": Path(args.resume).name, "decoder": model.decoder_name, "dataset": args.dataset_name, "split": args.test,
        "side": side, "square": args.square, "sizes": sorted(set(args.sizes)), "settings": args.settings, "grids": args.grids,
        "confidence": args.confidence, "below": candidates.below, "lowest": candidates.lowest,
        "images": sum(map(len, candidates.by_class.values())), "classes": len(candidates.by_class), "seed": args.seed,
        "mosaic": saved.get("mosaic", 0.0), "precision": args.precision,
    }  # fmt: skip


def draw_example(
    harness: Harness,
    method: Method,
    grid: Sequence[int],
    split: ImageFolder,
    load: Callable[[Sequence[int]], Tensor],
    folder: Path,
) -> None:
    """Draw the maps of all classes of one grid."""
    pixels = join(torch.stack([split[place][0] for place in grid])[None])[0].permute(1, 2, 0).contiguous().numpy()
    classes = torch.tensor([[split.labels[place] for place in grid]])
    images = join(load(grid)[None])
    maps = harness.maps_of_classes(method, images, classes.to(images.device))[0].cpu().float().numpy()
    names = [split.classes[index] for index in classes[0].tolist()]
    write_example(pixels, maps, names, f"{method.title}: maps of the classes of one grid", folder / "grid.jpg")


def print_summary(content: dict[str, Any]) -> None:
    """Print the means as a table."""
    results = content["results"]
    heads = ["map", *(f"{result['setting']} {result['n']} x {result['n']}" for result in results)]
    rows = [
        [x["label"], *(f"{result['methods'][name]['mean']:.3f}" for result in results)]
        for name, x in results[0]["methods"].items()
    ]
    rows.append(["uniform", *(f"{1 / result['n'] ** 2:.3f}" for result in results)])
    print(markdown_table(heads, rows, text_columns=1))


if __name__ == "__main__":
    launch(main, get_args_parser())
