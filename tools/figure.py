"""Draw a figure for a paper: `python -m tools.figure --resume <checkpoint.pth> --classes A B --columns heads --out fig.pdf`

Each row is a photograph. The columns are the heads of the attention of its class, the maps of several classes, or the maps of
several methods. Without --photos images of each class are taken from the data set, those that are classified right before others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/figure.py` works too

import cv2
import numpy as np
import torch

from attribution.methods.registry import METHODS, drawn_methods, methods_of
from attribution.report.overlay import Scale, at_pixels, common_scale, fit, overlay, own_scale
from attribution.report.panels import compute_maps
from attribution.report.paper import COLUMN, draw_grid
from datasets import open_split
from datasets.decode import set_decoding
from datasets.photographs import find_photographs, photograph_batches
from flags import add_data_flags
from predictor import Predictor
from util.classes import find_classes
from util.cli import Flags, Parser, launch
from util.number import COUNT, Number
from util.output_files import check_output_file
from util.progress import Progress

PROG = "python -m tools.figure"
SUFFIXES = (".pdf", ".svg", ".png", ".eps")
LONGEST = 512  # pixels of a photograph's long side in the figure
HEADS, CLASSES, BY_METHOD = "heads", "classes", "methods"


class Row(NamedTuple):
    """A photograph and the class that is explained."""

    path: Path
    label: int


def get_args_parser() -> Parser:
    """Return the flags."""
    parser = Parser(PROG, description=__doc__)
    group = parser.add_argument_group("figure")
    group.add_argument("--resume", required=True, help="the checkpoint (ICN's or INTR's; path, URL or hf://owner/repo)")
    group.add_argument(
        "--classes", nargs="+", default=[], metavar="CLASS", help="indices or names, with spaces or commas between"
    )
    group.add_argument("--columns", default=HEADS, choices=(HEADS, CLASSES, BY_METHOD), help="what differs from column to column")
    group.add_argument("--methods", nargs="+", metavar="METHOD", help="names of attribution.METHODS; None: the model's own maps")
    group.add_argument("--photos", nargs="+", metavar="PHOTO", help="files, folders or patterns; None: images of the data set")
    group.add_argument("--per_class", default=2, type=COUNT, help="images of each class that are taken from the data set")
    group.add_argument("--out", required=True, type=Path, metavar="FILE", help="PDF, SVG, EPS or PNG")
    group.add_argument("--width", default=COLUMN, type=Number(float, 1, 100), help="inches; one column of two: 3.25, both: 6.875")
    group.add_argument("--own_scale", action="store_true", help="scale each map alone, instead of all of a row alike")
    group.add_argument("--grid", action="store_true", help="draw the cells as they are, without interpolation")
    add_data_flags(parser)
    parser.set_defaults(batch_size=1)
    return parser


def main(args: Flags) -> None:
    """Draw the figure; raise a ValueError for a wrong flag or file."""
    cv2.setNumThreads(1)
    check_output_file("--out", args.out, SUFFIXES)
    set_decoding(args.bit_depth, args.max_image_mb)
    predictor = Predictor.from_checkpoint(args.resume, args.device)
    try:
        classes = find_classes(args.classes, predictor.classes)
    except ValueError as error:
        raise ValueError(f"--classes: {error}") from None
    methods = chosen_methods(args, predictor)
    rows = chosen_rows(args, predictor, classes)
    labels, images = [], []
    with Progress(len(rows), "drawing") as progress:
        for row, cells, names in explain_rows(args, predictor, rows, classes, methods):
            images.append(draw_row(args, row, cells, methods))
            labels.append(["photograph", *names])
            progress.step()
    draw_grid(args.out, images, [predictor.classes[row.label] for row in rows], labels[0], args.width)
    print(f"{len(rows)} rows of {len(labels[0])} images: {args.out}")


def chosen_methods(args: Flags, predictor: Predictor) -> list[str]:
    """Return the methods of the columns; a ValueError where one has no map for this model."""
    model = predictor.model
    if args.columns == HEADS and not model.num_decoder_layers:
        raise ValueError(f"--columns heads: the {model.decoder_name} decoder has no attention; choose classes or methods")
    if args.columns == HEADS:
        return ["attention"]
    names = args.methods or [model.decoder_spec.default_map]
    if args.columns == BY_METHOD and args.methods is None:
        names = [
            method.name for method in methods_of(model) if method.family == "own" and not method.needs and not method.variant_of
        ]
    chosen = drawn_methods("--methods", model, names)
    if args.columns == CLASSES and len(chosen) > 1:
        raise ValueError("--columns classes: give one method")
    return chosen


def chosen_rows(args: Flags, predictor: Predictor, classes: Sequence[int]) -> list[Row]:
    """Return the photographs, each with the class that its row explains: that of its folder, or the predicted one."""
    if args.photos is not None:
        paths = find_photographs(args.photos, sys.stdin)
        best = {place: result for place, result in predictor.stream(paths, 1, workers=0)}
        if bad := [result for result in best.values() if isinstance(result, str)]:
            raise ValueError(bad[0])
        return [Row(path, predictor.classes.index(best[place].names[0])) for place, path in enumerate(paths)]  # type: ignore[union-attr]
    if not classes:
        raise ValueError("--classes is missing: name the classes whose images are drawn, or give --photos")
    rows = []
    for index in classes:
        split = open_split(args.dataset_path, args.dataset_name, args.test, predictor.classes, only_class=index)
        right = predicted_right(predictor, split.paths[: 20 * args.per_class], index)
        rows += [Row(path, index) for path in right[: args.per_class]]
    return rows


def predicted_right(predictor: Predictor, paths: Sequence[Path], index: int) -> list[Path]:
    """Return paths, those first that are predicted as the class; a ValueError for one that cannot be read."""
    right: dict[int, bool] = {}
    for place, result in predictor.stream(paths, 1, workers=0):
        if isinstance(result, str):
            raise ValueError(result)
        right[place] = result.names[0] == predictor.classes[index]
    return [paths[place] for place in sorted(right, key=lambda place: (not right[place], place))]


def explain_rows(
    args: Flags, predictor: Predictor, rows: Sequence[Row], classes: Sequence[int], methods: Sequence[str]
) -> Iterator[tuple[tuple[np.ndarray, tuple[int, int]], list[np.ndarray], list[str]]]:
    """Yield of each row the photograph with the size of the network's input, its maps `[h, w]`, and their names."""
    model = predictor.model
    for row in rows:
        (batch,) = photograph_batches([row.path], predictor.transform, 1, 0, originals=True, decoding=predictor.decoding)
        if batch.images is None:
            raise ValueError(batch.errors[0])
        (photograph,) = batch.photographs
        assert photograph.original is not None
        images = batch.images.to(predictor.device).normalise(**predictor.normalisation)
        wanted = list(classes) if args.columns == CLASSES and classes else [row.label]
        indices = torch.tensor([wanted], device=predictor.device)
        maps = [
            compute_maps(model, images, None, indices, method)[0].float().cpu().numpy() for method in methods
        ]  # [Q, heads, h, w]
        if args.columns == HEADS:
            cells, names = list(maps[0][0]), head_labels(len(maps[0][0]))
        elif args.columns == CLASSES:
            cells, names = list(maps[0].mean(1)), [predictor.classes[index] for index in wanted]
        else:
            cells, names = [each[0].mean(0) for each in maps], list(methods)
        picture = fit(photograph.original.permute(1, 2, 0).numpy(), LONGEST, enlarge=False)
        yield (picture, (images.shape[2], images.shape[3])), cells, names


def head_labels(count: int) -> list[str]:
    """Return the labels of the columns of heads: numbers alone where columns are narrow."""
    return [f"head {head}" if count < 10 else str(head) for head in range(count)]


def draw_row(
    args: Flags, photograph: tuple[np.ndarray, tuple[int, int]], maps: Sequence[np.ndarray], methods: Sequence[str]
) -> list[np.ndarray]:
    """Draw a photograph and the maps over it, on one scale unless they are of several methods."""
    picture, size = photograph
    drawn = [picture]
    for place, cells in enumerate(maps):
        signed = METHODS[methods[place if args.columns == BY_METHOD else 0]].signed
        scale: Scale = own_scale(cells, signed)
        if not args.own_scale and args.columns != BY_METHOD:
            scale = common_scale(np.stack(maps), signed)
        drawn.append(overlay(picture, at_pixels(cells[None], size, size, picture.shape[:2], cells=args.grid)[0], scale))
    return drawn


if __name__ == "__main__":
    launch(main, get_args_parser())
