"""Compose a data set with known object masks of cut-outs: pictures of things with transparency around them.

    python -m tools.make_composites --cutouts <folder of a folder for each class> --backgrounds <photographs> --out <datasets>
    python -m tools.make_composites --cutouts bears cats flowers/rose.png --backgrounds none --sheet composites.png

Each picture shows a cut-out, turned, scaled, mirrored, tilted and recoloured, on a part of a photograph or, with `none`, on a
background that is rendered; each picture of pairs/ shows two, of different classes. An interrupted run continues where it
stopped; a data set that is there already is left as it is. Under torchrun or srun the processes share the pictures.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/make_composites.py` works too

import cv2
import numpy as np

from datasets.prepare.writing import locked
from datasets.rendering import FORMATS
from util.cli import Flags, Parser, launch
from util.distributed import init_distributed
from util.number import COUNT, PART, SEED, SHARE, WHOLE, Number
from util.output_files import check_output_file

MIN_SIZE, MAX_SIZE = 48, 4096
SHADE = 0.25  # of the background, beside a picture of the sheet
SHEET_SIDE, SHEET_CLASSES = 160, 200


def _folder_or_none(text: str) -> Path | None:
    return None if text == "none" else Path(text)


def get_args_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = Parser("make_composites", description=__doc__)
    source = parser.add_argument_group("source")
    cutouts = (
        "cut-outs, images with transparency: a folder of class folders or of files, or several folders and files, each a class"
    )
    source.add_argument("--cutouts", type=Path, nargs="+", required=True, help=cutouts)
    backgrounds = "folder of photographs without these objects, or none: backgrounds are rendered"
    source.add_argument("--backgrounds", type=_folder_or_none, default="none", help=backgrounds)
    share = "share of the cut-outs of each class, and of the photographs, that only val and the pairs show"
    source.add_argument("--val_share", type=PART, default=0.3, help=share)
    source.add_argument("--partial", action="store_true", help="leave out cut-outs that cannot be used")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, help="folder of data sets in which <name> is made: main.py's --dataset_path")
    output.add_argument("--name", default="composites", help="folder to write in it: --dataset_name")
    output.add_argument("--format", default="png", choices=FORMATS, help="png keeps the pictures exact; jpg is smaller")
    output.add_argument("--sheet", type=Path, help="write a picture (.png) with a composite of each class and its mask")
    data = parser.add_argument_group("data")
    data.add_argument("--size", type=Number(int, MIN_SIZE, MAX_SIZE), default=224, help="side of a picture in pixels")
    data.add_argument("--train", type=COUNT, default=2000, help="pictures in train, all classes together")
    data.add_argument("--val", type=WHOLE, default=500, help="pictures in val")
    data.add_argument("--pairs", type=WHOLE, default=200, help="pictures of two objects, in pairs/ with pairs.json")
    data.add_argument("--seed", type=SEED, default=0, help="the data set is a function of it and of the files")
    data.add_argument("--num_workers", type=Number(int, 1, 1024), default=2, help="threads; they do not change the files")
    shortcut = "plant a mark in a corner of the pictures of train and val: their class's with this probability, or else another's"
    data.add_argument("--shortcut", type=SHARE, metavar="RATE", help=shortcut)
    change = parser.add_argument_group("change of the objects")
    scale = "least and most of the longer side of an object, as a share of the picture's side; of two objects 0.7 of that"
    change.add_argument("--scale", type=Number(float, 0.05, 1), nargs=2, default=(0.4, 0.8), metavar=("LOW", "HIGH"), help=scale)
    change.add_argument("--rotation", type=Number(float, 0, 180), default=30.0, help="degrees to either side")
    change.add_argument("--no_flip", dest="flip", action="store_false", help="mirror none, where left and right matter")
    change.add_argument("--perspective", type=Number(float, 0, 0.5), default=0.15, help="shear and tilt, to either side")
    change.add_argument("--brightness", type=SHARE, default=0.3, help="share to either side")
    change.add_argument("--saturation", type=SHARE, default=0.3, help="share to either side")
    change.add_argument("--hue", type=Number(float, 0, 180), default=15.0, help="degrees of the colour circle, to either side")
    return parser


def main(args: Flags) -> None:
    """Write the sheet, the data set, or both.

    Raises:
        ValueError: flags or files that cannot be used, a folder that holds something else, or another process makes the same.
        OSError: a file cannot be read or written.
        RunFailed: another process is gone.
    """
    if args.out is None and args.sheet is None:
        raise ValueError("nothing to do: give --out for a data set, --sheet for a picture of its classes, or both")
    if args.name in ("", ".", "..") or Path(args.name).name != args.name:
        raise ValueError(f"--name {args.name!r} must be the name of one folder, without slashes")
    if args.scale[0] > args.scale[1]:
        raise ValueError(f"--scale {args.scale[0]} {args.scale[1]}: give the smaller one first")
    if args.sheet is not None:
        check_output_file("--sheet", args.sheet, (".png",))
    cv2.setNumThreads(1)
    with init_distributed() as ranks:
        if args.sheet is not None and ranks.main:
            write_sheet(args)
        if args.out is not None:
            from datasets.composites.dataset import prepare_composites  # with torch, which --help does not wait for

            target = args.out / args.name
            with locked(target) if ranks.main else nullcontext():
                prepare_composites(target, ranks, vars(args))


def write_sheet(args: Flags) -> None:
    """Write a picture with a composite of each class, and beside it what its mask marks; raises as `read_sources`."""
    from attribution.report.render import Section, Tile, panel
    from datasets.composites.dataset import open_composer, open_sources, plan_single

    sources, notes = open_sources(vars(args))
    composer = open_composer(args.replace(size=min(args.size, SHEET_SIDE)).__dict__, sources)
    tiles = []
    for z, label in enumerate(sorted(sources.folders)[:SHEET_CLASSES], start=1000 * args.seed):
        image, masks = composer.compose(plan_single(sources, "val", label, z, args.shortcut))
        shaded = np.where(masks.max(0)[..., None], image, np.rint(image * SHADE)).astype(np.uint8)
        counts = [len(sources.cutouts[split][label]) for split in ("train", "val")]
        tiles.append(Tile(np.hstack([image, shaded]), (label, f"cut-outs: {counts[0]} train, {counts[1]} val")))
    title = f"Composites of {len(sources.folders)} classes"
    panel(title, f"the first {len(tiles)}" * (len(tiles) < len(sources.folders)), None, [Section("", tiles)], "").save(args.sheet)
    if args.out is None:
        print(*notes, sep="\n", end="\n" * bool(notes))
    print(f"wrote {args.sheet}")


if __name__ == "__main__":
    launch(main, get_args_parser(), shared=True)
