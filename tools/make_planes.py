"""Render a factorial-planes data set, pictures of two aeroplanes, or a contact sheet of the classes.

python -m tools.make_planes --preset f16 --out <datasets> --train 3200 --val 800 --test 800
python -m tools.make_planes --preset f81 --sheet planes.png
python -m tools.make_planes --preset f16 --out <datasets> --pairs 200
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/make_planes.py` works too

import cv2
import numpy as np

from datasets.planes import PARTS, get_preset, render
from datasets.planes.dataset import export
from datasets.planes.pairs import export_pairs
from datasets.planes.presets import Preset
from datasets.planes.renderer import MIN_SIZE
from datasets.rendering import FORMATS, SPLITS
from util.atomic import atomic_write
from util.cli import Parser, launch
from util.number import COUNT, SEED, WHOLE, WORKERS, Number
from util.progress import Progress

MAX_SIZE = 4096
# Colours of the part map, RGB: background, fuselage, wings, nose, engines, wingtip, tail, roundel.
PALETTE = np.array(
    [(20, 20, 28), (150, 150, 150), (95, 95, 95), (230, 60, 60), (250, 170, 30), (60, 180, 75), (60, 120, 230), (220, 60, 220)],
    np.uint8,
)


def get_args_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = Parser("make_planes", description=__doc__)
    parser.add_argument("--preset", default="f16", help="f16, f81, f8, pair-<slot> or shortcut-<rate>")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, help="folder of data sets in which <name> is made")
    output.add_argument("--name", help="name of the data set")
    output.add_argument("--format", default="png", choices=FORMATS, help="png keeps the pictures exact; jpg is smaller")
    pairs_help = "make this many pictures of two aeroplanes, with pairs.json, instead of a data set"
    output.add_argument("--pairs", type=COUNT, help=pairs_help)
    output.add_argument("--sheet", type=Path, help="write a picture with one aeroplane of each class and its parts in colour")
    data = parser.add_argument_group("data")
    data.add_argument("--size", type=Number(int, MIN_SIZE, MAX_SIZE), default=224, help="side of a picture in pixels")
    data.add_argument("--train", type=COUNT, default=3200, help="pictures in train, all classes together")
    data.add_argument("--val", type=WHOLE, default=800, help="pictures in val")
    data.add_argument("--test", type=WHOLE, default=800, help="pictures in test")
    data.add_argument("--seed", type=SEED, default=0, help="the data set is a function of it")
    data.add_argument("--num_workers", type=WORKERS, default=2, help="processes; they do not change the files")
    return parser


def contact_sheet(preset: Preset, size: int, seed: int) -> np.ndarray:
    """Render one aeroplane of each class, with its parts in colour and its name beneath: uint8 [H, W, 3] RGB."""
    count = len(preset.classes)
    columns = min((c for c in range(1, count + 1) if count % c == 0), key=lambda c: abs(c - (count / 2) ** 0.5))
    tiles = []
    for z, (name, variants) in enumerate(preset.classes.items(), start=seed * 1000):
        drawn = render(variants, z, size, roundel=preset.roundel_of(name, z))
        caption = np.full((18, 2 * size, 3), 255, np.uint8)
        cv2.putText(caption, name, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        tiles.append(np.vstack([np.hstack([drawn.image, PALETTE[drawn.parts]]), caption]))
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def _write_sheet(path: Path, preset: Preset, size: int, seed: int) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"--sheet {path}: the name must end in .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as file:
            file.write(cv2.imencode(".png", contact_sheet(preset, size, seed)[..., ::-1])[1].tobytes())
    except OSError as error:
        raise ValueError(f"--sheet {path}: {error.strerror}") from None
    print(f"wrote {path} (parts: {', '.join(PARTS)})")


def _write_data(args: argparse.Namespace, preset: Preset) -> None:
    """Write the pairs or the data set."""
    root = args.out / (args.name or f"planes-{preset.name}" + "-pairs" * (args.pairs is not None))
    counts = {split: getattr(args, split) for split in SPLITS}
    total = sum(counts.values()) if args.pairs is None else args.pairs
    try:
        with Progress(total, f"drawing {root.name}") as line:
            if args.pairs is None:
                made = export(root, preset, args.size, counts, args.seed, args.num_workers, args.format, line.step)
            else:
                made = export_pairs(root, preset, args.pairs, args.size, args.seed, line.step)
    except OSError as error:
        raise ValueError(f"--out {root}: {error.strerror}") from None
    what = f"{len(preset.classes)} classes" if args.pairs is None else f"{args.pairs} pictures and pairs.json"
    print(f"{root}: {'made' if made else 'already there'}, {what}")


def main(args: argparse.Namespace) -> None:
    """Write the sheet, the data set or the pairs, or the sheet and one of them.

    Raises:
        ValueError: settings that cannot be met, or a folder that holds something else.
    """
    if args.out is None and args.sheet is None:
        raise ValueError("nothing to do: give --out for a data set, --sheet for a picture of its classes, or both")
    if args.name is not None and (not args.name or Path(args.name).name != args.name):
        raise ValueError(f"--name '{args.name}': give a plain folder name, without a path")
    preset = get_preset(args.preset)
    if args.sheet is not None:
        _write_sheet(args.sheet, preset, args.size, args.seed)
    if args.pairs is not None and args.out is None:
        raise ValueError("--pairs needs --out: the folder in which <name> is made")
    if args.out is not None:
        _write_data(args, preset)


if __name__ == "__main__":
    launch(main, get_args_parser())
